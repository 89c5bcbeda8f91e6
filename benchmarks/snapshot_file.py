"""Makes a memory snapshot as a training run would leave it, of any length.

The addresses, segments and splits are those of the allocator model, which follows PyTorch's; the trace, its stacks and
how they are shared between entries are shaped like those of snapshots recorded on GPUs with Python stacks.
"""

from __future__ import annotations

import pickle
import random
import sys
from pathlib import Path
from typing import Any

from memprof.record.blocks import BlockState
from memprof.simulate import CachingAllocator

Frames = list[dict[str, Any]]

_TORCH = "/venv/lib/python3.11/site-packages/torch/"
_LAYERS = 24
_HIDDEN = 1024
_MODULES = ("module", "linear", "container", "activation", "normalization")
_CALLS = ("_wrapped_call_impl", "_call_impl", "forward")
_PROTOCOL = 4
_FIRST_US = 1_700_000_000_000_000


def write_snapshot(path: Path, events: int) -> Path:
    """Write a snapshot of a transformer's training.

    Args:
        path: The file.
        events: Least trace entries; the iteration in which they are reached is finished.

    Returns:
        The path.
    """
    run = _Run()
    parameters = [run.allocate(4 * _HIDDEN * _HIDDEN, run.stack("build", 6)) for _ in range(4 * _LAYERS)]
    while len(run.trace) < events:
        run.iteration()
    del parameters
    document = {
        "segments": run.segments(),
        "device_traces": [run.trace],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "expandable_segments": False},
        "external_annotations": [],
    }
    with open(path, "wb") as file:
        pickle.dump(document, file, protocol=_PROTOCOL)
    return path


class _Run:
    """A program that trains, on a simulated allocator that keeps PyTorch's kind of history."""

    def __init__(self) -> None:
        self.trace: list[dict[str, Any]] = []
        self._random = random.Random(0)
        self._allocator = CachingAllocator(1 << 40)
        self._known: set[int] = set()
        self._live: dict[int, tuple[int, Frames]] = {}
        self._frames: dict[tuple[str, int, str], dict[str, Any]] = {}
        self._time_us = _FIRST_US
        self._step = 0

    def stack(self, where: str, depth: int) -> Frames:
        """A stack of its own list and shared frames, innermost first, as torch makes one for every entry."""
        user = [("train.py", 40 + depth, where), ("train.py", 120, "main"), ("train.py", 131, "<module>")]
        inner = [
            (
                f"{_TORCH}nn/modules/{_MODULES[(at + depth) % 5]}.py",
                300 + 7 * at + sum(map(ord, where)) % 50,
                _CALLS[at % 3],
            )
            for at in range(max(0, depth - 3))
        ]
        return [self._frame(*frame) for frame in (*inner, *user)]

    def _frame(self, file: str, line: int, name: str) -> dict[str, Any]:
        key = (file, line, name)
        if key not in self._frames:
            self._frames[key] = {"name": name, "filename": file, "line": line}
        return self._frames[key]

    def _entry(self, action: str, address: int, nbytes: int, frames: Frames) -> None:
        self._time_us += self._random.randrange(1, 40)
        self.trace.append(
            {
                "action": action,
                "addr": address,
                "size": nbytes,
                "stream": 0,
                "time_us": self._time_us,
                "compile_context": "".join(("N", "/A")),  # an object of its own, as torch makes one
                "user_metadata": "",
                "frames": frames,
            }
        )

    def allocate(self, nbytes: int, frames: Frames) -> int:
        """Allocate, with entries for the block and for a new segment if there is one."""
        reserved = self._allocator.reserved_bytes
        address = self._allocator.malloc(nbytes)
        grown = self._allocator.reserved_bytes - reserved
        if grown:
            self._entry("segment_alloc", address, grown, list(frames))
        self._entry("alloc", address, nbytes, frames)
        self._live[address] = (nbytes, frames)
        return address

    def free(self, address: int, frames: Frames) -> None:
        """Free, with the two entries torch writes, which share one list of frames."""
        nbytes, _ = self._live.pop(address)
        self._allocator.free(address)
        self._entry("free_requested", address, nbytes, frames)
        self._entry("free_completed", address, nbytes, frames)

    def iteration(self) -> None:
        """Forward with saved activations and temporaries, backward on a thread without Python frames, a step."""
        tokens = self._random.choice((384, 448, 512)) * 8
        self._step += 1
        saved: list[int] = [self.allocate(8 * tokens, self.stack("load", 5))]
        for layer in range(_LAYERS):
            for place in range(5):
                frames = self.stack(f"block_{layer}_{place}", 14 + (layer + 3 * place) % 11)
                saved.append(self.allocate(2 * tokens * _HIDDEN * (1 + place % 2), frames))
                temporary = self.allocate(4 * tokens * (1 + place), list(frames))
                self.free(temporary, list(frames))
        for activation in reversed(saved):
            gradient = self.allocate(self._live[activation][0], [])
            small = self.allocate(512 * (1 + self._step % 3), [])
            self.free(small, [])
            self.free(activation, [])
            self.free(gradient, [])
        moment = self.allocate(4 * _HIDDEN * _HIDDEN, self.stack("step", 9))
        self.free(moment, self.stack("step", 8))
        if self._step % 64 == 0:
            self.allocate(4 * 1024, self.stack("log", 4))  # what a run keeps

    def segments(self) -> list[dict[str, Any]]:
        """The allocator's segments in the shape of `torch.cuda.memory._snapshot`."""
        states = {
            BlockState.INACTIVE: "inactive",
            BlockState.ACTIVE_ALLOCATED: "active_allocated",
            BlockState.ACTIVE_AWAITING_FREE: "active_pending_free",
        }
        found = []
        for segment in self._allocator.snapshot():
            blocks = [
                {
                    "address": block.address,
                    "size": block.nbytes,
                    "requested_size": block.requested_bytes,
                    "state": states[block.state],
                    "frames": self._live[block.address][1] if block.address in self._live else [],
                }
                for block in segment.blocks
            ]
            active = [block for block in blocks if block["state"] != "inactive"]
            found.append(
                {
                    "device": 0,
                    "address": segment.address,
                    "total_size": segment.nbytes,
                    "allocated_size": sum(block["size"] for block in active),
                    "active_size": sum(block["size"] for block in active),
                    "requested_size": sum(block["requested_size"] for block in active),
                    "stream": segment.stream,
                    "segment_type": "large" if segment.large else "small",
                    "segment_pool_id": (0, 0),
                    "is_expandable": False,
                    "frames": [],
                    "blocks": blocks,
                }
            )
        return found


if __name__ == "__main__":
    write_snapshot(Path(sys.argv[1]), int(sys.argv[2]))
