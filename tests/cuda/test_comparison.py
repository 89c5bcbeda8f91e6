"""Losses are noted on CUDA without device memory, and without waiting for each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cuda.conftest import OnCuda

pytestmark = pytest.mark.cuda


def note(count: int) -> dict[str, Any]:
    """Backward from values that were copied to the device, with a log around it."""
    import torch

    from memprof.capture.comparison import LossLog

    weights = [torch.tensor(float(index), device="cuda", requires_grad=True) for index in range(count)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    waits = []
    synchronize = torch.cuda.synchronize
    torch.cuda.synchronize = lambda *_: waits.append(synchronize())
    with LossLog() as log:
        for weight in weights:
            torch.autograd.grad(weight, weight, grad_outputs=weight.detach())
    return {
        "values": list(log.values),
        "peak": torch.cuda.max_memory_allocated() - before,
        "waits": len(waits),
    }


def test_values_come_over_in_order_with_one_wait(on_cuda: OnCuda) -> None:
    found = on_cuda(note, count=5)
    assert found == {"values": [0.0, 1.0, 2.0, 3.0, 4.0], "peak": 0, "waits": 1}


def test_a_full_buffer_is_waited_for(on_cuda: OnCuda) -> None:
    found = on_cuda(note, count=5000)
    assert found["values"] == [float(index) for index in range(5000)]
    assert (found["peak"], found["waits"]) == (0, 2)
