"""Batches of all shapes, cut along their first dimension."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from memprof import UsageError
from memprof.oom.split import examples_in, part_of

Pair = namedtuple("Pair", "image label")


@dataclass
class Sentences:
    tokens: torch.Tensor
    language: str


def rows(count: int) -> torch.Tensor:
    return torch.arange(count * 2).reshape(count, 2)


@pytest.mark.parametrize(
    "batch",
    [
        rows(6),
        (rows(6), torch.arange(6)),
        [rows(6), torch.arange(6)],
        {"x": rows(6), "y": {"z": torch.arange(6)}},
        Pair(rows(6), torch.arange(6)),
        Sentences(rows(6), "en"),
        UserDict(x=rows(6)),
        (torch.tensor(3.0), "mode", rows(6)),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_parts_put_together_are_the_batch(batch: Any) -> None:
    assert examples_in(batch) == 6
    parts = [part_of(batch, 0, 4, 6), part_of(batch, 4, 6, 6)]
    assert [type(part) for part in parts] == [type(batch)] * 2
    assert [examples_in(part) for part in parts] == [4, 2]
    assert torch.equal(torch.cat([first_rows(part) for part in parts]), first_rows(batch))


def first_rows(batch: Any) -> torch.Tensor:
    """The tensor in a batch that holds the examples."""
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, Sentences):
        return batch.tokens
    values = batch.values() if isinstance(batch, (dict, UserDict)) else batch
    return next(item for item in values if isinstance(item, torch.Tensor) and item.dim())


def test_what_is_not_one_item_an_example_goes_to_every_part() -> None:
    weights, names = torch.ones(3), ["a", "b", "c", "d"]
    images, same_weights, some = part_of((torch.zeros(4, 2), weights, names), 1, 3, 4)
    assert images.shape == (2, 2)
    assert same_weights is weights
    assert some == ["b", "c"]


def test_two_tensors_in_a_batch_of_two_are_two_tensors() -> None:
    assert [part.shape for part in part_of([torch.zeros(2, 5), torch.zeros(2)], 0, 1, 2)] == [(1, 5), (1,)]


def test_a_whole_batch_is_handed_on_as_it_is() -> None:
    batch = [rows(4)]
    assert part_of(batch, 0, 4, 4) is batch


def test_parts_are_views() -> None:
    batch = rows(4)
    assert part_of(batch, 2, 4, 4).untyped_storage().data_ptr() == batch.untyped_storage().data_ptr()


@pytest.mark.parametrize("batch", ["text", [], (torch.tensor(1.0),), {"n": 3}])
def test_a_batch_without_examples_is_refused(batch: Any) -> None:
    with pytest.raises(UsageError, match="no tensor with a first dimension"):
        examples_in(batch)
