"""Goes through a batch in parts that fit, and makes a part that failed again with less in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

import torch

from memprof.oom.frames import bindings, unbind_new_tensors
from memprof.oom.gradients import GradientMark
from memprof.oom.recovery import add_note, is_out_of_memory, let_go, processes_wait_for_each_other, say
from memprof.oom.split import examples_in, part_of

_B = TypeVar("_B")


@dataclass(slots=True)
class PartLimit:
    """How many examples are tried at a time; stays from batch to batch.

    Attributes:
        smallest: Examples below which a part is not cut further.
        examples: Most examples in a part; None as long as whole batches fit.
    """

    smallest: int = 1
    examples: int | None = None

    def of(self, examples: int) -> int:
        """Size of the parts of a batch: as few parts as the limit allows, all of about one size."""
        if self.examples is None or self.examples >= examples:
            return examples
        return -(-examples // -(-examples // self.examples))

    def halve(self, failed: int) -> None:
        """Allow half of what failed."""
        self.examples = max(failed // 2, self.smallest)


class Part(Generic[_B]):
    """Some examples of a batch, as a context manager that makes them again with less where memory runs out.

    Attributes:
        examples: How many are in it.
        weight: Their share of the batch: the factor of a loss that is a mean over examples.
        last: Whether the batch is complete with it; known once its `with` block has ended.
        failed: Whether it ran out of memory; its examples come again.
    """

    def __init__(
        self, batch: _B, start: int, stop: int, of: int, recover: Callable[[Part[Any], BaseException], bool]
    ) -> None:
        self._batch: _B | None = batch
        self._recover: Callable[[Part[Any], BaseException], bool] | None = recover
        self._frame: FrameType | None = None
        self._before: dict[str, int] = {}
        self._of = of
        self.start = start
        self.stop = stop
        self.examples = stop - start
        self.weight = self.examples / of
        self.last = False
        self.failed = False

    def __enter__(self) -> _B:
        frame = sys._getframe(1)
        self._frame, self._before = frame, bindings(frame)
        batch, self._batch = self._batch, None  # this part must not keep it once the body is done
        return batch  # type: ignore[return-value]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        frame, self._frame = self._frame, None
        recover, self._recover = self._recover, None  # leads to the whole batch
        if error is None:
            self.last = self.stop == self._of
            return False
        self.failed = recover is not None and recover(self, error)
        if self.failed and frame is not None:
            unbind_new_tensors(frame, self._before)
            del frame
            let_go(error)
        return self.failed


class PartedBatch(Generic[_B]):
    """One batch, gone through in parts.

    Iterating gives parts to enter as context managers, in order. After one that failed its examples come again in
    smaller parts; where its backward had begun, the whole batch comes again, its gradients dropped.

    Args:
        batch: See `examples_in`.
        limit: Size of the parts; lowered where one fails.
        parameters: Those whose gradients backward adds to.
        where: What is being done, in the words of the log.

    Raises:
        UsageError: The batch cannot be cut.
    """

    def __init__(self, batch: _B, limit: PartLimit, parameters: Iterable[torch.nn.Parameter], *, where: str) -> None:
        self._batch = batch
        self._limit = limit
        self._parameters = list(parameters)
        self._where = where
        self._examples = examples_in(batch)
        self._start = 0
        self._before_batch = self._before_part = GradientMark(self._parameters)

    def __iter__(self) -> Iterator[Part[_B]]:
        while self._start < self._examples:
            start = self._start
            stop = min(start + self._limit.of(self._examples), self._examples)
            self._before_part = GradientMark(self._parameters)
            part = Part(part_of(self._batch, start, stop, self._examples), start, stop, self._examples, self._recover)
            yield part
            if not part.failed:
                self._start = stop

    def _recover(self, part: Part[Any], error: BaseException) -> bool:
        """Make ready for another attempt, or say why there can be none."""
        if not is_out_of_memory(error):
            return False
        begun = self._before_part.touched
        reason = self._why_not(part, begun)
        if reason:
            add_note(error, f"memprof: {self._where} was not tried again: {reason}")
            return False
        self._limit.halve(part.examples)
        if begun:
            self._before_part.drop()
            self._start = 0
        say(
            f"{self._where} ran out of memory with {part.examples} examples at a time; "
            f"{'making the batch again' if begun else 'going on'} with at most {self._limit.examples}, "
            "their gradients added up"
        )
        return True

    def _why_not(self, part: Part[Any], begun: bool) -> str:
        """Why a part cannot be made again, or ''."""
        if processes_wait_for_each_other():
            return "the other processes of this run would wait for it"
        if part.examples <= self._limit.smallest:
            return f"{part.examples} at a time is the least it may be given"
        if begun and not self._before_batch.empty:
            return (
                "its backward had begun to add to gradients of earlier batches, which cannot be undone; let backward "
                "start from no gradients: optimizer.zero_grad() before each batch"
            )
        return ""
