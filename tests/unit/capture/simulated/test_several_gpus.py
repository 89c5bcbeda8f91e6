"""Several simulated GPUs in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import memprof
from memprof.capture.simulated.communication import broadcast_coalesced
from memprof.capture.simulated.cuda import SimulatedCuda
from memprof.capture.simulated.handles import HandlePool

MIB = 1 << 20


@pytest.fixture
def two() -> Iterator[SimulatedCuda]:
    """Two simulated A100-40GB."""
    with memprof.simulate_gpu("2xA100-40GB") as found:
        yield found


def test_torch_finds_them(two: SimulatedCuda) -> None:
    assert two.name == "2xA100-40GB"
    assert torch.cuda.device_count() == 2
    assert torch.cuda.get_device_name(1) == "A100-40GB"
    assert torch.cuda.can_device_access_peer(0, 1)
    with pytest.raises(RuntimeError, match=r"invalid device ordinal: cuda:2 was asked for, and 2 GPU\(s\)"):
        torch.ones(1, device="cuda:2")


def test_each_has_memory_of_its_own(two: SimulatedCuda) -> None:
    first = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    second = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda:1")
    assert (torch.cuda.memory_allocated(0), torch.cuda.memory_allocated(1)) == (3 * MIB, 5 * MIB)
    with torch.cuda.device(1):
        third = torch.empty(MIB, dtype=torch.uint8, device="cuda")
    assert third.get_device() == 1
    copied = first.to("cuda:1")
    assert copied.device == torch.device("cuda", 1)
    assert torch.cuda.memory_allocated(1) == 9 * MIB
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cuda:1"):
        first[:5] + second[:5]


def test_the_current_device_is_a_threads_own(two: SimulatedCuda) -> None:
    seen = []
    with torch.cuda.device(1):
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_device()))
        thread.start()
        thread.join()
        assert torch.cuda.current_device() == 1
    assert seen == [0]


def test_a_model_over_two_devices_trains_as_on_the_cpu(two: SimulatedCuda) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 8), nn.Linear(8, 2)
    rows = torch.randn(3, 4)
    second(first(rows).relu()).sum().backward()
    expected = first.weight.grad.clone(), second.weight.grad.clone()
    first.zero_grad()
    second.zero_grad()
    first.to("cuda:0")
    second.to("cuda:1")
    second(first(rows.to("cuda:0")).relu().to("cuda:1")).sum().backward()
    assert first.weight.grad.get_device() == 0
    assert second.weight.grad.get_device() == 1
    assert torch.allclose(first.weight.grad.cpu(), expected[0])
    assert torch.allclose(second.weight.grad.cpu(), expected[1])


@pytest.mark.parametrize("rows", [4, 5, 1])
def test_data_parallel_gives_the_gradients_of_the_cpu(two: SimulatedCuda, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    given = torch.randn(rows, 4)
    model(given).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    parallel = nn.DataParallel(model.cuda())
    output = parallel(given.cuda())
    assert output.get_device() == 0
    output.square().sum().backward()
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad.cpu(), grad, atol=1e-6)
    assert (torch.cuda.max_memory_allocated(1) > 0) == (rows > 1)


def test_copies_share_buffers_that_are_cut_where_they_are_full(two: SimulatedCuda) -> None:
    tensors = [torch.full((MIB,), float(at), device="cuda") for at in range(3)]
    tensors.append(torch.zeros(4, dtype=torch.long, device="cuda"))
    before = torch.cuda.memory_stats(1)["allocation.all.allocated"]
    own, copies = broadcast_coalesced(tensors, [0, 1], 8 * MIB)
    assert [one is other for one, other in zip(own, tensors, strict=True)] == [True] * 4
    assert torch.cuda.memory_stats(1)["allocation.all.allocated"] - before == 3
    assert copies[0].untyped_storage().nbytes() == 8 * MIB
    assert [copy.view(-1)[0].item() for copy in copies] == [0, 1, 2, 0]
    assert {copy.get_device() for copy in copies} == {1}


def test_handles_go_back_when_their_thread_ends() -> None:
    pool = HandlePool()
    taken: list[int] = []

    def work() -> None:
        taken.append(pool.of(0))

    assert pool.of(0) == 0
    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert taken == [1, 1]
    assert pool.of(0) == 0
    assert pool.of(1) == 0


def test_there_are_no_more_than_one_machine_has() -> None:
    with pytest.raises(memprof.UsageError, match="9 GPUs cannot be simulated: 1 to 8 can"):
        memprof.simulate_gpu("9x8GiB")
