"""Recordings to start a test from."""

from __future__ import annotations

import pytest

from memprof.record.run_info import RunInfo
from tests.unit.model.fake_recording import FakeRecording


@pytest.fixture
def recording() -> FakeRecording:
    """An empty CPU recording whose first tick is watched."""
    fake = FakeRecording()
    fake.run.counter = {"cpu": "glibc malloc"}
    return fake


@pytest.fixture
def cuda_recording() -> FakeRecording:
    """An empty CUDA recording; 4096 bytes are allocated that no storage explains."""
    run = RunInfo(devices=("cuda:0",), counter={"cuda:0": "caching allocator"}, has_optimizer=True)
    return FakeRecording(run=run, device="cuda:0", counter_noise=4096, peak_counter=4096, reserved=1 << 21)
