"""The decorator `memprof.profile`: a `Profiler` around each call of a function."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from memprof._errors import UsageError
from memprof.profiler import Profiler

_P = ParamSpec("_P")
_R = TypeVar("_R")


@overload
def profile(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def profile(
    *,
    level: str = "auto",
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    max_iterations: int | None = None,
    plot: str | os.PathLike[str] | None = None,
    report: bool = True,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def profile(
    function: Callable[..., Any] | None = None,
    /,
    *,
    level: str = "auto",
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    max_iterations: int | None = None,
    plot: str | os.PathLike[str] | None = None,
    report: bool = True,
) -> Any:
    """Profile every call of a function that holds a training loop.

    After each call the diagnosis is printed to standard error; the last `Profiler` is the
    attribute `profiler` of the decorated function. Results and exceptions of the function pass
    through. Calls inside a profiled call are part of it and report nothing of their own.

    Args:
        function: The function, where the decorator is used bare.
        level: See `Profiler`.
        output: File for the recording, written anew by each call.
        device: See `Profiler`.
        max_iterations: Return None from the function after so many iterations.
        plot: File for a plot of the call.
        report: Whether to print the diagnosis.

    Returns:
        The decorated function, or the decorator.

    Raises:
        UsageError: What is decorated is no function, or one whose body does not run when it is called (a
            generator or a coroutine).
    """

    def decorate(inner: Callable[..., Any]) -> Callable[..., Any]:
        _check_profilable(inner)

        @functools.wraps(inner)
        def profiled(*args: Any, **kwargs: Any) -> Any:
            prof = Profiler(level, output=output, device=device, max_iterations=max_iterations)
            result = None
            try:
                with prof:
                    profiled.profiler = prof  # type: ignore[attr-defined]
                    result = inner(*args, **kwargs)
            finally:
                profiled.profiler = prof  # type: ignore[attr-defined]
                if prof.is_outermost:
                    _show(prof, report, plot)
            return result

        return profiled

    return decorate if function is None else decorate(function)


def _check_profilable(function: object) -> None:
    if not callable(function):
        raise UsageError(f"@memprof.profile takes its options by name, not {function!r}: @memprof.profile(level=...)")
    checks = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    if any(check(function) for check in checks):
        name = getattr(function, "__qualname__", repr(function))
        raise UsageError(
            f"@memprof.profile cannot profile {name}(): calling it does not run its body. Decorate the function "
            "that drives it, or put `with memprof.Profiler() as prof:` around the loop"
        )


def _show(prof: Profiler, report: bool, plot: str | os.PathLike[str] | None) -> None:
    """Print and draw; a failure here must not hide the function's own result or exception."""
    try:
        if report:
            print(prof.report(width=min(_columns(), 120)), file=sys.stderr)
        if plot is not None:
            prof.plot(plot)
    except Exception as error:
        print(f"memprof: the report could not be made ({type(error).__name__}: {error})", file=sys.stderr)


def _columns() -> int:
    return shutil.get_terminal_size((100, 24)).columns
