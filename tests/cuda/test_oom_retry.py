"""`memprof.oom.retry` on errors of the real allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cuda import payloads


@pytest.mark.parametrize("form", ["function", "iterator"])
def test_training_goes_on_in_parts_that_fit(on_cuda: Callable[..., Any], form: str) -> None:
    found = on_cuda(payloads.retried, form=form, memory="1G")

    assert found["steps"] == 3
    assert found["sizes"][0] == 16384
    fits = found["sizes"][-1]
    assert fits < 16384
    assert sum(found["sizes"][-16384 // fits :]) == 16384  # the last batch came whole, in parts
    assert len(set(found["alive"])) == 1  # nothing of a failed attempt stayed
    assert "MP401" in found["codes"]
    assert any("ran out of memory with 16384 examples at a time" in note for note in found["notes"])
