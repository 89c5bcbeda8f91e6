"""The table of what CUDA's kernels allocate, against sizes that torch 2.14.1 asked its allocator for."""

from __future__ import annotations

import pytest
import torch

import memprof
from memprof.capture.simulated.attention import efficient_backward_before, efficient_backward_scratch
from memprof.simulate.gpus import Gpu


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "rows", "columns", "floats"),
    [
        ((8, 0), torch.float32, 64, 128, 300, 8200),
        ((8, 0), torch.float32, 160, 1024, 64, 196704),
        ((8, 0), torch.float16, 128, 100, 100, 16388),
        ((8, 0), torch.float16, 256, 128, 300, 196624),
        ((8, 6), torch.float32, 128, 128, 300, 16400),
        ((8, 6), torch.float16, 96, 64, 64, 16392),
        ((8, 6), torch.float16, 128, 64, 64, 24584),
        ((7, 5), torch.float16, 128, 128, 300, 16392),
    ],
)
def test_backward_of_efficient_attention_takes_the_workspace_of_its_kernel(
    capability: tuple[int, int], dtype: torch.dtype, width: int, rows: int, columns: int, floats: int
) -> None:
    gpu = Gpu("any", 1 << 34, 0, capability)
    query = torch.empty(3, 5, rows, width, dtype=dtype, device="meta")
    key = torch.empty(3, 5, columns, width, dtype=dtype, device="meta")
    sizes = efficient_backward_scratch(gpu, (query, query, key, key), {}, None)
    assert sizes[-2] == 3 * 5 * floats * 4
    grad = torch.empty(3, rows, 5, width, dtype=dtype, device="meta").transpose(1, 2)
    assert efficient_backward_before(gpu, (grad,), {}) == ()
    assert efficient_backward_before(gpu, (grad.contiguous(),), {}) == (grad.nbytes,)


def blocks_of(call) -> list[tuple[str, int]]:
    """Blocks that a call takes and gives back, in order."""
    with memprof.simulate_gpu("A100-40GB"):
        given = torch.randn(16, 128, 512, device="cuda"), torch.rand(16, 128, 512, device="cuda")
        torch.cuda.memory._record_memory_history()
        kept = call(*given)
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(None)
        del kept
    return [(entry["action"], entry["size"]) for entry in trace if entry["action"] in ("alloc", "free_completed")]


def test_a_reduced_loss_has_the_values_in_a_block_beside_its_own() -> None:
    found = blocks_of(torch.nn.functional.mse_loss)
    assert [size for action, size in found if action == "alloc"] == [4 << 20, 4 << 20, 512, 4]
    assert len([size for action, size in found if action != "alloc"]) == 3


def test_dropout_takes_its_mask_first() -> None:
    found = blocks_of(lambda rows, _: torch.nn.functional.dropout(rows.requires_grad_()))
    assert found == [("alloc", 1 << 20), ("alloc", 4 << 20)]
