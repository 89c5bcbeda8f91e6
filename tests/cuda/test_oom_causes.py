"""What is said of an out-of-memory error, for each thing that can be behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

MIB = 1 << 20


def leak(step: Callable[[], None]) -> None:
    import torch

    kept = []
    while True:
        kept.append(torch.empty(4 * MIB, dtype=torch.uint8, device="cuda"))
        torch.empty(16 * MIB, dtype=torch.uint8, device="cuda")
        step()


def spike(step: Callable[[], None]) -> None:
    import torch

    held = torch.empty(32 * MIB, dtype=torch.uint8, device="cuda")
    for size in (8, 8, 8, 8, 8, 8, 220):
        torch.empty(size * MIB, dtype=torch.uint8, device="cuda")
        step()
    del held


def fragmentation(step: Callable[[], None]) -> None:
    import torch

    for _ in range(4):
        step()
    # A segment has 20 MiB: 14 for the first, the rest for the second, which stays.
    large, small = [], []
    for _ in range(11):
        large.append(torch.empty(14 * MIB, dtype=torch.uint8, device="cuda"))
        small.append(torch.empty(6 * MIB, dtype=torch.uint8, device="cuda"))
    large.clear()
    torch.empty(60 * MIB, dtype=torch.uint8, device="cuda")


def outside(step: Callable[[], None]) -> None:
    import torch

    held = torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
    for _ in range(6):
        step()
    torch.empty(60 * MIB, dtype=torch.uint8, device="cuda")
    del held


def too_big(step: Callable[[], None]) -> None:
    import torch

    for _ in range(6):
        step()
    torch.empty(1024 * MIB, dtype=torch.uint8, device="cuda")


def too_much(step: Callable[[], None]) -> None:
    import torch

    for _ in range(6):
        step()
        held = torch.empty(140 * MIB, dtype=torch.uint8, device="cuda")
        more = torch.empty(140 * MIB, dtype=torch.uint8, device="cuda")
        del held, more


def run(cause: str, level: str) -> dict[str, Any]:
    """Run a program until it fails, and say what is found."""
    import torch

    import memprof

    model = torch.nn.Linear(8, 8, device="cuda")
    profiler = memprof.Profiler(level)

    def step() -> None:
        model(torch.ones(1, 8, device="cuda"))
        profiler.step()

    try:
        with profiler:
            globals()[cause](step)
    except torch.OutOfMemoryError as error:
        requested = str(error)
    [finding] = [finding for finding in profiler.findings if finding.code == "MP401"]
    return {
        "error": requested,
        "message": finding.message,
        "evidence": finding.evidence,
        "location": finding.location and finding.location.function,
        "remedies": [remedy.slug for remedy in finding.remedies],
        "retries": [item.message for item in profiler.findings if item.code == "MP313"],
    }


CAUSES = {
    "leak": ("leak", "detach", "a leak"),
    "spike": ("spike", "smaller_batch", "a spike"),
    "fragmentation": ("fragmentation", "allocator_settings", "in pieces too small for it"),
    "outside": ("outside this allocator", "allocator_settings", "another process"),
    "too_big": ("too big", "smaller_batch", "the request alone exceeds its 256 MiB"),
    "too_much": ("too big", "smaller_batch", "the step needs more than the device has"),
}


@pytest.mark.parametrize("level", ["auto", "blocks"])
@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named(on_cuda: Callable[..., Any], cause: str, level: str) -> None:
    name, remedy, words = CAUSES[cause]
    other = "150M" if cause == "outside" else "0"

    found = on_cuda(run, cause=cause, level=level, memory="256M", env={"NULLCUDA_OTHER": other})

    assert found["evidence"]["cause"] == name, found["message"]
    assert found["remedies"][0] == remedy
    assert words in found["message"]
    assert found["location"] == cause
    # What torch says of it: "... GPU 0 has a total capacity of 256.00 MiB of which ..."
    assert found["evidence"]["total_bytes"] == 256 * MIB
    asked = found["evidence"]["requested_bytes"]
    assert f"Tried to allocate {asked / MIB:.2f} MiB" in found["error"] or asked == 1024 * MIB
    assert found["retries"] == []  # the retry before an error is part of its story


def test_what_holds_the_rest_is_said_as_far_as_it_is_known(on_cuda: Callable[..., Any]) -> None:
    blocks, auto = (on_cuda(run, cause="leak", level=level, memory="256M") for level in ("blocks", "auto"))

    assert blocks["evidence"]["unknown_bytes"] == 0
    assert "The rest was held by: " in blocks["message"]
    # `auto` stopped watching before the leak had filled the device.
    assert auto["evidence"]["unknown_bytes"] > 64 * MIB
    assert "made while storages were not watched: `--level blocks` tells the lines of all" in auto["message"]
