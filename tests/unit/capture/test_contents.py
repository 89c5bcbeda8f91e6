"""Which storages are taken to hold the same, and what ends that."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from memprof.capture.contents import ContentBooks
from memprof.capture.frames import UserCode
from memprof.capture.live import storage_key
from memprof.capture.storages import StorageTracker
from memprof.capture.watching import StorageWatch
from memprof.record.run_info import RunInfo
from memprof.record.writer import RecordingWriter

SIZE = 1 << 19
"""Elements: 2 MiB of float32, enough to be looked at between watched times."""


@dataclass
class Watched:
    """Books, and what fills them."""

    tracker: StorageTracker
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.books = ContentBooks(self.tracker, lambda: self.optimizers)

    @contextmanager
    def watching(self) -> Iterator[None]:
        watch = StorageWatch(self.tracker, self.books, lambda sentence: None, below=0)
        watch.switch(True)
        try:
            yield
        finally:
            watch.switch(False)

    def equal(self) -> list[set[int]]:
        """Ids of storages of one content."""
        return [{span.storage for span in spans} for spans in self.books.finish()]

    def ids(self, *tensors: torch.Tensor) -> set[int]:
        return {self.tracker.live[storage_key(tensor)].id for tensor in tensors}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    run = RunInfo()
    writer = RecordingWriter(tmp_path / "run.memprof", run, on_failure=lambda *_: None)
    yield Watched(StorageTracker(writer, UserCode(), lambda sentence: None))
    writer.finish(run)


def test_a_clone_holds_what_its_original_holds(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        first, second = original.clone(), original.clone()
    assert watched.equal() == [watched.ids(original, first, second)]


@pytest.mark.parametrize(
    "write",
    [
        lambda item: item.add_(1),
        lambda item: item.data.zero_(),
        lambda item: item[:4].fill_(0),
        lambda item: torch.mul(item.detach(), 2, out=item),
        lambda item: torch._foreach_mul_([item], 2.0),
        lambda item: item.copy_(torch.zeros(1)),
    ],
)
@pytest.mark.parametrize("which", ["original", "copy"])
def test_a_write_to_either_ends_that(watched: Watched, write: object, which: str) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        cloned = original.clone()
        write(original if which == "original" else cloned)  # type: ignore[operator]
    assert watched.equal() == []


def test_deep_copies_of_modules_and_of_state_are_known(watched: Watched) -> None:
    with watched.watching():
        model = torch.nn.Linear(1024, 512, bias=False)
        other, state = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    assert watched.equal() == [watched.ids(model.weight, other.weight, state["weight"])]


def test_what_is_loaded_into_a_module_is_there_twice(watched: Watched) -> None:
    with watched.watching():
        state = {"weight": torch.randn(512, 1024)}
        model = torch.nn.Linear(1024, 512, bias=False)
        model.load_state_dict(state)
    assert watched.equal() == [watched.ids(model.weight, state["weight"])]


def test_parts_other_types_and_other_layouts_are_no_copies(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(512, 1024)
        others = [
            original[:256].clone(),
            original.double(),
            original.t().contiguous(),
            original[:1].expand(512, 1024).contiguous(),
        ]
    assert watched.equal() == []
    assert len(others) == 4


def test_small_storages_are_left_out(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(64)
        others = original.clone()
    assert watched.equal() == []
    assert others.numel() == 64


def test_a_copy_that_is_freed_has_been_one_until_then(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        ids = watched.ids(original)
        for _ in range(3):
            cloned = original.clone()
            ids |= watched.ids(cloned)
            del cloned
    ((*spans,),) = watched.books.finish()
    assert {span.storage for span in spans} == ids
    assert len(spans) == 4
    by_end = sorted(spans, key=lambda span: span.until_ns)
    assert all(before.until_ns < after.since_ns for before, after in zip(by_end[:2], by_end[1:3], strict=True))


@pytest.mark.parametrize(
    "write",
    [lambda item: item.add_(1), lambda item: item.data.fill_(0), lambda item: np.copyto(item.numpy(), 0)],
    ids=["op", "data", "numpy"],
)
def test_a_write_while_nothing_is_watched_is_seen_afterwards(watched: Watched, write: object) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        cloned = original.clone()
    write(cloned)  # type: ignore[operator]
    watched.books.check()
    assert watched.equal() == []
    assert original.numel() == cloned.numel()


def test_between_watched_times_copies_are_certain_up_to_the_last_look(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        cloned = original.clone()
        ids = watched.ids(original, cloned)
    del cloned
    ((*spans,),) = watched.books.finish()
    assert {span.storage for span in spans} == ids
    assert len({span.until_ns for span in spans}) == 1  # when watching ended, for both


def test_parameters_that_an_optimizer_steps_are_written_to(watched: Watched) -> None:
    with watched.watching():
        model = torch.nn.Linear(1024, 512, bias=False)
        frozen = copy.deepcopy(model).requires_grad_(False)
        kept = copy.deepcopy(frozen)
        model.weight.grad = torch.zeros_like(model.weight)
        watched.optimizers += [torch.optim.SGD([*model.parameters(), *frozen.parameters()], lr=0.1)]
    assert watched.equal() == [watched.ids(frozen.weight, kept.weight)]


def test_the_books_keep_nothing_alive(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        cloned = original.clone()
        alive = watched.tracker.live_bytes
        watched.books.check()
        del original, cloned
        assert watched.tracker.live_bytes == alive - 2 * 4 * SIZE


def test_a_forked_child_looks_at_nothing(watched: Watched) -> None:
    with watched.watching():
        original = torch.randn(SIZE)
        cloned = original.clone()
        watched.books.abandon()
    assert watched.equal() == []
    assert original.numel() == cloned.numel()
