"""Unbinds what the body of a failed `with` left in the variables of a frame that still runs."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch


def bindings(frame: FrameType) -> dict[str, int]:
    """Variables of a frame -> `id` of what they are bound to."""
    return {name: id(value) for name, value in frame.f_locals.items()}


def unbind_new_tensors(frame: FrameType, before: Mapping[str, int]) -> list[str]:
    """Set to None the variables that were bound to tensors, or to something with tensors in it, since `before`.

    The body of the `with` did not run to its end, and what it made would stay alive through the next attempt:
    `loss` keeps the whole graph of the part that was too large.

    Args:
        frame: The frame of the `with` statement.
        before: Its `bindings` when the body began.

    Returns:
        The variables that were set to None.
    """
    scope: Any = frame.f_locals
    names = [name for name, value in scope.items() if before.get(name) != id(value) and _has_tensor(value)]
    for name in names:
        scope[name] = None
    if names and isinstance(scope, dict) and scope is not frame.f_globals:
        # Until Python 3.13 `f_locals` of a function is a copy; debuggers write it back in the same way.
        # Source: Objects/frameobject.c, CPython 3.10 to 3.12.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    return names


def _has_tensor(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value)
