"""What a test's own fixtures and instance hold: it goes with the test, so it is no leak."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest

_MOST_OBJECTS = 100_000
_NOT_OWN = (ModuleType, type, FunctionType, FrameType, CodeType)
"""What leads from a value to the whole program; not followed."""


@dataclass(frozen=True, slots=True)
class FixtureValue:
    """Tensors that one fixture's value, or the test's instance, holds.

    Attributes:
        own: It was made for this test alone and goes with it.
        text: What holds them, in one phrase.
        tensors: Those found, looking at no more than 100,000 objects.
    """

    own: bool
    text: str
    tensors: list[Any]


def fixture_values(item: pytest.Item) -> list[FixtureValue]:
    """What the fixtures and the instance of a test hold.

    Args:
        item: A test that has been set up.

    Returns:
        One entry for each value with tensors in it, those of wider scopes first; [] where torch is not imported.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    found = [FixtureValue(own, text, _tensors_in(value, torch.Tensor)) for own, text, value in _values(item)]
    return sorted((entry for entry in found if entry.tensors), key=lambda entry: entry.own)


def _tensors_in(value: object, tensor_type: type) -> list[Any]:
    pending = [value]
    seen = {id(value)}
    tensors = []
    while pending and len(seen) < _MOST_OBJECTS:
        value = pending.pop()
        if issubclass(type(value), tensor_type):
            tensors.append(value)
        for inner in gc.get_referents(value):
            if id(inner) not in seen and not issubclass(type(inner), _NOT_OWN):
                seen.add(id(inner))
                pending.append(inner)
    return tensors


def _values(item: pytest.Item) -> Iterator[tuple[bool, str, object]]:
    """Whether it is the test's own, what it is, and the value; pytest's own objects are left out."""
    scopes = {name: definitions[-1].scope for name, definitions in _definitions(item).items() if definitions}
    for name, value in (getattr(item, "funcargs", None) or {}).items():
        scope = scopes.get(name)  # None: a parameter's value, which is anybody's
        if scope is not None and not type(value).__module__.startswith(("_pytest.", "memprof.")):
            yield scope == "function", f"fixture `{name}` of scope {scope}", value
    instance = getattr(item, "instance", None)
    if instance is not None and not isinstance(instance, ModuleType):
        yield True, f"the instance of `{type(instance).__name__}`", instance


def _definitions(item: pytest.Item) -> dict[str, Any]:
    """Fixture name -> its definitions; {} where this pytest keeps them elsewhere."""
    return getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
