"""Parameters in plain containers: what counts as hidden, and what becomes of it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from memprof.capture.frames import UserCode
from memprof.capture.hidden import HiddenParameterWatch
from memprof.record.run_info import HiddenParameters


class Owner(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.own = nn.Linear(4, 4)
        self.stuff = value


def hidden_in(value: Any, *, module: nn.Module | None = None) -> HiddenParameters | None:
    watch = HiddenParameterWatch(UserCode())
    watch.learn(module or Owner(value))
    assert len(watch.found) <= 1
    return watch.found[0] if watch.found else None


@pytest.mark.parametrize(
    ("value", "container", "holds", "parameters"),
    [
        ([nn.Linear(4, 4), nn.ReLU()], "list", "Linear, ReLU", 2),
        ((nn.Linear(4, 4, bias=False),), "tuple", "Linear", 1),
        ({"a": nn.Parameter(torch.ones(4))}, "dict", "Parameter", 1),
        ([[nn.Linear(4, 4), nn.Tanh()], [nn.Linear(4, 4)]], "list", "Linear, Tanh", 4),
    ],
)
def test_found(value: Any, container: str, holds: str, parameters: int) -> None:
    found = hidden_in(value)

    assert found is not None
    assert (found.container, found.holds, found.parameters, found.attribute) == (container, holds, parameters, "stuff")
    assert found.location is not None
    assert found.location.file == __file__


@pytest.mark.parametrize(
    "value",
    [
        nn.ModuleList([nn.Linear(4, 4)]),
        [nn.ReLU(), nn.Dropout()],
        [torch.ones(4)],
        [nn.Linear(4, 4).requires_grad_(False)],
        [1, "two", None],
        nn.Linear(4, 4),
    ],
)
def test_not_hidden(value: Any) -> None:
    assert hidden_in(value) is None


def test_what_a_library_keeps_in_its_modules_is_its_own() -> None:
    library, own = nn.Sequential(nn.Linear(4, 4)), Owner(None)
    library.params = [nn.Parameter(torch.ones(4))]  # as FSDP has its flat parameters
    own.add_module("part", library)
    assert hidden_in(None, module=library) is None
    assert hidden_in(None, module=own) is None


def test_what_is_registered_elsewhere_in_the_module_is_not_hidden() -> None:
    module = Owner(None)
    module.stuff = [module.own, module.own.weight]
    assert hidden_in(None, module=module) is None


def test_gradients_and_optimizers_are_looked_at() -> None:
    module = Owner([nn.Linear(4, 4)])
    watch = HiddenParameterWatch(UserCode())
    watch.learn(module)
    watch.look([torch.optim.SGD(module.parameters(), lr=0.1)])
    assert [(item.got_gradient, item.in_optimizer, item.root_in_optimizer) for item in watch.found] == [
        (False, False, True)
    ]

    module.stuff[0](module.own(torch.ones(1, 4))).sum().backward()
    watch.look([torch.optim.SGD(module.stuff[0].parameters(), lr=0.1)])
    assert [(item.got_gradient, item.in_optimizer, item.root_in_optimizer) for item in watch.found] == [
        (True, True, True)
    ]


def test_the_module_may_go() -> None:
    module = Owner([nn.Linear(4, 4)])
    watch = HiddenParameterWatch(UserCode())
    watch.learn(module)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
    watch.look([])
    assert len(watch.found) == 1
