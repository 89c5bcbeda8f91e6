"""What programs do that a profiler could stumble over: they run as without it, and its hooks go."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import memprof
from memprof.capture.contents import ContentBooks
from memprof.capture.session import CaptureSession
from memprof.record.events import Role


@pytest.fixture
def swapping() -> Iterator[None]:
    """Modules swap their tensors when they are converted, as they do for tensors of a class of one's own."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


def convert(model: nn.Module) -> None:
    """Convert a model whose gradients were clipped, which writes to them."""
    model(torch.ones(2, 4)).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
    model.to(torch.float64).to(torch.float32)


@pytest.mark.skipif(not hasattr(torch.utils, "swap_tensors"), reason="this torch swaps no tensors")
@pytest.mark.usefixtures("swapping")
def test_tensors_can_be_swapped() -> None:
    """torch refuses to swap a tensor to which somebody has a weak reference."""
    model = nn.Linear(4, 4)
    swap = torch.utils.swap_tensors
    with memprof.Profiler("tensors") as profiler:
        convert(model)
        model.weight.grad.add_(1.0)  # type: ignore[union-attr]
    assert profiler.diagnosis.model.run.notes == ()
    model.to(torch.float64)  # the recording is there, but keeps no reference either
    assert torch.utils.swap_tensors is swap


def test_an_exception_that_cannot_say_what_it_is_ends_the_recording() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError("no message")

    profiler = memprof.Profiler("tensors")
    with pytest.raises(Silent), profiler:
        raise Silent
    assert profiler.diagnosis.model.run.exception == "Silent: <no message: its __str__ failed>"


class Doubled(nn.Module):
    """A transform that says in its own way that it has no parameters."""

    def parameters(self, recurse: bool = True) -> Any:
        return []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Samples(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        doubled: torch.Tensor = Doubled()(torch.full((3,), float(index)))
        return doubled


def test_modules_may_list_their_parameters() -> None:
    with memprof.Profiler("tensors") as profiler:
        batches = list(torch.utils.data.DataLoader(Samples()))
    assert [batch[0, 0].item() for batch in batches] == [0.0, 2.0, 4.0, 6.0]
    assert profiler.diagnosis.model.run.notes == ()


@pytest.mark.parametrize(
    ("owner", "broken"),
    [
        (CaptureSession, "_read_counters"),
        (CaptureSession, "_meet_existing"),
        (CaptureSession, "_begin_watching"),
        (ContentBooks, "check"),
    ],
)
def test_a_run_goes_on_where_the_profiler_fails_at_its_beginning_or_end(
    monkeypatch: pytest.MonkeyPatch, owner: type, broken: str
) -> None:
    def fail(_: object) -> None:
        raise LookupError("lost")

    monkeypatch.setattr(owner, broken, fail)
    with pytest.warns(RuntimeWarning, match="LookupError: lost"), memprof.Profiler("tensors") as profiler:
        result = nn.Linear(2, 2)(torch.ones(1, 2)).shape
    assert result == (1, 2)
    assert any("LookupError: lost" in note for note in profiler.diagnosis.model.run.notes)


def test_an_optimizer_that_is_not_made_yet_is_none() -> None:
    half = torch.optim.SGD.__new__(torch.optim.SGD)
    model = nn.Linear(2, 2)
    with memprof.Profiler("tensors") as profiler:
        model(torch.ones(1, 2)).sum().backward()
    assert profiler.diagnosis.model.run.notes == ()
    assert not hasattr(half, "param_groups")


# ---- figures -----------------------------------------------------------------------------------------

MIB = 1 << 20


def storages_of(profiler: memprof.Profiler, *, at_least: int = MIB) -> list[tuple[str, int, bool]]:
    """The larger storages of a run: op, bytes, and whether they are there at its end."""
    storages = profiler.diagnosis.model.storages.values()
    return [(item.op, item.nbytes, item.death_ns is None) for item in storages if item.nbytes >= at_least]


def test_fake_tensors_take_no_memory() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with memprof.Profiler("tensors") as profiler, FakeTensorMode():
        model = nn.Linear(1024, 1024)
        for _ in range(3):
            model(torch.randn(1024, 1024)).sum().backward()
    assert storages_of(profiler) == []
    assert profiler.diagnosis.model.run.notes == ()


def test_a_storage_that_is_resized_takes_what_it_takes() -> None:
    """As FSDP does it to parameters that are gathered, and others to outputs that are made again in backward."""
    model = nn.Linear(512, 512)
    resize = torch.UntypedStorage.resize_
    with memprof.Profiler("tensors") as profiler:
        kept = torch.empty(512, 512)
        model(kept).sum().backward()
        profiler.step()
        model.weight.untyped_storage().resize_(0)
        kept.untyped_storage().resize_(0)
        profiler.step()
        kept.untyped_storage().resize_(2 * MIB)
        profiler.step()
        kept._typed_storage()._resize_(MIB)
    assert torch.UntypedStorage.resize_ is resize
    assert [item for item in storages_of(profiler) if item[0] == "aten.empty.memory_format"] == [
        ("aten.empty.memory_format", MIB, False),
        ("aten.empty.memory_format", 2 * MIB, False),
        ("aten.empty.memory_format", 4 * MIB, True),
    ]
    weights = [item for item in profiler.diagnosis.model.storages.values() if item.role & Role.PARAMETER]
    assert sorted((item.nbytes, item.death_ns is None) for item in weights) == [(0, True), (2048, True), (MIB, False)]


class Named(torch.Tensor):
    """A subclass that is made from sizes or values."""


@pytest.mark.parametrize("kind", [torch.Tensor, Named])
def test_constructors_of_old_are_seen(kind: type[torch.Tensor]) -> None:
    with memprof.Profiler("tensors") as profiler:
        kept = [kind(512, 512) for _ in range(3)]
        small = kind([1.0, 2.0])
    line = test_constructors_of_old_are_seen.__code__.co_firstlineno + 3
    made = [item for item in profiler.diagnosis.model.storages.values() if item.nbytes == MIB]
    assert [item.location and item.location.line for item in made] == [line] * len(kept)
    assert type(small) is kind
    assert small.tolist() == [1.0, 2.0]


def test_a_parameter_made_of_several_tensors_is_counted_once() -> None:
    """As `DTensor` and quantized weights are: the tensor around them has a size and no memory."""
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    with memprof.Profiler("tensors") as profiler:
        model = nn.Linear(512, 512, bias=False)
        model.weight = nn.Parameter(two_tensor(torch.ones(512, 512), torch.ones(512, 512)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            model(torch.ones(8, 512)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    model_of_run = profiler.diagnosis.model
    weights = [item for item in model_of_run.storages.values() if item.name == "weight"]
    assert [(item.op, item.nbytes, item.death_ns) for item in weights] == 2 * [("aten.ones.default", MIB, None)]
    assert model_of_run.run.optimizers[0].state_bytes == 2 * MIB
    assert {share.nbytes for profile in profiler.recording.parameters for share in profile.shares} == {2 * MIB}
    assert model_of_run.run.notes == ()


def test_no_interrupt_is_lost() -> None:
    """What a signal's handler raises in the callback of a weak reference goes nowhere; so none of ours runs Python."""
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(8)))
    called: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_back is not None and frame.f_back.f_code is test_no_interrupt_is_lost.__code__:
            called.append(frame.f_code.co_name)

    with memprof.Profiler("tensors") as profiler:
        loss = model(torch.ones(4, 16)).sum()
        before = gc.isenabled()
        gc.disable()
        sys.setprofile(trace)
        try:
            del loss  # and with it the graph and all that it saved
        finally:
            sys.setprofile(None)
            (gc.enable if before else gc.disable)()
        assert called == []
        profiler.step()
    storages = [item for item in profiler.diagnosis.model.storages.values() if item.op == "aten.addmm.default"]
    assert len(storages) == 8
    assert all(item.death_ns is not None for item in storages)
