"""Keeps `torch.compile` away from what memprof runs between the user's calls.

Where a function that it compiles goes on in Python (after a graph break, in a hook, in an op that it leaves to eager),
it looks at each frame that begins there, and so at ours. It would compile them, warn about what it cannot trace in
them, and break the user's graph. To be left alone costs nothing when a function is called.

Source:
    `dynamo__custom_eval_frame`, torch/csrc/dynamo/eval_frame_cpp.cpp, torch 2.13.0; older versions have `skip_code`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_F = TypeVar("_F", bound=Callable[..., Any])


def between(function: _F) -> _F:
    """Leave a function alone that stands between the user's call and torch's own function.

    What it calls is compiled as ever. Where the user's function is traced, it is traced along, and must first of all
    call torch's own function if `torch.compiler.is_compiling()` says so.
    """
    _leave_alone(function, with_callees=False)
    return function


def uncompiled(function: _F) -> _F:
    """Leave a function alone, and all that it calls, as `torch.compiler.disable` does, which imports the compiler."""
    _leave_alone(function, with_callees=True)
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


def _leave_alone(function: Callable[..., Any], *, with_callees: bool) -> None:
    compiler: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    code = function.__code__  # shared by all functions that the same `def` makes
    set_strategy, skip = getattr(compiler, "set_code_exec_strategy", None), getattr(compiler, "skip_code", None)
    if set_strategy is not None:
        action = compiler._FrameAction
        callees = action.SKIP if with_callees else action.DEFAULT
        set_strategy(code, compiler._FrameExecStrategy(action.SKIP, callees))
    elif skip is not None:
        skip(code)


__all__ = ["between", "uncompiled"]
