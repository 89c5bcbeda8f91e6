"""How far the model of the allocator decides as the real one did, allocation by allocation, and how fast.

`python -m benchmarks.replays [FILE ...]` compares histories, each a recording of level `blocks` or a PyTorch snapshot
with a trace. With `--workloads`, and a Python whose torch is a CUDA build, it first records those of
`tests/cuda/workloads.py` on the null device. With `--speed N` it measures the replay of N allocations and frees.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from memprof.advise.device_runs import DeviceRun, device_runs
from memprof.record.blocks import BlockAction, BlockEvents
from memprof.record.files import open_file
from memprof.simulate.allocator import CachingAllocator
from memprof.simulate.driver import DEVICE_BASE, GRANULARITY_BYTES, FirstFitDriver
from memprof.simulate.replay import replay
from memprof.simulate.settings import AllocatorSettings

_UNBOUNDED = 1 << 50
_TIMEOUT_S = 600


@dataclass
class Agreement:
    """How often model and record agree; each but the first a part of the first."""

    allocations: int = 0
    same_choice: int = 0
    """A free block was taken where the record has that, and new memory of the same bytes where it has this."""
    same_address: int = 0
    """The block lies where it lay."""
    new_memory: int = 0
    """Allocations for which the record has new memory from the driver."""
    new_memory_same: int = 0
    """Those of them for which the model took as many bytes."""


class _RecordedDriver(FirstFitDriver):
    """Gives segments the addresses they had in a recording, and others an address above; adds up what is asked of it.

    Args:
        segments: Address and bytes of every segment recorded, in the order they were obtained.
    """

    def __init__(self, segments: Iterable[tuple[int, int]]) -> None:
        self._recorded: dict[int, deque[int]] = defaultdict(deque)
        top = DEVICE_BASE
        for address, nbytes in segments:
            self._recorded[nbytes].append(address)
            top = max(top, address + nbytes)
        super().__init__(_UNBOUNDED, base=_pages(top))
        self._given: dict[int, int] = {}
        self.taken_bytes = 0

    def create(self, nbytes: int) -> bool:
        """See `Driver`."""
        done = super().create(nbytes)
        self.taken_bytes += nbytes if done else 0
        return done

    def malloc(self, nbytes: int) -> int | None:
        """See `Driver`."""
        known = self._recorded[nbytes]
        if not known or any(at < known[0] + nbytes and known[0] < at + size for at, size in self._given.items()):
            return super().malloc(nbytes)
        if not self.create(_pages(nbytes)):
            return None
        address = known.popleft()
        self._given[address] = nbytes
        return address

    def free(self, address: int) -> None:
        """See `Driver`."""
        nbytes = self._given.pop(address, None)
        if nbytes is None:
            super().free(address)
        else:
            self.destroy(_pages(nbytes))


def _pages(nbytes: int) -> int:
    """Whole pages, which is what the driver hands out."""
    return -(-nbytes // GRANULARITY_BYTES) * GRANULARITY_BYTES


def compare(run: DeviceRun, torch_version: tuple[int, int]) -> Agreement:
    """Replay what a device was asked for under the settings it had.

    Args:
        run: Of a recording.
        torch_version: That recorded it.

    Returns:
        How often model and record agree.
    """
    events = run.events
    grows = np.isin(events.action, (BlockAction.SEGMENT_ALLOC, BlockAction.SEGMENT_MAP))
    pages = -(-events.nbytes // GRANULARITY_BYTES) * GRANULARITY_BYTES
    grown = np.cumsum(np.where(grows, pages, 0)).tolist()
    segments = zip(events.address[grows].tolist(), events.nbytes[grows].tolist(), strict=True)
    driver = _RecordedDriver([*((item.address, item.nbytes) for item in run.before), *segments])
    addresses = events.address.tolist()
    found = Agreement()
    # What the blocks from before took is not told apart from what the first allocation takes.
    last: tuple[int, int] | None = None if run.before else (0, 0)

    def watch(row: int, address: int) -> None:
        nonlocal last
        now = driver.taken_bytes, grown[row]
        if last is not None:
            here, recorded = now[0] - last[0], now[1] - last[1]
            found.allocations += 1
            found.same_choice += recorded == here
            found.same_address += address == addresses[row]
            found.new_memory += recorded > 0
            found.new_memory_same += recorded > 0 and recorded == here
        last = now

    settings = AllocatorSettings() if run.log is None else AllocatorSettings.from_snapshot(run.log.settings)
    replay(
        events,
        settings,
        _UNBOUNDED,
        segments=run.before,
        torch_version=torch_version,
        empty_cache=run.empties_cache,
        driver=driver,
        watch=watch,
    )
    return found


def of_file(path: str) -> list[Agreement]:
    """Compare every device of a recording or a snapshot."""
    recording = open_file(path)
    version = tuple(int(part) for part in (recording.run.torch or "2.14").split("+")[0].split(".")[:2])
    return [compare(run, (version[0], version[1])) for run in device_runs(recording) if run.log is not None]


def recorded(name: str) -> list[dict[str, int]]:
    """Run a workload on CUDA at level `blocks`, in this process, and compare its history."""
    import memprof
    from benchmarks.prediction import workloads_by_name
    from tests.cuda import workloads

    workload = workloads_by_name()[name]
    turns = 1 + workload.settings.get("iters", workloads.ITERS)
    path = os.path.join(os.getcwd(), "run.memprof")
    with memprof.Profiler("blocks", output=path) as profiler:
        for count, _ in enumerate(workload("cuda"), 1):
            profiler.step()
            if count == turns:
                break
    return [vars(found) for found in of_file(path)]


def speed(count: int) -> str:
    """Replay allocations and frees of a program that keeps about 2,000 blocks.

    Args:
        count: Allocations and frees.

    Returns:
        Allocations and frees a second of processor time, and bytes they take.
    """
    choose = random.Random(0)
    live: list[int] = []
    rows: list[tuple[int, int, int]] = []
    for address in range(1, count + 1):
        if live and (len(live) > 2000 or choose.random() < 0.4):
            at = choose.randrange(len(live))
            live[at], live[-1] = live[-1], live[at]
            freed = live.pop()
            rows += [(BlockAction.FREE_REQUESTED, freed, 0), (BlockAction.FREE_COMPLETED, freed, 0)]
        else:
            live.append(address)
            rows.append((BlockAction.ALLOC, address, choose.choice((512, 4096, 1 << 16, 3 << 20, 9 << 20))))
    table = np.array(rows, np.int64)
    del rows
    filled = np.zeros(len(table), np.int64)
    events = BlockEvents(table[:, 0].astype(np.int8), filled, table[:, 1], table[:, 2], filled, filled.astype(np.int32))
    begin = time.process_time()
    replay(events)
    replayed = count / (time.process_time() - begin)
    tracemalloc.start()
    replay(events)
    peak = tracemalloc.get_traced_memory()[1] / count
    tracemalloc.stop()
    allocator = CachingAllocator()
    sizes = [choose.choice((512, 4096, 1 << 16, 3 << 20)) for _ in range(1000)]
    turns = max(count // (2 * len(sizes)), 1)
    begin = time.process_time()
    for _ in range(turns):
        for address in [allocator.malloc(nbytes) for nbytes in sizes]:
            allocator.free(address)
    called = 2 * turns * len(sizes) / (time.process_time() - begin)
    columns = (events.action, events.time_ns, events.address, events.nbytes, events.stream, events.stack)
    nbytes = sum(column.itemsize for column in columns)
    return (
        f"{replayed:,.0f} allocations and frees replayed a second, {called:,.0f} of calls; {len(table):,} rows of "
        f"{nbytes} bytes, and {peak:.0f} bytes for every allocation or free while they are replayed"
    )


def _workloads(names: list[str]) -> list[tuple[str, Agreement]]:
    from benchmarks.prediction import workloads_by_name
    from tests.cuda.place import Place
    from tests.nullcuda.build import build

    place = Place(build())
    found = []
    for name in names or list(workloads_by_name()):
        settings = workloads_by_name()[name].settings
        env = dict(settings.get("env", {}))
        env |= place.settings(settings.get("devices", 1), env.pop("NULLCUDA_MEMORY", "40326M"))
        with tempfile.TemporaryDirectory() as folder:
            done = place.zygote({}).run(recorded, {"name": name}, env=env, cwd=Path(folder), timeout_s=_TIMEOUT_S)
        found += [(name, Agreement(**item)) for item in done]
        print(name, done, file=sys.stderr, flush=True)
    place.close()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replays", description=__doc__)
    parser.add_argument("files", nargs="*", help="recordings or snapshots; names of workloads with --workloads")
    parser.add_argument("--workloads", action="store_true", help="record workloads, all unless some are named")
    parser.add_argument("--speed", type=int, metavar="N", help="measure the replay of N allocations and frees")
    given = parser.parse_args(arguments)
    if given.speed:
        print(speed(given.speed))
        return 0
    rows = _workloads(given.files) if given.workloads else []
    if not given.workloads:
        rows = [(Path(path).name, found) for path in given.files for found in of_file(path)]
    names = [field.name for field in fields(Agreement)]
    total = Agreement(**{name: sum(getattr(found, name) for _, found in rows) for name in names})
    print("| history | " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("| --- |" + " ---: |" * len(names))
    for label, found in [*rows, ("all", total)]:
        print(f"| {label} | " + " | ".join(f"{getattr(found, name):,}" for name in names) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
