"""Regions of modules in forward, and what backward says of them; on the CPU, whose engine is the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from memprof.capture.module_regions import ENDED, EVERY_DEVICE, ModuleRegions
from memprof.record.schema import NONE

OUTER, FIRST, SECOND = 10, 11, 12


@pytest.fixture
def regions() -> ModuleRegions:
    return ModuleRegions(pytest.fail)


def call(regions: ModuleRegions, module: int, left: int, function: Callable[..., Any], *given: Any) -> Any:
    regions.enter(module, given)
    returned = function(*given)
    regions.leave(left, returned)
    return returned


def model(regions: ModuleRegions, x: torch.Tensor) -> torch.Tensor:
    """`first` and `second` with an operation of the outer module between."""

    def outer(x: torch.Tensor) -> Any:
        y = call(regions, FIRST, OUTER, torch.sin, x)
        y = torch.exp(y)
        return call(regions, SECOND, OUTER, torch.cos, y)

    result: torch.Tensor = call(regions, OUTER, NONE, outer, x)
    return result


def backward(regions: ModuleRegions, loss: torch.Tensor) -> None:
    regions.backward_begins((loss,))
    loss.backward()
    regions.backward_ends()


def reached(regions: ModuleRegions) -> list[int]:
    """Modules in the order in which backward came to them."""
    taken = regions.take()
    modules = dict(zip(taken.region.tolist(), taken.module.tolist(), strict=True))
    assert taken.mark_device.tolist()[0] == taken.mark_device.tolist()[-1] == EVERY_DEVICE
    assert taken.mark_region.tolist()[-1] == ENDED
    return [modules.get(region, NONE) for region in taken.mark_region.tolist()[:-1]]


def test_forward_is_cut_where_modules_begin_and_end(regions: ModuleRegions) -> None:
    model(regions, torch.ones(3))
    taken = regions.take()
    assert taken.module.tolist() == [NONE, OUTER, FIRST, OUTER, SECOND, OUTER, NONE]
    assert taken.region.tolist() == list(range(7))
    assert sorted(taken.begin_ns.tolist()) == taken.begin_ns.tolist()
    assert not len(taken.mark_ns)
    # The region that runs on begins the next answer, under its number.
    assert regions.take().region.tolist() == [6]


def test_backward_passes_through_the_regions_in_reverse(regions: ModuleRegions) -> None:
    x = torch.ones(3, requires_grad=True)
    backward(regions, model(regions, x).sum())
    assert reached(regions) == [NONE, SECOND, OUTER, FIRST]


def test_nodes_that_were_made_before_are_of_no_known_region(regions: ModuleRegions) -> None:
    x = torch.ones(3, requires_grad=True) * 2
    for _ in range(3):
        regions.enter(FIRST, ())
        x * 2  # takes a sequence number
        regions.leave(NONE, None)
    regions.take()
    backward(regions, model(regions, x).sum())
    assert reached(regions) == [NONE, SECOND, OUTER, FIRST, NONE]


def test_without_marks_backward_says_when_it_begins_and_ends(regions: ModuleRegions) -> None:
    regions.marking = False
    x = torch.ones(3, requires_grad=True)
    backward(regions, model(regions, x).sum())
    assert reached(regions) == [NONE]


def test_several_tensors_in_containers(regions: ModuleRegions) -> None:
    x = torch.ones(3, requires_grad=True)
    given = {"a": [torch.sin(x)], "b": (torch.exp(x), 3, None)}
    returned = call(regions, FIRST, NONE, lambda values: (values["a"][0] * values["b"][0],), given)
    backward(regions, returned[0].sum())
    assert reached(regions)[:2] == [NONE, FIRST]


def test_nothing_is_kept_alive(regions: ModuleRegions) -> None:
    gc.disable()
    try:
        x = torch.ones(3, requires_grad=True)
        y = model(regions, x)
        seen = [weakref.ref(x), weakref.ref(y)]
        del x, y
        assert [reference() for reference in seen] == [None, None]
    finally:
        gc.enable()


def test_a_graph_that_lives_on_tells_nothing_any_more(regions: ModuleRegions) -> None:
    x = torch.ones(3, requires_grad=True)
    loss = model(regions, x).sum()
    regions.close()
    loss.backward()
    assert not len(regions.take().mark_ns)


def test_a_failure_is_told_and_ends_it() -> None:
    told: list[str] = []
    regions = ModuleRegions(told.append)

    class Odd(torch.Tensor):
        @property
        def grad_fn(self) -> Any:
            raise RuntimeError("no graph here")

    regions.leave(NONE, torch.ones(1).as_subclass(Odd))
    assert not regions.on
    assert told == ["modules of allocator events are not known from here on (RuntimeError: no graph here)"]
