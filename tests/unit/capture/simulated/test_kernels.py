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


@pytest.mark.parametrize("dry", [False, True])
def test_what_kernels_take_for_themselves(dry: bool) -> None:
    """Sizes as torch 2.14.1 asked its allocator for them."""

    def sizes(call) -> list[int]:
        torch.cuda.memory._record_memory_history()
        call()
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(None)
        return [entry["size"] for entry in trace if entry["action"] == "alloc"]

    with memprof.simulate_gpu("A100-40GB", dry=dry):
        images = torch.ones(16, 128, 32, 32, device="cuda", requires_grad=True)
        norm = torch.nn.GroupNorm(8, 128).cuda()
        assert sizes(lambda: norm(images)) == [8 << 20, 512, 512, 8192, 8192]
        normed = norm(images)
        grad = torch.ones_like(normed)
        assert sizes(lambda: normed.backward(grad)) == [8 << 20, 512, 512, 8192, 8192, 512, 512, 8192]
        scores = torch.zeros(2, 4, 256, 256, device="cuda", requires_grad=True)
        assert sizes(lambda: torch._safe_softmax(scores, -1)) == [2 << 20, 1 << 19, 2 * 4 * 256, 4]
        chances = torch._safe_softmax(scores, -1)
        upper = torch.ones_like(chances)
        assert sizes(lambda: chances.backward(upper)) == [2 << 20, 2 << 20]
        with torch.no_grad():
            assert sizes(lambda: images.roll((1, 1), (2, 3))) == [8 << 20, 8 << 20]
        logits = torch.zeros(64, 3, 64, 64, device="cuda", requires_grad=True)
        wanted = torch.zeros_like(logits)
        with_logits = torch.nn.functional.binary_cross_entropy_with_logits
        assert sizes(lambda: with_logits(logits, wanted))[:3] == [3 << 20, 3 << 20, 4]
        loss = with_logits(logits, wanted, reduction="sum")
        one = torch.ones_like(loss)
        assert sizes(lambda: loss.backward(one)) == [3 << 20]


def test_rms_norm_has_the_gradients_it_has_on_the_cpu() -> None:
    given, weight, upper = torch.randn(3, 5, 8), torch.randn(8), torch.randn(3, 5, 8)

    def gradients(device: str) -> list[torch.Tensor]:
        rows = given.detach().to(device).requires_grad_()
        scale = weight.detach().to(device).requires_grad_()
        torch.nn.functional.rms_norm(rows, (8,), scale).backward(upper.to(device))
        return [rows.grad.cpu(), scale.grad.cpu()]

    expected = gradients("cpu")
    with memprof.simulate_gpu("A100-40GB"):
        found = gradients("cuda")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_what_cudnn_may_take_is_a_range() -> None:
    with memprof.simulate_gpu("A100-40GB", dry=True) as simulation:
        layer = torch.nn.Conv2d(64, 64, 3, padding=1).cuda()
        layer(torch.randn(8, 64, 56, 56, device="cuda")).sum().backward()
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        [note] = simulation.notes()
    columns = 8 * 64 * 9 * 56 * 56 * 4
    assert note.startswith("cuda:0: the peak of allocated memory is ")
    assert "(simulated) to" in note
    assert "(estimated): what workspaces cuDNN takes for convolutions is not known" in note
    device = simulation.runtime.devices[0]
    assert device.peak_allocated_bytes == peak
    assert columns < device.possible_peak_allocated_bytes <= peak + columns


def test_without_cudnn_columns_are_known() -> None:
    with memprof.simulate_gpu("A100-40GB", dry=True) as simulation, torch.backends.cudnn.flags(enabled=False):
        layer = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False).cuda()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        layer(torch.randn(4, 3, 64, 64, device="cuda"))
        stats = torch.cuda.memory_stats()
        assert stats["allocation.all.allocated"] - before == 4  # input, output, columns and cuBLAS's workspace
        assert stats["requested_bytes.all.freed"] >= 3 * 49 * 32 * 32 * 4
        assert simulation.notes() == ()
    assert torch.backends.cudnn.enabled


def test_recurrent_layers_of_cudnn_are_remarked_on() -> None:
    with memprof.simulate_gpu("A100-40GB", dry=True) as simulation:
        torch.nn.LSTM(4, 8).cuda()(torch.randn(3, 2, 4, device="cuda"))
        assert any("LSTM and GRU ran as PyTorch's own kernels" in note for note in simulation.notes())


def test_a_layer_norm_copies_what_is_not_contiguous() -> None:
    with memprof.simulate_gpu("A100-40GB", dry=True):
        rows = torch.randn(128, 16, 512, device="cuda").transpose(0, 1)
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        torch.nn.functional.layer_norm(rows, (512,))
        assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 4


def test_a_tied_weight_has_its_gradients_summed_in_a_third_block() -> None:
    with memprof.simulate_gpu("A100-40GB", dry=True):
        weight = torch.randn(512, 256, device="cuda", requires_grad=True)
        tokens = torch.zeros(64, dtype=torch.long, device="cuda")
        loss = torch.nn.functional.linear(torch.nn.functional.embedding(tokens, weight), weight).sum()
        torch.cuda.memory._record_memory_history()
        loss.backward()
        trace = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(None)
    assert [entry["size"] for entry in trace if entry["action"] == "alloc"].count(512 * 256 * 4) == 3


def test_what_failed_for_want_of_memory_is_let_go() -> None:
    import gc

    gc.disable()
    try:
        with memprof.simulate_gpu("1GiB", dry=True):
            try:
                kept = torch.empty(800 << 20, dtype=torch.uint8, device="cuda")
                kept + 1
            except torch.OutOfMemoryError:
                kept = None
            assert torch.cuda.memory_allocated() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("lengths_on", ["cpu", "cuda"])
@pytest.mark.parametrize("dry", [False, True])
def test_ctc_loss_takes_lengths_from_either_memory(dry: bool, lengths_on: str) -> None:
    torch.manual_seed(0)
    scores = torch.randn(12, 4, 5).log_softmax(2)
    targets, lengths = torch.randint(1, 5, (4, 3)), (torch.full((4,), 12), torch.full((4,), 3))
    expected = torch.nn.functional.ctc_loss(scores, targets, *lengths).item()
    with memprof.simulate_gpu("8GiB", dry=dry):
        given = scores.cuda().requires_grad_()
        loss = torch.nn.functional.ctc_loss(given, targets.cuda(), *(item.to(lengths_on) for item in lengths))
        loss.backward()
        assert given.grad.shape == given.shape
        assert loss.item() == (0.0 if dry else pytest.approx(expected, rel=1e-5))
