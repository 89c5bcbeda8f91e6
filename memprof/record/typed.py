"""Whether values read from a file are what the annotations of their class say."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

_T = TypeVar("_T")
_Check = Callable[[Any], bool]


def typed(value: _T) -> _T:
    """Give a value back whose fields are of the types they are annotated with, to any depth.

    Args:
        value: A dataclass of this package.

    Returns:
        The value.

    Raises:
        TypeError: A field is of another type.
    """
    kind: Any = type(value)
    if not _check_of(kind)(value):
        for name, hint in typing.get_type_hints(kind).items():
            if not _check_of(hint)(getattr(value, name)):
                raise TypeError(f"`{name}` of {kind.__name__} is not what it should be")
    return value


@cache
def _check_of(hint: Any) -> _Check:
    """What tells whether a value is of a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return lambda _: True
    if origin in (typing.Union, types.UnionType):
        checks = tuple(map(_check_of, inner))
        return lambda value: any(check(value) for check in checks)
    if origin is tuple and inner[-1] is Ellipsis:
        each = _check_of(inner[0])
        return lambda value: isinstance(value, tuple) and all(map(each, value))
    if origin is tuple:
        of_place = tuple(map(_check_of, inner))
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(of_place)
            and all(check(item) for check, item in zip(of_place, value, strict=True))
        )
    if origin is dict:
        key, of_key = map(_check_of, inner)
        return lambda value: isinstance(value, dict) and all(map(key, value)) and all(map(of_key, value.values()))
    if dataclasses.is_dataclass(hint) or hasattr(hint, "_fields"):
        return _of_fields(hint)
    accepted = (int, float) if hint is float else hint
    return lambda value: isinstance(value, accepted)


def _of_fields(kind: Any) -> _Check:
    """What tells whether a value is of a class with annotated fields, and these are what they should be."""
    hints = typing.get_type_hints(kind)
    checks = tuple(map(_check_of, hints.values()))
    fields = tuple(zip(hints, checks, strict=True))
    return lambda value: isinstance(value, kind) and all(check(getattr(value, name)) for name, check in fields)
