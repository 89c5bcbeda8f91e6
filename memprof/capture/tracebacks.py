"""The user's traceback: as without memprof, whose frames lie between the user's line and torch's operator."""

from __future__ import annotations

import os
from types import FrameType, TracebackType

from memprof._exceptions import with_those_behind

_OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_OPERATORS = os.path.join(os.sep, "torch", "_ops.py")


def without_own_frames(error: BaseException) -> None:
    """Take the frames of capture out of an exception's traceback, and of those it came from.

    Args:
        error: An exception that nobody will catch any more.
    """
    for item in with_those_behind(error):
        item.__traceback__ = _shortened(item.__traceback__)


def _shortened(trace: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    after_own = False
    while trace is not None:
        own = _is_own(trace.tb_frame)
        # How a dispatch mode runs an operator; without one it is run from C++.
        calls_operator = after_own and trace.tb_frame.f_code.co_filename.endswith(_OPERATORS)
        if not own and not calls_operator:
            kept.append(trace)
        after_own = own
        trace = trace.tb_next
    following: TracebackType | None = None
    for item in reversed(kept):
        following = TracebackType(following, item.tb_frame, item.tb_lasti, item.tb_lineno)
    return following


def _is_own(frame: FrameType) -> bool:
    return os.path.abspath(frame.f_code.co_filename).startswith(_OWN)
