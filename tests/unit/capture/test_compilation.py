"""`torch.compile` compiles the user's functions under the profiler as without it, and none of the profiler's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import memprof

STEPS = 3


def trained() -> tuple[list[float], dict[str, dict[str, int]]]:
    """Losses of a loop with compiled and uncompiled parts of every kind, and what the compiler counted meanwhile."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend="eager", fullgraph=True)
    def forward(x: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        return model(x).sum()

    @torch.compile(backend="eager")
    def broken(x: torch.Tensor) -> torch.Tensor:
        """The compiler leaves it at the print and at the backward, and comes back after each."""
        y = model(x)
        print(end="")
        loss = y.square().sum()
        loss.backward()
        model.zero_grad()
        return loss.detach()

    losses = []
    for _ in range(STEPS):
        loss = forward(torch.ones(2, 4))
        loss.backward()
        optimizer.step()
        losses += [loss.item(), broken(torch.ones(2, 4)).item()]
    return losses, {name: dict(counters[name]) for name in ("frames", "stats", "graph_break")}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of the compiler itself
@pytest.mark.parametrize("level", ["tensors", "steps"])
def test_what_is_compiled_is_what_is_compiled_without_a_profiler(level: str) -> None:
    losses, counted = trained()
    with memprof.Profiler(level) as profiler:
        profiled: Any = trained()
    assert profiled == (losses, counted)
    diagnosis = profiler.diagnosis
    assert diagnosis.model.run.notes == ()
    assert len([item for item in diagnosis.model.iterations if item.kind == "train"]) >= STEPS
