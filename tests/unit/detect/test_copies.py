"""MP215 on made-up runs: which copies are told, and which are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.detect.copies import EqualContentKeptTwice
from memprof.detect.finding import Finding
from memprof.model.memory import MemoryModel
from memprof.record.events import Phase, Role, TickFlag
from memprof.record.run_info import EqualSpan
from tests.unit.detect.story import MIB, Story, line

FOREVER = 1 << 60


class Run(Story):
    """A story in which storages hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: list[tuple[EqualSpan, ...]] = []

    def equal(self, *storages: int, until_ns: int = FOREVER, device: str = "cpu") -> None:
        """Say that storages hold the same from now on."""
        since = self.recording.now
        self.contents.append(tuple(EqualSpan(storage, device, since, until_ns) for storage in storages))

    def train(self) -> None:
        """One iteration."""
        output, saved = self.forward(0, 10)
        self.backward(output, frees=tuple(saved))
        self.step(10)
        self.end()

    def model(self) -> MemoryModel:
        model = super().model()
        return replace(model, run=replace(model.run, equal_storages=tuple(self.contents)))


def told(run: Run) -> list[Finding]:
    return [item for item in EqualContentKeptTwice().check(run.model()) if isinstance(item, Finding)]


def frozen_copy(iterations: int, *, nbytes: int = 2 * MIB, phase: Phase = Phase.OTHER, until_ns: int = FOREVER) -> Run:
    """A parameter made at line 3, and its copy of line 4."""
    run = Run()
    original = run.recording.birth(nbytes, role=Role.PARAMETER, name="weight", location=line(3))
    run.recording.phase = phase
    copied = run.recording.birth(nbytes, location=line(4))
    run.recording.phase = Phase.OTHER
    run.equal(original, copied, until_ns=until_ns)
    run.recording.end_tick(TickFlag(0))
    for _ in range(iterations):
        run.train()
    return run


def test_the_copy_is_told_not_the_original() -> None:
    (finding,) = told(frozen_copy(4))
    assert (finding.location, finding.bytes) == (line(4), 2 * MIB)
    assert finding.evidence == {"tensors": 1, "bytes": 2 * MIB, "iterations": 4}
    assert [remedy.slug for remedy in finding.remedies] == ["share_tensor"]
    assert finding.remedies[0].frees == (2,)
    assert [item.location for item in finding.related] == [line(3)]
    assert "1 tensor copied at train.py:4 is on cpu beside the original made at train.py:3" in finding.message


def test_what_a_module_has_is_the_original_though_it_is_younger() -> None:
    run = Run()
    state = run.recording.birth(2 * MIB, location=line(3))
    weight = run.recording.birth(2 * MIB, role=Role.PARAMETER, location=line(4))
    run.equal(state, weight)
    run.recording.end_tick(TickFlag(0))
    for _ in range(3):
        run.train()
    (finding,) = told(run)
    assert finding.location == line(3)


@pytest.mark.parametrize(
    "run",
    [
        frozen_copy(2),  # too few iterations
        frozen_copy(4, nbytes=MIB // 2),  # too small
        frozen_copy(4, until_ns=5),  # written to, or no longer looked at, before the loop
        frozen_copy(4, phase=Phase.BACKWARD),
        frozen_copy(4, phase=Phase.OPTIMIZER),
        frozen_copy(4, phase=Phase.FORWARD),  # nothing in the source asks for a copy
    ],
    ids=["iterations", "size", "written", "backward", "optimizer", "library"],
)
def test_what_is_no_waste_is_not_told(run: Run) -> None:
    assert told(run) == []


def test_copies_of_each_iteration_are_told_with_what_is_typical() -> None:
    run = Run()
    run.recording.end_tick(TickFlag(0))
    for _ in range(4):
        batch = run.recording.birth(2 * MIB, location=line(5))
        kept = run.recording.birth(2 * MIB, location=line(6))
        run.equal(batch, kept)
        run.train()
        run.recording.death(batch, kept)
    (finding,) = told(run)
    assert (finding.location, finding.bytes) == (line(6), 2 * MIB)
    assert len(finding.remedies[0].frees) == 4


def test_copies_that_are_gone_when_memory_is_highest_are_not_told() -> None:
    run = Run()
    run.recording.end_tick(TickFlag(0))
    for _ in range(4):
        batch = run.recording.birth(2 * MIB, location=line(5))
        kept = run.recording.birth(2 * MIB, location=line(6))
        run.equal(batch, kept)
        run.recording.death(kept)
        extra = run.recording.birth(3 * MIB, location=line(7))
        run.train()
        run.recording.death(batch, extra)
    assert told(run) == []


def test_on_a_gpu_a_copy_that_nobody_uses_may_wait_in_host_memory() -> None:
    for used_in_loop, slugs in ((False, ["share_tensor", "move_to_cpu"]), (True, ["share_tensor"])):
        run = Run()
        run.recording.device = "cuda:0"
        run.recording.run.devices = ("cuda:0", "cpu")
        original = run.recording.birth(2 * MIB, location=line(3))
        copied = run.recording.birth(2 * MIB, location=line(4))
        run.equal(original, copied, device="cuda:0")
        run.recording.used_at = {original: 1, copied: run.recording.now}
        run.recording.end_tick(TickFlag(0))
        for _ in range(4):
            run.train()
        if used_in_loop:
            run.recording.used_at[copied] = run.recording.now
        (finding,) = told(run)
        assert [remedy.slug for remedy in finding.remedies] == slugs
