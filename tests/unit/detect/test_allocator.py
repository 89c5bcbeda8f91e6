"""MP313 on counters made up by hand."""

from __future__ import annotations

import pytest

from memprof.detect.allocator import AllocatorRetries
from memprof.detect.finding import Finding, Severity
from memprof.model.build import build
from memprof.record.events import DeviceState
from tests.unit.model.fake_recording import FakeRecording

MIB = 1 << 20


def retried(*counts: int) -> list[Finding]:
    """What is said of a run with so many retries in each iteration."""
    fake = FakeRecording(device="cuda:0")
    fake.run.devices = ("cuda:0",)
    total = 0
    for count in (0, *counts):
        total += count
        fake.states.append(
            DeviceState(
                device="cuda:0",
                tick=fake.tick,
                time_ns=fake.now,
                allocated_bytes=MIB,
                active_bytes=MIB,
                requested_bytes=MIB,
                reserved_bytes=2 * MIB,
                inactive_split_bytes=0,
                private_pool_bytes=0,
                alloc_retries=total,
                ooms=0,
                device_allocs=1,
                device_frees=0,
            )
        )
        fake.end_tick()
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
