"""MP313, MP314 and MP401 on counters and failures made up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.detect.allocator import AllocatorRetries
from memprof.detect.evidence import main_peak
from memprof.detect.finding import Finding, Severity
from memprof.detect.oom import OutOfMemoryRaised
from memprof.detect.pass_evidence import peak_share
from memprof.detect.pools import PinnedMemoryGrows
from memprof.model.build import build
from memprof.model.memory import Source
from memprof.record.events import DeviceState, Location, OutOfMemory, Phase, TickFlag
from tests.unit.model.fake_recording import FakeRecording

MIB = 1 << 20


def failure(tick: int, *, requested: int = MIB, line: int = 10) -> OutOfMemory:
    """A request that could not be served."""
    return OutOfMemory(
        tick=tick,
        time_ns=1,
        device="cuda:0",
        phase=Phase.FORWARD,
        requested_bytes=requested,
        segment_bytes=requested,
        total_bytes=100 * MIB,
        free_bytes=0,
        allocated_bytes=90 * MIB,
        reserved_bytes=100 * MIB,
        largest_hole_bytes=None,
        stranded_bytes=None,
        location=Location("train.py", line, "train"),
    )


def state(tick: int) -> DeviceState:
    """Counters at the end of a tick."""
    return DeviceState(
        device="cuda:0",
        tick=tick,
        time_ns=1,
        allocated_bytes=MIB,
        active_bytes=MIB,
        requested_bytes=MIB,
        reserved_bytes=2 * MIB,
        inactive_split_bytes=0,
        private_pool_bytes=0,
        alloc_retries=0,
        ooms=0,
        device_allocs=1,
        device_frees=0,
    )


def retried(*counts: int, failed: int | None = None, exception: str | None = None) -> list[Finding]:
    """What is said of a run with so many retries in each iteration, in one of which a request failed."""
    fake = FakeRecording(device="cuda:0")
    fake.run.devices = ("cuda:0",)
    total = 0
    for count in (0, *counts):
        total += count
        if len(fake.ticks) == failed:
            fake.ooms.append(failure(fake.tick))
        fake.states.append(replace(state(fake.tick), alloc_retries=total))
        fake.end_tick()
    fake.run.exception = exception
    return [item for item in AllocatorRetries().check(build(fake)) if isinstance(item, Finding)]


@pytest.mark.parametrize(
    ("counts", "said", "severity"),
    [
        ((0, 1, 0), "full 1 time (in iteration 2): the", Severity.INFO),
        ((0, 3, 0), "full 3 times (in iteration 2): the", Severity.WARNING),
        ((1, 2), "full 3 times (in iterations 1, 2): the", Severity.WARNING),
        ((1, 1, 1, 1, 1), "full 5 times (in iterations 1, 2, 3, 4, ...): the", Severity.WARNING),
    ],
)
def test_the_message_counts_retries_and_names_each_iteration_once(
    counts: tuple[int, ...], said: str, severity: Severity
) -> None:
    (finding,) = retried(*counts)
    assert said in finding.message
    assert (finding.severity, finding.evidence["retries"]) == (severity, sum(counts))


def test_a_device_that_was_never_full_is_fine() -> None:
    assert retried(0, 0, 0) == []


def test_retries_of_an_iteration_in_which_a_request_failed_are_told_with_the_error() -> None:
    assert retried(0, 3, 0, failed=2) == []
    (finding,) = retried(2, 3, 0, failed=2)
    assert finding.evidence["retries"] == 2


def test_where_memory_ran_out_in_the_end_the_error_says_it_all() -> None:
    assert retried(2, 2, 3, failed=3, exception="OutOfMemoryError: CUDA out of memory.") == []


def test_of_failures_the_one_that_ended_the_run_is_the_error() -> None:
    fake = FakeRecording(device="cuda:0")
    fake.ooms = [failure(0, line=20), failure(1, requested=2 * MIB), failure(2, requested=8 * MIB)]
    for _ in range(3):
        fake.end_tick()
    fake.run.exception = "OutOfMemoryError: CUDA out of memory."
    caught, fatal = (item for item in OutOfMemoryRaised().check(build(fake)) if isinstance(item, Finding))
    assert (caught.severity, caught.evidence["caught"]) == (Severity.WARNING, True)
    assert (fatal.severity, fatal.evidence["caught"], fatal.evidence["times"]) == (Severity.ERROR, False, 2)
    assert fatal.bytes == 8 * MIB


def test_pinned_memory_is_the_hosts() -> None:
    fake = FakeRecording(device="cuda:0")
    for count in range(12):
        fake.states.append(replace(state(fake.tick), host_reserved_bytes=(count + 1) * 64 * MIB))
        fake.end_tick()
    (finding,) = (item for item in PinnedMemoryGrows().check(build(fake)) if isinstance(item, Finding))
    assert (finding.device, finding.bytes) == ("cpu", 12 * 64 * MIB)
    assert finding.source is Source.MEASURED


def test_a_share_is_never_of_another_devices_peak() -> None:
    fake = FakeRecording(device="cuda:0")
    fake.step()
    model = build(fake)
    assert main_peak(model, "cuda:0") is not None
    assert main_peak(model, "cuda:1") is None
    assert peak_share(model, "cuda:1", MIB) == 0.0


def test_a_leak_is_no_larger_for_the_evaluations_between() -> None:
    fake = FakeRecording(device="cuda:0", counter_noise=0)
    for _ in range(8):
        fake.step(leak=2 * MIB)
        for _ in range(3):
            fake.end_tick(TickFlag.FORWARD | TickFlag.EVAL_MODE)
    fake.ooms = [failure(fake.tick)]
    fake.end_tick()
    (finding,) = (item for item in OutOfMemoryRaised().check(build(fake)) if isinstance(item, Finding))
    assert finding.evidence["cause"] != "leak"  # 16 MiB of the device's 100 MiB
