"""Exceptions behind an exception."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from memprof._exceptions import message_of, with_those_behind
from memprof.capture.tracebacks import without_own_frames
from memprof.oom.recovery import let_go


def raised(error: BaseException, *, cause: BaseException | None = None, during: BaseException | None = None) -> Any:
    """An exception as it looks after it was raised."""
    try:
        try:
            if during is not None:
                raise during
        except type(during or error):
            raise error from cause
        raise error from cause
    except type(error) as caught:
        return caught


def test_causes_and_contexts_are_found_once() -> None:
    first, second, third = ValueError("first"), KeyError("second"), RuntimeError("third")
    raised(second, during=first)
    raised(third, cause=second)
    first.__cause__ = third  # a circle
    assert list(with_those_behind(third)) == [third, second, first]
    assert list(with_those_behind(third, contexts=False)) == [third, second]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no groups of exceptions")
def test_members_of_groups_let_go_too() -> None:
    def attempt() -> None:
        activations = bytearray(8)
        raise RuntimeError(f"out of memory after {len(activations)} bytes")

    try:
        attempt()
    except RuntimeError as error:
        member = error
    group = ExceptionGroup("parts", [member])  # type: ignore[name-defined]  # noqa: F821 -- Python 3.11
    assert list(with_those_behind(group)) == [group, member]
    frame = member.__traceback__.tb_next.tb_frame  # type: ignore[union-attr]
    assert "activations" in frame.f_locals
    let_go(group)
    assert frame.f_locals == {}
    without_own_frames(group)
    assert member.__traceback__ is not None


def test_a_message_that_fails_is_said_to() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError("no message")

    assert message_of(ValueError("said")) == "said"
    assert "__str__ failed" in message_of(Silent())
