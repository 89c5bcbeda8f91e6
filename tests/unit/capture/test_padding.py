"""What is counted as padding, and what is not."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.capture.padding import PaddingWatch, count_padding
from memprof.record.events import Location
from memprof.record.run_info import PaddedBatch

LINE = Location("train.py", 12, "train")


def padded(lengths: list[int], width: int, *, value: int = 0) -> torch.Tensor:
    torch.manual_seed(0)
    rows = torch.full((len(lengths), width), value)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(1, 1000, (length,))
    return rows


class Loader:
    """Something batches come from."""


def counted(batch: object) -> tuple[PaddedBatch, ...]:
    watch = PaddingWatch()
    watch.came(Loader(), batch, tick=3, location=LINE)
    return watch.batches


@pytest.mark.parametrize("value", [0, -100, 50256])
def test_trailing_padding_is_counted(value: int) -> None:
    rows = padded([4, 10, 16, 2], 16, value=value)
    assert count_padding(rows.numpy()) == (12 + 6 + 14, 2, 16)


def test_a_row_of_padding_alone_has_length_0() -> None:
    assert count_padding(padded([0, 5, 10], 10).numpy()) == (15, 0, 10)


@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(0).integers(1, 1000, (16, 32)),  # language modelling: every row is full
        np.random.default_rng(0).integers(0, 2, (16, 32)),  # masks, multi-hot labels
        np.random.default_rng(0).poisson(0.4, (16, 64)),  # bags of words: zeros stand everywhere
        np.array([[1] * length + [0] * (32 - length) for length in range(4, 20)]),  # attention masks
        np.array([[7] * length + [0] * (32 - length) for length in range(4, 20)]),  # the same, scaled
    ],
)
def test_other_tables_of_integers_have_none(rows: np.ndarray) -> None:
    assert count_padding(rows) == (0, rows.shape[1], rows.shape[1])


def test_images_with_a_dark_border_have_none() -> None:
    pixels = np.zeros((16, 28, 28), np.int64)
    pixels[:, 6:22, 6:22] = np.random.default_rng(0).integers(0, 256, (16, 16, 16))
    assert count_padding(pixels.reshape(16, 784))[0] == 0


def test_tensors_are_found_in_tuples_and_dictionaries() -> None:
    tokens = padded([4, 10, 16, 2], 16)
    labels = torch.zeros(4, dtype=torch.long)
    for batch in (tokens, (tokens, labels), [tokens, labels], {"input_ids": tokens}, ({"ids": tokens}, labels)):
        (found,) = counted(batch)
        assert found == PaddedBatch(LINE, 3, 0, 4, 16, 2, 16, 0.5)


def test_columns_of_a_wider_tensor_are_read_where_they_are() -> None:
    wide = torch.full((4, 40), 7)
    wide[:, 5:21] = padded([4, 10, 16, 2], 16)
    (found,) = counted(wide[:, 5:21])
    assert (found.shortest, found.longest, found.padding_share) == (2, 16, 0.5)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(8, 16, 16, dtype=torch.long),  # masks of a segmentation
        torch.zeros(8, 16),
        torch.zeros(8, 16, dtype=torch.uint8),
        torch.zeros(2, 16, dtype=torch.long),
        torch.zeros(16, 8, dtype=torch.long).t(),
        torch.zeros(8, 16, dtype=torch.long, device="meta"),
        "text",
        None,
    ],
)
def test_nothing_else_is_looked_at(batch: object) -> None:
    assert counted(batch) == ()


def test_a_loader_is_looked_at_a_few_times_only() -> None:
    watch, loader = PaddingWatch(), Loader()
    for tick in range(100):
        watch.came(loader, padded([4, 10, 16, 2], 16), tick=tick, location=LINE)
    assert [batch.tick for batch in watch.batches] == list(range(16))


class _Ops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_operator_runs_and_nothing_is_kept() -> None:
    watch, loader, tokens = PaddingWatch(), Loader(), padded([4, 10, 16, 2], 16)
    before = tokens.clone()
    with _Ops() as ops:
        watch.came(loader, (tokens,), tick=0, location=LINE)
    assert ops.seen == []
    assert torch.equal(tokens, before)
    kept = weakref.ref(tokens), weakref.ref(loader)
    del tokens, loader
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
