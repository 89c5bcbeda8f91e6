"""What rules say of small programs, each with one thing that once led them astray."""

from __future__ import annotations

import io
import linecache
from collections.abc import Callable

import pytest
import torch
from torch.func import functional_call

import memprof
from memprof.detect.finding import Finding

KIB = 1 << 10


def findings_of(program: Callable[[], object], level: str = "tensors") -> dict[str, Finding]:
    """Findings of a program, by code."""
    torch.manual_seed(0)
    with memprof.Profiler(level) as prof:
        program()
    return {finding.code: finding for finding in prof.diagnosis.findings}


def line(finding: Finding) -> str:
    """The source line that a finding is placed on."""
    assert finding.location is not None
    return linecache.getline(finding.location.file, finding.location.line).strip()


def train(model: torch.nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(32, 256)).pow(2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("drops", [False, True])
def test_a_checkpoint_that_is_loaded_between_two_trainings(drops: bool) -> None:
    def program() -> None:
        model, file = torch.nn.Linear(256, 512), io.BytesIO()
        train(model, 5)
        torch.save(model.state_dict(), file)
        file.seek(0)
        checkpoint = torch.load(file)
        model.load_state_dict(checkpoint)
        if drops:
            del checkpoint
        train(model, 5)

    assert ("MP209" in findings_of(program)) is not drops


def test_outputs_that_are_joined_batch_by_batch() -> None:
    def program() -> None:
        model, outputs = torch.nn.Linear(64, 1024), None
        with torch.no_grad():
            for _ in range(12):
                out = model(torch.randn(64, 64))
                outputs = out if outputs is None else torch.cat((outputs, out))

    found = findings_of(program)

    assert line(found["MP205"]).startswith("outputs = out if")
    assert "MP202" not in found


def test_of_parameters_that_one_line_updates_the_largest_is_told_of() -> None:
    def program() -> None:
        model, rate = torch.nn.Linear(64, 512), torch.tensor(0.01, requires_grad=True)
        weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        for _ in range(8):
            loss = functional_call(model, weights, (torch.randn(8, 64),)).pow(2).mean()
            grads = torch.autograd.grad(loss, list(weights.values()))
            weights = {name: w - rate * g for (name, w), g in zip(weights.items(), grads, strict=True)}

    chain = next(item for code, item in findings_of(program).items() if code in ("MP101", "MP112"))

    assert chain.bytes_per_iteration is not None
    assert chain.bytes_per_iteration >= 512 * 64 * 4


def test_a_view_names_what_keeps_it_and_not_the_variable_of_its_base() -> None:
    def program() -> None:
        model, kept = torch.nn.Linear(64, 1024), []
        with torch.no_grad():
            for _ in range(8):
                out = model(torch.randn(64, 64))
                kept.append(out[:1])

    assert line(findings_of(program)["MP103"]) == "kept.append(out[:1])"


def test_a_state_is_cut_where_the_loop_hands_it_on() -> None:
    cell, head = torch.nn.GRUCell(64, 64), torch.nn.Linear(64, 1)

    def segment(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = torch.zeros(())
        for _ in range(3):
            state = cell(torch.randn(16, 64), state)
            loss = loss + head(state).mean()
        return loss, state

    def program() -> None:
        state = torch.zeros(16, 64)
        for _ in range(8):
            loss, state = segment(state)
            loss.backward(retain_graph=True)

    assert line(findings_of(program)["MP104"]) == "loss, state = segment(state)"


def test_steps_by_hand_beside_an_optimizer_that_never_steps() -> None:
    def program() -> None:
        cell, state = torch.nn.GRUCell(64, 64), torch.zeros(16, 64)
        torch.optim.SGD(cell.parameters(), lr=0.1)
        for _ in range(12):
            state = cell(torch.randn(16, 64), state)
            grads = torch.autograd.grad(state.pow(2).mean(), list(cell.parameters()), retain_graph=True)
            for parameter, grad in zip(cell.parameters(), grads, strict=True):
                parameter.data.sub_(grad, alpha=0.1)

    assert "MP104" in findings_of(program, "auto")
