"""The model against PyTorch's own allocator, and the allocator with memprof against without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cuda import payloads
from tests.cuda.workloads import WORKLOADS

_bare: dict[str, Any] = {}


def settings_of(name: str) -> dict[str, Any]:
    """How a workload's device is set up."""
    settings = WORKLOADS[name].settings
    env = dict(settings.get("env", {}))
    return {
        "devices": settings.get("devices", 1),
        "memory": env.pop("NULLCUDA_MEMORY", "40326M"),
        "env": {key: value for key, value in env.items() if not key.startswith("NULLCUDA_")},
    }


def _alone(on_cuda: Callable[..., Any], name: str) -> Any:
    if name not in _bare:
        _bare[name] = on_cuda(payloads.bare, name=name, **settings_of(name))
    return _bare[name]


@pytest.mark.parametrize("level", ["steps", "blocks", "tensors"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_figures_are_those_of_the_allocator(on_cuda: Callable[..., Any], name: str, level: str) -> None:
    run = on_cuda(payloads.profiled, name=name, level=level, **settings_of(name))
    alone = _alone(on_cuda, name)
    for device, found in enumerate(run["devices"]):
        real = [row[device] for row in run["rows"]]
        used = [row["reserved"] > 0 for row in real]
        first = used.index(True)  # a device that was not in use yet is not known yet
        assert found["allocated"][first:] == [row["allocated"] for row in real][first:]
        assert found["reserved"][first:] == [row["reserved"] for row in real][first:]
        assert found["peak"] == real[-1]["peak"]
        assert set(found["sources"][first:]) == {"measured"}
        if level != "steps":
            expected = [[row["allocated"], row["active"], row["reserved"]] for row in real][first:]
            assert found["states"][len(found["states"]) - 1 - len(expected) : -1] == expected
            assert found["live_blocks"] == found["real_blocks"]
            assert sum(found["composition"].values()) == found["peak"]
            assert found["composition"].get("uncategorised", 0) <= 0.05 * found["peak"]
        # Memprof left the allocator alone: the run took what it takes by itself.
        for key in ("peak", "peak_reserved"):
            assert real[-1][key] == alone[-1][device][key], key
