"""Which models a program has left behind."""

from __future__ import annotations

import gc

import torch

from memprof.capture.left_models import ModelCalls
from memprof.capture.live import LiveStorage

_WEIGHT, _BIAS = 16 * 8 * 4, 8 * 4


class Books:
    """Knows when each tensor was made."""

    def __init__(self) -> None:
        self.tick = 0
        self.known: dict[int, LiveStorage] = {}
        self.calls = ModelCalls(lambda tensor: self.known.get(id(tensor)))

    def make(self, features: int = 8, *, booked: bool = True) -> torch.nn.Module:
        module = torch.nn.Linear(16, features)
        for parameter in module.parameters() if booked else ():
            live = LiveStorage.__new__(LiveStorage)
            live.birth_tick, live.nbytes = self.tick, parameter.numel() * 4
            self.known[id(parameter)] = live
        return module

    def train(self, module: torch.nn.Module, *, iterations: int = 5) -> None:
        loss = torch.nn.MSELoss()
        for _ in range(iterations):
            self.calls.called(module, self.tick)
            self.calls.called(loss, self.tick)
            self.tick += 1


def test_models_that_are_made_and_trained_one_after_another() -> None:
    books = Books()
    kept = []
    for _ in range(4):
        module = books.make()
        books.train(module)
        kept.append(module)
    (left,) = books.calls.left(books.tick)
    assert left.modules == kept[:3]
    assert left.first_ticks == (0, 5, 10)
    assert left.nbytes == 3 * (_WEIGHT + _BIAS)
    assert len(left.storages) == 6


def test_gradients_of_a_model_go_with_it() -> None:
    books = Books()
    kept = []
    for _ in range(3):
        module = books.make()
        module(torch.randn(2, 16)).sum().backward()
        books.train(module)
        kept.append(module)
    (left,) = books.calls.left(books.tick)
    assert left.nbytes == 4 * (_WEIGHT + _BIAS)


def test_a_model_that_was_left_in_this_very_iteration_does_not_count_yet() -> None:
    books = Books()
    kept = []
    for _ in range(3):
        kept.append(books.make())
        books.calls.called(kept[-1], books.tick)
        books.tick += 5
    assert books.calls.left(10) == []
    assert len(books.calls.left(11)) == 1


def test_models_that_are_let_go_are_not_there() -> None:
    books = Books()
    for _ in range(4):
        books.train(books.make())
    gc.collect()
    assert books.calls.left(books.tick) == []


def test_models_that_were_made_together_belong_together() -> None:
    books = Books()
    ensemble = [books.make() for _ in range(4)]
    for module in ensemble:
        books.train(module)
    assert books.calls.left(books.tick) == []


def test_models_that_are_called_in_turns_belong_together() -> None:
    books = Books()
    kept = []
    for _ in range(4):
        kept.append(books.make())
        for module in kept:
            books.train(module, iterations=1)
    assert books.calls.left(books.tick) == []


def test_models_of_different_builds_are_not_compared() -> None:
    books = Books()
    kept = []
    for features in (4, 8, 16, 32):
        kept.append(books.make(features))
        books.train(kept[-1])
    assert books.calls.left(books.tick) == []


def test_what_was_made_unwatched_counts_with_its_size() -> None:
    books = Books()
    kept = []
    for _ in range(3):
        kept.append(books.make(booked=False))
        books.train(kept[-1])
    (left,) = books.calls.left(books.tick)
    assert (left.nbytes, left.storages) == (2 * (_WEIGHT + _BIAS), [])
