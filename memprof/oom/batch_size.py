"""Runs a function again with half the batch size until it fits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

from memprof._errors import UsageError
from memprof.oom.recovery import add_note, is_out_of_memory, let_go, processes_wait_for_each_other, say

_P = ParamSpec("_P")
_R = TypeVar("_R")


class SizedRun(Generic[_P, _R]):
    """A function whose first argument, the batch size, is chosen by trying.

    Attributes:
        batch_size: The size of the next call: what `start` said until a smaller one was needed.
        tried: Sizes that ran out of memory, largest first.
    """

    def __init__(self, function: Callable[Concatenate[int, _P], _R], start: int, smallest: int) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._smallest = smallest
        self.batch_size = start
        self.tried: tuple[int, ...] = ()

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run the function, with less at a time as long as memory runs out.

        Returns:
            What the function returns.

        Raises:
            torch.OutOfMemoryError: Not even the smallest size fits. It is the last attempt's own error.
        """
        while True:
            try:
                return self._function(self.batch_size, *args, **kwargs)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._smaller(error):
                    raise
                let_go(error)

    def _smaller(self, error: RuntimeError) -> bool:
        """Halve the size, or say why it cannot be halved."""
        failed = self.batch_size
        name = getattr(self._function, "__qualname__", repr(self._function))
        if processes_wait_for_each_other():
            add_note(error, "memprof: not tried again, because the other processes of this run would wait for it")
            return False
        self.tried = (*self.tried, failed)
        if failed <= self._smallest:
            sizes = ", ".join(map(str, self.tried))
            add_note(error, f"memprof: {name}() ran out of memory with every batch size tried: {sizes}")
            return False
        self.batch_size = max(failed // 2, self._smallest)
        say(f"{name}() ran out of memory with batch size {failed}; running it again with {self.batch_size}")
        return True


def find_batch_size(
    *, start: int, smallest: int = 1
) -> Callable[[Callable[Concatenate[int, _P], _R]], SizedRun[_P, _R]]:
    """Let a function find the batch size it can run with.

    ::

        @memprof.oom.find_batch_size(start=256)
        def train(batch_size, epochs):
            loader = DataLoader(data, batch_size=batch_size)
            ...

        train(epochs=10)  # 256, and if that runs out of memory 128, 64, ...
        print(train.batch_size)

    Each attempt calls the function anew, so it must make what it changes (model, optimizer, loader) itself. The
    size that ran stays for the next call. Where the effective batch must stay what it is, use `retry`; where no GPU
    is at hand, `memprof fit`.

    Args:
        start: First size to try, in examples.
        smallest: Size below which there is nothing to gain.

    Returns:
        A decorator; the decorated function is called without its first argument.

    Raises:
        UsageError: `smallest` is below 1 or above `start`.
    """
    if not 1 <= smallest <= start:
        raise UsageError(f"find_batch_size(start={start}, smallest={smallest}): write 1 <= smallest <= start")

    def decorate(function: Callable[Concatenate[int, _P], _R]) -> SizedRun[_P, _R]:
        return SizedRun(function, start, smallest)

    return decorate
