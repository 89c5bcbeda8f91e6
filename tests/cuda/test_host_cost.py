"""The benchmark of what recording costs the host runs; no timing is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cuda.conftest import OnCuda


def measured() -> dict[str, Any]:
    """One short round."""
    from benchmarks import host_cost

    return host_cost.measure("mlp", Path.cwd(), rounds=1, block_ns=1_000_000)


def test_every_subject_is_measured(on_cuda: OnCuda) -> None:
    found = on_cuda(measured)
    assert set(found["subjects"]) == {"history", "steps", "blocks", "tensors"}
    assert all(row["ratio"]["median"] > 0 for row in found["subjects"].values())
