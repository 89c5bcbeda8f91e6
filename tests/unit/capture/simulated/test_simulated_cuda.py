"""A script that says "cuda" runs on the CPU, with CUDA's values, errors and memory figures."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import memprof
from memprof.capture.simulated import active_simulation
from memprof.capture.simulated.cuda import SimulatedCuda
from memprof.capture.simulated.kernels import cublas_workspace_bytes
from memprof.capture.simulated.reductions import reduction_scratch
from memprof.capture.simulated.tensors import SimulatedTensor
from memprof.simulate.gpus import find_gpu

MIB = 1 << 20


@pytest.fixture
def simulated() -> Iterator[SimulatedCuda]:
    """A simulated A100-40GB."""
    with memprof.simulate_gpu("A100-40GB") as found:
        yield found


def train(device: str, make_model, steps: int = 3) -> list[float]:
    """Losses of a few steps; the same seeds on every device."""
    torch.manual_seed(0)
    model = make_model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        rows, wanted = torch.randn(8, 16).to(device), torch.randint(4, (8,)).to(device)
        loss = torch.nn.functional.cross_entropy(model(rows), wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


class Recurrent(torch.nn.Module):
    """A recurrent layer and a classifier of its last output."""

    def __init__(self, kind: type[torch.nn.Module]) -> None:
        super().__init__()
        self.layer = kind(4, 8, batch_first=True)
        self.out = torch.nn.Linear(8, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Classify (batch, 16) as four steps of four features."""
        return self.out(self.layer(rows.view(len(rows), 4, 4))[0][:, -1])


class Attentive(torch.nn.Module):
    """One transformer layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = torch.nn.Linear(8, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Classify (batch, 16) as two tokens of eight features."""
        return self.out(self.layer(rows.view(len(rows), 2, 8)).mean(1))


def perceptron() -> torch.nn.Module:
    """Two layers."""
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))


@pytest.mark.parametrize(
    "make_model",
    [perceptron, lambda: Recurrent(torch.nn.LSTM), lambda: Recurrent(torch.nn.GRU), Attentive],
    ids=["perceptron", "lstm", "gru", "transformer"],
)
def test_training_gives_the_losses_of_the_cpu(make_model) -> None:
    expected = train("cpu", make_model)
    with memprof.simulate_gpu("A100-40GB"):
        found = train("cuda", make_model)
    assert found == pytest.approx(expected, rel=1e-4)


def test_torch_finds_the_gpu_and_loses_it_again() -> None:
    names, functions = set(dir(torch._C)), dict(vars(torch.cuda))
    before = torch.cuda.is_available()
    with memprof.simulate_gpu("A100-40GB"):
        assert active_simulation() is not None
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
        assert torch.cuda.get_device_name() == "A100-40GB"
        assert torch.cuda.get_device_capability() == (8, 0)
        free, total = torch.cuda.mem_get_info()
        assert 0 < free < total == find_gpu("A100-40GB").total_bytes
    assert active_simulation() is None
    assert torch.cuda.is_available() == before
    assert set(dir(torch._C)) == names
    assert [name for name in functions if functions[name] is not vars(torch.cuda).get(name)] == []
    assert (torch.ones(2, requires_grad=True) * 2).sum().backward() is None


def test_memory_is_that_of_the_caching_allocator(simulated: SimulatedCuda) -> None:
    assert torch.cuda.memory_allocated() == torch.cuda.memory_reserved() == 0
    kept = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == (3 * MIB, 20 * MIB)
    view = kept[10:]
    del kept
    assert torch.cuda.memory_allocated() == 3 * MIB
    del view
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == (0, 20 * MIB)
    assert torch.cuda.max_memory_allocated() == 3 * MIB
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0


def test_the_gpu_runs_out_before_this_machine_does(simulated: SimulatedCuda) -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 64\.00 GiB\. GPU 0 .* simulated by memprof"):
        torch.ones(64 << 30, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() == 0


def test_tensors_are_what_cuda_tensors_are(simulated: SimulatedCuda) -> None:
    tensor = torch.ones(2, 3, device="cuda")
    assert tensor.is_cuda
    assert tensor.device == torch.device("cuda", 0)
    assert tensor.type() == "torch.cuda.FloatTensor"
    assert tensor.cpu().device.type == "cpu"
    assert type(tensor.cpu()) is torch.Tensor
    assert tensor.cpu().numpy().sum() == 6
    assert tensor.sum().item() == 6
    assert tensor[0].tolist() == [1, 1, 1]
    assert "device='cuda:0'" in repr(tensor)
    with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy"):
        tensor.numpy()
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        tensor + torch.ones(2, 3)
    assert (tensor * torch.tensor(2.0)).sum().item() == 12
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.ones(1, device="cuda:3")


def test_modules_keep_their_parameters(simulated: SimulatedCuda) -> None:
    model = perceptron()
    first = model[0].weight
    model.cuda()
    assert model[0].weight is first
    assert isinstance(first, torch.nn.Parameter)
    assert first.is_cuda
    twin = copy.deepcopy(model)
    assert twin[0].weight is not first
    assert isinstance(twin[0].weight, torch.nn.Parameter)
    assert torch.equal(twin[0].weight, first)
    model.cpu()
    assert model[0].weight is first
    assert type(first) is torch.nn.Parameter


def test_state_is_saved_and_loaded(simulated: SimulatedCuda) -> None:
    model = perceptron().cuda()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "epoch": 3}, file)
    file.seek(0)
    loaded = torch.load(file, map_location="cuda")
    assert loaded["epoch"] == 3
    assert loaded["model"]["0.weight"].is_cuda
    assert torch.equal(loaded["model"]["0.weight"], model[0].weight)
    model.load_state_dict(loaded["model"])


def test_autocast_computes_in_half_precision(simulated: SimulatedCuda) -> None:
    model = perceptron().cuda()
    scaler = torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.autocast("cuda", dtype=torch.float16):
        output = model(torch.randn(2, 16, device="cuda"))
    assert output.dtype is torch.float16
    scaler.scale(output.float().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(parameter.grad is not None and parameter.grad.is_cuda for parameter in model.parameters())


def test_dropout_is_repeated_by_a_checkpoint(simulated: SimulatedCuda) -> None:
    from torch.utils.checkpoint import checkpoint

    block = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).cuda()
    rows = torch.randn(4, 8, device="cuda", requires_grad=True)
    output = checkpoint(block, rows, use_reentrant=False)
    kept = (output != 0).float()
    output.sum().backward()
    assert torch.allclose(rows.grad.cpu(), (kept * 2 @ block[0].weight).detach().cpu(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["efficient", "flash"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_the_cpu(dtype: torch.dtype, causal: bool) -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, 2, 16, 8, dtype=dtype) for _ in range(3)]
    grad = torch.randn(2, 2, 16, 8, dtype=dtype)

    def run(device: str) -> list[torch.Tensor]:
        leaves = [tensor.clone().to(device).requires_grad_() for tensor in given]
        output = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
        output.backward(grad.to(device))
        return [output.detach().cpu().float(), *(leaf.grad.cpu().float() for leaf in leaves)]

    expected = run("cpu")
    with memprof.simulate_gpu("A100-40GB"):
        found = run("cuda")
    tolerance = 1e-4 if dtype is torch.float32 else 5e-2
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=tolerance)


def test_matrix_products_take_the_workspace_of_cublas(simulated: SimulatedCuda) -> None:
    rows = torch.ones(8, 8, device="cuda", requires_grad=True)
    before = torch.cuda.memory_allocated()
    product = rows @ rows
    assert torch.cuda.memory_allocated() - before == 8_519_680 + 512  # measured on torch 2.14.1
    product.sum().backward()
    del product
    rows.grad = None
    assert torch.cuda.memory_allocated() - before == 2 * 8_519_680  # the engine's thread has a handle of its own


def test_workspace_of_cublas_is_what_its_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cublas_workspace_bytes(find_gpu("A100-40GB")) == 8_519_680
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert cublas_workspace_bytes(find_gpu("A100-40GB")) == 32 * MIB


def test_long_reductions_take_room_for_partial_results() -> None:
    gpu = find_gpu("A100-40GB")
    # Sizes of the blocks that torch 2.14.1 takes for `Tensor.sum(0)` on a GPU with 108 multiprocessors.
    assert reduction_scratch(gpu, (torch.empty(2048, 2048), [0]), {}, torch.empty(2048)) == (33_554_432, 64)
    assert reduction_scratch(gpu, (torch.empty(8, 8), [0]), {}, torch.empty(8)) == ()


def test_gradients_are_summed_in_place(simulated: SimulatedCuda) -> None:
    leaf = torch.randn(MIB, device="cuda", requires_grad=True)
    middle = leaf * 1
    (middle.sin() + middle.cos()).sum().backward()
    allocated = torch.cuda.memory_stats()["allocation.all.allocated"]
    values = torch.randn(MIB, device="cuda")
    other = torch.randn(MIB, device="cuda")
    total = values + other
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - allocated == 3
    assert total.data_ptr() != values.data_ptr()


def test_tensors_outlive_the_simulation_with_a_clear_error() -> None:
    with memprof.simulate_gpu("8GiB"):
        tensor = torch.ones(2, device="cuda")
    assert isinstance(tensor, SimulatedTensor)
    with pytest.raises(RuntimeError, match="after the simulation ended"):
        tensor + 1


def test_one_simulation_at_a_time(simulated: SimulatedCuda) -> None:
    with pytest.raises(memprof.UsageError, match="one simulation at a time"), memprof.simulate_gpu("8GiB"):
        pass


def test_a_process_that_has_run_a_backward_is_told_so() -> None:
    text = (
        "import torch, memprof\n"
        "torch.ones(1, requires_grad=True).sum().backward()\n"
        "with memprof.simulate_gpu('8GiB'): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "before the first backward" in done.stderr


def test_generators_are_on_the_device(simulated: SimulatedCuda) -> None:
    generator = torch.Generator(device="cuda")
    assert generator.device.type == "cuda"
    first = torch.randn(3, device="cuda", generator=generator.manual_seed(1))
    assert torch.equal(first, torch.randn(3, device="cuda", generator=generator.manual_seed(1)))
    assert torch.Generator().device.type == "cpu"
    assert isinstance(torch.default_generator, torch.Generator)


def test_compiled_functions_run_as_they_are(simulated: SimulatedCuda) -> None:
    @torch.compile
    def double(tensor: torch.Tensor) -> torch.Tensor:
        return tensor * 2

    assert double(torch.ones(2, device="cuda")).sum().item() == 4


def test_packed_sequences_keep_their_batch_sizes_on_the_host(simulated: SimulatedCuda) -> None:
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 4, device="cuda"), [3, 2])
    assert packed.batch_sizes.device.type == "cpu"
    assert packed.data.is_cuda
    output, lengths = torch.nn.utils.rnn.pad_packed_sequence(torch.nn.GRU(4, 6).cuda()(packed)[0])
    assert output.shape == (3, 2, 6)
    assert lengths.tolist() == [3, 2]


def test_data_parallel_on_one_gpu_runs(simulated: SimulatedCuda) -> None:
    model = torch.nn.DataParallel(torch.nn.Linear(2, 2).cuda())
    model(torch.ones(4, 2, device="cuda")).sum().backward()
    assert model.module.weight.grad.is_cuda


def test_sparse_tensors_are_refused(simulated: SimulatedCuda) -> None:
    with pytest.raises(NotImplementedError, match="holds no tensors of layout torch.sparse_coo"):
        torch.eye(2, device="cuda").to_sparse()


@pytest.mark.usefixtures("simulated")
def test_pinned_memory_is_used_again() -> None:
    def held() -> tuple[int, int]:
        stats = torch.cuda.host_memory_stats()
        return stats["allocated_bytes.current"], stats["active_bytes.current"]

    for _ in range(5):
        rows = torch.empty(300, 1000).pin_memory()
        assert rows.is_pinned()
        assert not torch.empty(300, 1000).is_pinned()
        del rows
    kept = torch.empty(300, 1000, pin_memory=True)
    assert held() == (2 * MIB, 2 * MIB)
    more = torch.empty(300, 1000, pin_memory=True)
    assert held() == (4 * MIB, 4 * MIB)
    del kept, more
    assert held() == (4 * MIB, 0)


def test_legacy_tensor_types() -> None:
    before = torch.Tensor.type, torch.cuda.FloatTensor
    with memprof.simulate_gpu("8GiB"):
        Tensor = torch.cuda.FloatTensor if torch.cuda.is_available() else torch.FloatTensor
        made = Tensor([[1.0, 2.0]])
        assert made.is_cuda
        assert made.tolist() == [[1.0, 2.0]]
        assert Tensor(2, 3).fill_(1.0).sum().item() == 6.0
        assert torch.ones(3, dtype=torch.int64).type(Tensor).dtype is torch.float32
        assert torch.ones(3).type("torch.cuda.LongTensor").is_cuda
        assert torch.ones(3).type(torch.float64).device.type == "cpu"
        assert not made.type(torch.DoubleTensor).is_cuda
        assert made.type() == "torch.cuda.FloatTensor"
        assert isinstance(made, Tensor)
        assert not isinstance(made, torch.cuda.LongTensor)
    assert (torch.Tensor.type, torch.cuda.FloatTensor) == before
