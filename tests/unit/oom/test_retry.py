"""A training step that makes do with the memory there is, and keeps its gradient."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import memprof
from memprof import UsageError, oom

ROWS = 12


class Room(nn.Module):
    """Passes on its input, or its gradient, only if few enough examples come at a time.

    Args:
        forward_limit: Most examples in a forward.
        backward_limit: Most examples in a backward.
    """

    def __init__(self, forward_limit: int = 10**6, backward_limit: int = 10**6) -> None:
        super().__init__()
        self.forward_limit = forward_limit
        self.backward_limit = backward_limit
        self.forwards: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards.append(len(x))
        if len(x) > self.forward_limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB")
        return _Narrow.apply(x, self.backward_limit)


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, limit: int) -> torch.Tensor:
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        if len(gradient) > ctx.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return gradient, None


def make(room: Room) -> nn.Sequential:
    """A model whose last layer has got its gradient when the backward of the room fails."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), room, nn.Linear(5, 4)).double()


def data(rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (rows,), generator=generator)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def whole_batch(reduction: str = "mean") -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients where everything fits."""
    model = make(Room())
    images, labels = data()
    loss = F.cross_entropy(model(images), labels, reduction=reduction)
    loss.backward()
    return loss.item(), gradients(model)


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.allclose, found, wanted))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="memprof.oom")
    return lambda: [record.getMessage() for record in caplog.records]


# ---- the function's form -----------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("limits", [{"forward_limit": 5}, {"backward_limit": 5}, {"forward_limit": 1}, {}])
def test_the_gradient_is_that_of_the_whole_batch(limits: dict[str, int], reduction: str) -> None:
    model = make(Room(**limits))

    @oom.retry(model=model, reduction=reduction)
    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(images), labels, reduction=reduction)

    images, labels = data()
    loss = loss_of(images, labels=labels)

    wanted_loss, wanted = whole_batch(reduction)
    assert same(gradients(model), wanted)
    assert loss.item() == pytest.approx(wanted_loss)
    assert not loss.requires_grad


def test_what_fitted_stays_for_the_next_batch() -> None:
    room = Room(forward_limit=5)
    model = make(room)
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=model)

    for _ in range(2):
        model.zero_grad()
        step(*data())

    assert room.forwards == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]
    assert step.examples_at_a_time == 3


def test_parts_are_of_one_size_as_far_as_can_be() -> None:
    room = Room(forward_limit=6)
    model = make(room)
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=model)
    step(*data(9))
    assert room.forwards == [9, 3, 3, 3]


def test_gradients_of_earlier_batches_are_kept() -> None:
    model = make(Room(forward_limit=5))
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=model)

    step(*data())
    step(*data())

    assert same(gradients(model), [2 * gradient for gradient in whole_batch()[1]])


def test_gradients_that_cannot_be_undone_are_said_to_be() -> None:
    room = Room()
    model = make(room)
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=model)
    step(*data())
    room.backward_limit = 5

    with pytest.raises(torch.OutOfMemoryError) as caught:
        step(*data())

    if hasattr(caught.value, "__notes__"):
        assert "optimizer.zero_grad() before each batch" in caught.value.__notes__[0]


def test_the_error_comes_through_where_nothing_fits(log: Callable[[], list[str]]) -> None:
    model = make(Room(forward_limit=0))
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=model, smallest=3)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 3 GiB"):
        step(*data())
    assert len(log()) == 2


def test_other_errors_come_through_at_once() -> None:
    room = Room()
    model = make(room)
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels[:-1]), model=model)
    with pytest.raises(ValueError, match="batch_size"):
        step(*data())
    assert room.forwards == [12]


def test_a_failed_attempt_leaves_nothing_alive() -> None:
    model = make(Room(forward_limit=5))
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    @oom.retry(model=model)
    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        alive.append(sum(reference() is not None for reference in made))
        kept = images * 2
        kept.myself = kept  # only the collector frees this
        made.append(weakref.ref(kept))
        return F.cross_entropy(model(kept), labels)

    gc.disable()
    try:
        loss_of(*data())
    finally:
        gc.enable()

    assert alive[:3] == [0, 0, 0]


def test_a_scaler_does_the_backward() -> None:
    model = make(Room(forward_limit=5))
    step = oom.retry(
        lambda images, labels: F.cross_entropy(model(images), labels),
        model=model,
        backward=lambda loss: (loss * 8).backward(),
    )
    step(*data())
    assert same(gradients(model), [8 * gradient for gradient in whole_batch()[1]])


def test_a_method_names_its_model() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.net = make(Room(forward_limit=5))

        @oom.retry(model="net")
        def loss_of(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            """The loss."""
            return F.cross_entropy(self.net(images), labels)

    trainer = Trainer()
    trainer.loss_of(*data())
    assert same(gradients(trainer.net), whole_batch()[1])
    assert Trainer.loss_of.__doc__ == "The loss."


# ---- the loop's form ---------------------------------------------------------------------------


def loop(model: nn.Module, limits: dict[str, Any]) -> tuple[list[torch.Tensor], list[tuple[int, bool, bool]]]:
    seen = []
    for part in oom.retry([data(), data()], model=model, **limits):
        with part as (images, labels):
            loss = F.cross_entropy(model(images), labels) * part.weight
            loss.backward()
        seen.append((part.examples, part.failed, part.last))
        if part.last:
            found = gradients(model)
            model.zero_grad()
    return found, seen


def test_a_loop_goes_on_where_it_failed() -> None:
    found, seen = loop(make(Room(forward_limit=6)), {})
    assert same(found, whole_batch()[1])
    assert seen == [(12, True, False), (6, False, False), (6, False, True), (6, False, False), (6, False, True)]


def test_a_loop_makes_a_batch_again_whose_backward_had_begun(log: Callable[[], list[str]]) -> None:
    found, seen = loop(make(Room(backward_limit=4)), {})
    assert same(found, whole_batch()[1])
    assert [examples for examples, failed, _ in seen if failed] == [12, 6]
    assert "making the batch again with at most 6" in log()[0]
    assert "the loop at test_retry.py:" in log()[0]


def test_variables_of_a_failed_body_do_not_keep_its_graph() -> None:
    model = make(Room(backward_limit=6))
    alive: list[bool] = []

    def train() -> None:
        reference: Callable[[], Any] | None = None
        kept_from_before = torch.ones(1)
        for part in oom.retry([data()], model=model):
            with part as (images, labels):
                if reference is not None and len(images) == 6 and not alive:
                    alive.append(reference() is not None)
                output = model(images)
                reference = reference or weakref.ref(output)
                loss = F.cross_entropy(output, labels) * part.weight
                loss.backward()
            if part.failed:
                assert (output, loss) == (None, None)
                assert kept_from_before.item() == 1

    train()
    assert alive == [False]


def test_a_batch_is_let_go_before_the_next_is_made() -> None:
    references: list[weakref.ref[torch.Tensor]] = []

    def batches() -> Iterator[list[torch.Tensor]]:
        for _ in range(3):
            gc.collect()
            assert not any(reference() is not None for reference in references)
            batch = [torch.zeros(4, 2)]
            references.append(weakref.ref(batch[0]))
            yield batch
            del batch

    for part in oom.retry(batches(), model=nn.Linear(2, 2)):
        with part as (rows,):
            assert rows.shape == (4, 2)
            del rows


# ---- telling -----------------------------------------------------------------------------------


def test_what_was_done_is_in_the_report(log: Callable[[], list[str]]) -> None:
    model = make(Room(forward_limit=6))

    @oom.retry(model=model)
    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

    with memprof.Profiler("steps") as prof:
        loss_of(*data())

    sentence = log()[0]
    assert sentence.endswith(
        "loss_of() ran out of memory with 12 examples at a time; going on with at most 6, their gradients added up"
    )
    assert " ".join(sentence.split()) in " ".join(prof.report().split())


def test_several_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprof.oom.parts.processes_wait_for_each_other", lambda: True)
    model = make(Room(forward_limit=5))
    step = oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=model)
    with pytest.raises(torch.OutOfMemoryError):
        step(*data())


# ---- use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: oom.retry([1], model=3), "model is int"),
        (lambda: oom.retry([1], model=["weight"]), "model is list"),
        (lambda: oom.retry(5, model=nn.Linear(1, 1)), "a function or batches"),
        (lambda: oom.retry([1], model=nn.Linear(1, 1), smallest=0), "at least 1"),
        (lambda: oom.retry(len, model=nn.Linear(1, 1), reduction="max"), "not one of mean, sum"),
        (lambda: oom.retry(len, model="net")(data()), "names an attribute"),
        (lambda: oom.retry(lambda x: x, model=nn.Linear(1, 1))(data()[0]), r"got Tensor of shape \(12, 3\)"),
        (lambda: oom.retry(lambda x: 3, model=nn.Linear(1, 1))(data()[0]), "got int"),
        (lambda: oom.retry(lambda x: x, model=nn.Linear(1, 1))("x"), "no tensor with a first dimension"),
    ],
)
def test_wrong_use_is_told(make_one: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_one()


def test_an_optimizer_tells_its_parameters() -> None:
    model = make(Room(forward_limit=5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    oom.retry(lambda images, labels: F.cross_entropy(model(images), labels), model=optimizer)(*data())
    assert same(gradients(model), whole_batch()[1])
