"""Snapshots written by hand, in the shapes torch has used over the years."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

MIB = 1 << 20
BASE = 0x7F0000000000
USER = {"filename": "/home/u/train.py", "line": 12, "name": "step"}
TORCH = {"filename": "/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", "line": 116, "name": "forward"}


def block(address: int, size: int, state: str = "active_allocated", **more: Any) -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": size - 12, "state": state, "frames": [], **more}


def segment(address: int = BASE, size: int = 2 * MIB, **more: Any) -> dict[str, Any]:
    blocks = more.pop("blocks", [block(address, 1024), block(address + 1024, size - 1024, "inactive")])
    active = sum(item["size"] for item in blocks if item["state"] != "inactive")
    allocated = sum(item["size"] for item in blocks if item["state"] == "active_allocated")
    return {
        "device": 0,
        "address": address,
        "total_size": size,
        "allocated_size": allocated,
        "active_size": active,
        "requested_size": sum(item.get("requested_size", 0) for item in blocks if item["state"] != "inactive"),
        "stream": 0,
        "segment_type": "small",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
        **more,
    }


def entry(action: str, address: int | None, size: int, time_us: int = 1, **more: Any) -> dict[str, Any]:
    found = {"action": action, "size": size, "stream": 0, "time_us": time_us, **more}
    return found if address is None else {**found, "addr": address}


def snapshot(**more: Any) -> dict[str, Any]:
    """One device: a segment, two allocations of which one was freed again, and an error."""
    trace = [
        entry("segment_alloc", BASE, 2 * MIB, 10),
        entry("alloc", BASE, 1012, 11, frames=[TORCH, USER]),
        entry("alloc", BASE + 1024, 500, 12, frames=[TORCH, USER]),
        entry("free_requested", BASE + 1024, 500, 13),
        entry("free_completed", BASE + 1024, 500, 14),
        entry("oom", None, 8 << 30, 15, device_free=5 * MIB, frames=[USER]),
        entry("annotate", BASE, 0, 16),
    ]
    return {
        "segments": [segment()],
        "device_traces": [trace],
        "allocator_settings": {"max_split_size": -1, "expandable_segments": False},
        "external_annotations": [{"device": 0, "name": "step", "stage": "START", "time_us": 9}],
        **more,
    }


def write(path: Path, data: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path
