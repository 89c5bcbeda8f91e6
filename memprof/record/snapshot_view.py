"""A PyTorch snapshot seen as a recording: one stretch without iterations, made of blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from memprof.record.blocks import AllocatorHistory, BlockAction, BlockLog, BlockState, DeviceHistory, IntArray
from memprof.record.census import Census
from memprof.record.events import (
    Birth,
    Death,
    DeviceState,
    Location,
    OutOfMemory,
    ParameterProfile,
    Pass,
    Phase,
    RoleFact,
    Tick,
    TickFlag,
)
from memprof.record.run_info import RunInfo
from memprof.record.schema import BLOCK_COLUMNS, NONE, SEGMENT_COLUMNS

_GRANULE = 512
_TIME = BLOCK_COLUMNS.index("time_ns")
_LIBRARY_MARKS = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen", "<eval_with_key>", "??")


class SnapshotView:
    """Lets the model read an allocator history as it reads a recording.

    Args:
        history: What the snapshot says.
        path: The file it came from.
    """

    censuses: Sequence[Census] = ()
    states: Sequence[DeviceState] = ()
    passes: Sequence[Pass] = ()
    parameters: Sequence[ParameterProfile] = ()

    def __init__(self, history: AllocatorHistory, path: str | os.PathLike[str]) -> None:
        self.history = history
        self.path = os.fspath(path)
        times = [device.events.time_ns[device.events.time_ns >= 0] for device in history.devices]
        known = np.concatenate([np.zeros(0, np.int64), *times])
        start, end = (int(known.min()), int(known.max())) if len(known) else (0, 0)
        self._starts = [_before(device, code) for code, device in enumerate(history.devices)]
        notes = []
        if not any(len(device.events) for device in history.devices):
            notes.append("the snapshot has no trace: only what was alive when it was taken is known")
        elif any(
            len(device.events) and len(start) for device, start in zip(history.devices, self._starts, strict=True)
        ):
            notes.append("the trace begins in the middle of the run: peaks before it are not known")
        self.run = RunInfo(
            script=self.path,
            level="snapshot",
            devices=tuple(device.device for device in history.devices),
            counter={device.device: "caching allocator" for device in history.devices},
            started_unix_ns=start,
            finished=True,
            notes=tuple(notes),
        )
        flags = TickFlag.FINAL | TickFlag.BLOCKS
        self.ticks: Sequence[Tick] = (Tick(0, start, end + 1, flags),)

    def close(self) -> None:
        """Nothing to close: the file was read as a whole."""

    def __enter__(self) -> SnapshotView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @property
    def ooms(self) -> Sequence[OutOfMemory]:
        """The trace's out-of-memory entries."""
        return tuple(oom for device in self.history.devices for oom in self._ooms(device))

    def last_uses(self) -> Mapping[int, int]:
        """Nothing: a snapshot does not know what reads a block."""
        return {}

    def births(self) -> Iterator[Birth]:
        """None: a snapshot knows blocks, not storages."""
        return iter(())

    def deaths(self) -> Iterator[Death]:
        """None."""
        return iter(())

    def roles(self) -> Iterator[RoleFact]:
        """None."""
        return iter(())

    def block_log(self) -> BlockLog:
        """The traces of all devices, behind what was there before them."""
        rows = self._rows()
        table = np.concatenate([np.zeros((0, len(SEGMENT_COLUMNS)), np.int64), *self._starts])
        return BlockLog(
            starts=((0, table),),
            events=rows,
            ticks=np.zeros(len(rows), np.int64),
            devices={code: device.device for code, device in enumerate(self.history.devices)},
            stacks=dict(enumerate(self.history.stacks)),
            user_lines={number: user_line(stack) for number, stack in enumerate(self.history.stacks)},
            settings=self.history.settings,
        )

    def _rows(self) -> IntArray:
        """The traces in one table, which is not copied where it is there already."""
        devices = self.history.devices
        if len(devices) == 1 and (only := devices[0].events.table) is not None and (only[:, _TIME] >= 0).all():
            return only
        rows = np.empty((sum(len(device.events) for device in devices), len(BLOCK_COLUMNS)), np.int64)
        first = 0
        for code, device in enumerate(devices):
            trace = device.events
            part = rows[first : first + len(trace)]
            for place, name in enumerate(BLOCK_COLUMNS):
                part[:, place] = code if name == "device" else getattr(trace, name)
            np.maximum(part[:, _TIME], self.ticks[0].start_ns, out=part[:, _TIME])
            first += len(trace)
        return rows

    def _ooms(self, device: DeviceHistory) -> Iterator[OutOfMemory]:
        events = device.events
        reserved = sum(segment.nbytes for segment in device.segments)
        for row in np.flatnonzero(events.action == BlockAction.OOM).tolist():
            stack = int(events.stack[row])
            yield OutOfMemory(
                tick=0,
                time_ns=int(events.time_ns[row]),
                device=device.device,
                phase=Phase.OTHER,
                requested_bytes=int(events.nbytes[row]),
                segment_bytes=int(events.nbytes[row]),
                total_bytes=None,
                free_bytes=events.device_free.get(row),
                allocated_bytes=0,
                reserved_bytes=reserved,
                largest_hole_bytes=None,
                stranded_bytes=None,
                location=user_line(self.history.stacks[stack]) if stack >= 0 else None,
            )


def user_line(stack: Sequence[Location]) -> Location | None:
    """The innermost line that looks like the user's: not in an installed package, not in Python itself.

    The file was written on another machine, so paths are all there is to go by. A stack that lies in packages
    only gives its innermost line outside torch.
    """
    for frame in stack:
        if not _in_library(frame.file):
            return frame
    for frame in stack:
        if f"{os.sep}torch{os.sep}" not in frame.file and frame.file.endswith(".py"):
            return frame
    return None


def _in_library(file: str) -> bool:
    path = file.replace("\\", "/")
    return any(mark in path for mark in _LIBRARY_MARKS) or path.startswith("/lib/python3") or not path.endswith(".py")


def _before(device: DeviceHistory, code: int) -> IntArray:
    """Rows of `SEGMENT_COLUMNS` for the blocks that the trace does not see allocated."""
    events = device.events
    wanted = np.flatnonzero((events.action == BlockAction.ALLOC) | (events.action == BlockAction.FREE_REQUESTED))
    address, allocs = events.address[wanted], events.action[wanted] == BlockAction.ALLOC
    order = np.argsort(address, kind="stable")
    address, allocs = address[order], allocs[order]
    same = np.append(False, address[1:] == address[:-1])[: len(address)]
    after_alloc = same & np.append(False, allocs[:-1])[: len(address)]
    unseen, first = np.unique(address[~allocs & ~after_alloc], return_index=True)
    nbytes = events.nbytes[wanted][order][~allocs & ~after_alloc][first]
    found = {
        where: (-(-max(size, 1) // _GRANULE) * _GRANULE, size, NONE)
        for where, size in zip(unseen.tolist(), nbytes.tolist(), strict=True)
    }
    last = allocs & ~np.append(same[1:], False)[: len(address)]
    born = set(address[last].tolist())
    for segment in device.segments:
        for block in segment.blocks:
            if block.state == BlockState.ACTIVE_ALLOCATED and block.address not in born:
                found[block.address] = (block.nbytes, block.requested_bytes, block.stack)
    state = int(BlockState.ACTIVE_ALLOCATED)
    rows = [
        (code, NONE, 0, 0, 1, 0, 0, 0, address, nbytes, requested, state, stack)
        for address, (nbytes, requested, stack) in sorted(found.items())
    ]
    return np.array(rows, np.int64).reshape(-1, len(SEGMENT_COLUMNS))
