"""Replays of recorded histories against what the allocator did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cuda import payloads
from tests.cuda.test_differential import settings_of
from tests.cuda.workloads import WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_replay_as_recorded_needs_what_the_run_did(on_cuda: Callable[..., Any], name: str) -> None:
    for device in on_cuda(payloads.replayed, name=name, **settings_of(name)):
        assert device["replayed"] == device["as recorded"]
