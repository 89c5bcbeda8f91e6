"""A dry run: shapes and memory without values."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memprof
from memprof.capture.simulated.cuda import SimulatedCuda
from tests.cuda.workloads import WORKLOADS

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def dry() -> Iterator[SimulatedCuda]:
    """A dry A100-40GB."""
    with memprof.simulate_gpu("A100-40GB", dry=True) as found:
        yield found


def figures(name: str, *, dry: bool) -> list[tuple[int, ...]]:
    """What `torch.cuda` says after setup and two iterations of a workload."""
    rows = []
    with memprof.simulate_gpu("A100-40GB", dry=dry):
        torch.manual_seed(0)
        steps = WORKLOADS[name]("cuda")
        for _ in range(3):
            next(steps)
            rows.append(
                (
                    torch.cuda.memory_allocated(),
                    torch.cuda.max_memory_allocated(),
                    torch.cuda.memory_reserved(),
                    torch.cuda.max_memory_reserved(),
                )
            )
    return rows


@pytest.mark.parametrize("name", ["mlp_adam", "gan", "gpt_tiny", "transformer_encoder", "side_stream"])
def test_figures_are_those_of_a_run_that_computes(name: str) -> None:
    assert figures(name, dry=True) == figures(name, dry=False)


def test_a_model_of_billions_of_parameters_takes_no_room_here(dry: SimulatedCuda) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident_bytes()
    width = 8192
    made_here = nn.Linear(width, width)  # in host memory first, as most scripts do
    with torch.device("cuda"):
        model = nn.Sequential(*[nn.Linear(width, width, dtype=torch.bfloat16) for _ in range(32)])
    model.append(made_here.to("cuda", torch.bfloat16))
    assert sum(parameter.numel() for parameter in model.parameters()) > 2_000_000_000
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(64, width, device="cuda", dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    assert torch.cuda.max_memory_allocated() > 16 * GIB
    assert resident_bytes() - before < 256 * MIB


def test_numbers_that_are_read_are_placeholders_and_counted(dry: SimulatedCuda) -> None:
    loss = torch.randn(8, 8, device="cuda").mean()
    for _ in range(2):
        assert loss.item() == 0.0
    assert float(loss) == 0.0
    assert f"{loss:.2f}" == "0.00"
    assert (torch.randn(8, device="cuda").long().sum()).item() == 0
    assert loss.cpu().tolist() == 0.0
    notes = dry.notes()
    assert any("test_dry_run.py:" in note and "2 times" in note and "gave 0" in note for note in notes)


@pytest.mark.parametrize(
    "decide",
    [
        lambda tensor: bool(tensor.sum() > 0),
        lambda tensor: bool(tensor.sum()),
        lambda tensor: tensor.isnan().any().item(),
        lambda tensor: torch.equal(tensor, tensor + 1),
        lambda tensor: torch.allclose(tensor, tensor + 1),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.masked_select(tensor > 0),
        lambda tensor: tensor.unique(),
        lambda tensor: [1, 2, 3][tensor.argmax()],
    ],
)
def test_a_decision_by_values_stops_the_run_and_names_the_line(dry: SimulatedCuda, decide) -> None:
    with pytest.raises(memprof.DryRunStoppedError, match=r"at .*test_dry_run\.py:\d+: .*leave out --dry"):
        decide(torch.randn(8, device="cuda"))
    assert any("the dry run stopped at" in note for note in dry.notes())


def test_what_the_host_knew_is_still_known(dry: SimulatedCuda) -> None:
    lengths = torch.tensor([3, 1, 2]).to("cuda")
    assert lengths.max().item() == 3
    assert lengths.tolist() == [3, 1, 2]
    mask = torch.arange(3, device="cuda") < lengths[:, None]
    assert bool(mask.any())
    assert not bool(mask.all())
    assert mask.nonzero().shape == (6, 2)
    rows = torch.randn(3, 3, 5, device="cuda")
    assert rows[mask].shape == (6, 5)
    rows[mask] = torch.zeros(6, 5, device="cuda")
    lengths[0] = 7
    assert lengths.max().item() == 7
    assert dry.notes() == ()


def test_what_is_overwritten_with_something_unknown_is_forgotten(dry: SimulatedCuda) -> None:
    counts = torch.zeros(3, dtype=torch.long, device="cuda")
    view = counts[1:]
    assert bool((counts == 0).all())
    view += torch.randn(2, device="cuda").long()
    with pytest.raises(memprof.DryRunStoppedError):
        bool((counts == 0).all())


def test_a_fill_by_a_mask_needs_no_values(dry: SimulatedCuda) -> None:
    rows = torch.randn(4, 4, device="cuda")
    rows[rows < 0] = 0
    assert rows.shape == (4, 4)


def test_values_that_come_back_are_zeros(dry: SimulatedCuda) -> None:
    rows = torch.randn(1024, 1024, device="cuda")
    back = rows.cpu()
    assert back.shape == rows.shape
    assert not back.any()
    back += 1  # it is an ordinary tensor
    target = torch.ones(1024, 1024)
    target.copy_(rows)
    assert not target.any()


def test_gradients_are_scaled_and_clipped(dry: SimulatedCuda) -> None:
    model = nn.Linear(16, 4).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cuda")
    with torch.autocast("cuda", torch.float16):
        loss = F.cross_entropy(F.dropout(model(torch.randn(8, 16, device="cuda"))), torch.zeros(8).long().cuda())
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.state[model.weight]["momentum_buffer"].is_cuda


def test_packed_sequences_have_the_rows_that_their_lengths_say(dry: SimulatedCuda) -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 2, 4, device="cuda"), [3, 2])
    assert packed.data.shape == (5, 4)
    output, lengths = nn.utils.rnn.pad_packed_sequence(nn.LSTM(4, 6).cuda()(packed)[0])
    assert output.shape == (3, 2, 6)
    assert lengths.tolist() == [3, 2]


def test_nothing_is_saved_over_a_file(dry: SimulatedCuda, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"precious")
    torch.save({"model": nn.Linear(2, 2).cuda().state_dict()}, file)
    assert file.read_bytes() == b"precious"
    assert any("torch.save" in note for note in dry.notes())
    torch.save({"epoch": 1}, io.BytesIO())


def test_a_tensor_shows_its_shape(dry: SimulatedCuda) -> None:
    assert repr(torch.randn(2, 3, device="cuda")) == "tensor(..., size=(2, 3), device='cuda:0')"


def test_the_gpu_runs_out_of_memory(dry: SimulatedCuda) -> None:
    kept = [torch.empty(GIB, device="cuda") for _ in range(9)]
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 4\.00 GiB"):
        kept.append(torch.empty(GIB, device="cuda"))
