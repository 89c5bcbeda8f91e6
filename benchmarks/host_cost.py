"""What recording costs the host on CUDA, where launches are asynchronous and host time is what a profiler takes.

`python -m tests.nullcuda .venv-cuda/bin/python -m benchmarks.host_cost --write docs/performance.md`: on a device that
computes nothing, so that nothing hides the host's work. On a GPU (without `-m tests.nullcuda`) it measures the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

import memprof
from benchmarks.measure import spread
from benchmarks.report import write_between_markers
from benchmarks.workloads import WORKLOADS, Workload

BEGIN = "<!-- host cost: begin (written by python -m benchmarks.host_cost --write) -->"
END = "<!-- host cost: end -->"
Settle = Callable[[], None]
"""Does at once what a recorder has put off, so that it is counted."""


@contextmanager
def bare(_folder: Path) -> Iterator[Settle]:
    yield lambda: None


@contextmanager
def plain_history(_folder: Path) -> Iterator[Settle]:
    record = torch.cuda.memory._record_memory_history
    record(context="alloc", stacks="python", max_entries=400_000)
    try:
        yield lambda: None
    finally:
        record(enabled=None)


def level(name: str) -> Callable[[Path], AbstractContextManager[Settle]]:
    @contextmanager
    def attach(folder: Path) -> Iterator[Settle]:
        from memprof.capture.session import active_session

        with memprof.Profiler(name, output=folder / "run.memprof"):
            session = active_session()
            assert session is not None
            yield session.flush

    return attach


SUBJECTS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Settle]]]] = {
    "history": ("plain `_record_memory_history`, never read", plain_history),
    "steps": ("memprof, level `steps`", level("steps")),
    "blocks": ("memprof, level `blocks`", level("blocks")),
    "tensors": ("memprof, level `tensors`", level("tensors")),
}


@dataclass
class Row:
    """Blocks of one subject: microseconds of processor time an iteration, and its ratio to the bare loop around it."""

    added_us: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)


def block_us(
    attach: Callable[[Path], AbstractContextManager[Settle]], work: Workload, folder: Path, count: int
) -> float:
    """Processor time of this process for one iteration, all threads, in microseconds."""
    with attach(folder) as settle:
        spent = 0
        for index in range(8 + count):
            if index == 8:
                settle()
                gc.collect()
                spent = time.process_time_ns()
            work.step()  # one call site, so that memprof sees one loop
        settle()
        return (time.process_time_ns() - spent) / count / 1e3


def blocks_of(work: Workload) -> int:
    """Blocks that one iteration allocates."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    work.step()
    return int(torch.cuda.memory_stats()["allocation.all.allocated"] - before)


def measure(name: str, folder: Path, *, rounds: int, block_ns: int) -> dict[str, Any]:
    """Every subject on one workload, the bare loop before and after each."""
    work = WORKLOADS[name]()
    work.model.cuda()
    work.inputs, work.targets = work.inputs.cuda(), work.targets.cuda()
    for _ in range(5):
        work.step()
    blocks = blocks_of(work)
    count = max(3, round(block_ns / 1e3 / block_us(bare, work, folder, 5)))
    rows = {key: Row() for key in SUBJECTS}
    alone = []
    keys = list(SUBJECTS)
    for number in range(rounds):
        before = block_us(bare, work, folder, count)
        turn = number % len(keys)
        for key in keys[turn:] + keys[:turn]:
            spent = block_us(SUBJECTS[key][1], work, folder, count)
            after = block_us(bare, work, folder, count)
            rows[key].added_us.append(spent - (before + after) / 2)
            rows[key].ratio.append(2 * spent / (before + after))
            alone.append(before)
            before = after
        print(f"{name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {
        "title": work.title,
        "iterations": count,
        "rounds": rounds,
        "bare_us": median(alone),
        "blocks": blocks,
        "subjects": {key: {"added_us": median(row.added_us), "ratio": spread(row.ratio)} for key, row in rows.items()},
    }


def to_markdown(results: dict[str, Any]) -> str:
    where = f"{results['cores']} cores, torch {results['torch']}, {results['device']}, one thread"
    load = f"load average {results['load_before']:.1f} before and {results['load_after']:.1f} after the run"
    lines = [
        f"Measured on {where}, memprof {results['memprof']}; {load}.",
        "",
        "| workload | recorded by | adds to an iteration, µs | ratio | min - max |",
        "|---|---|---:|---:|---:|",
    ]
    for item in results["workloads"].values():
        bare = f"nothing: {item['bare_us']:,.0f} µs, {item['blocks']} blocks allocated"
        lines.append(f"| {item['title']} | {bare} | | 1 | |")
        for key, row in item["subjects"].items():
            ratio = row["ratio"]
            lines.append(
                f"| {item['title']} | {SUBJECTS[key][0]} | {row['added_us']:,.0f} | {ratio['median']:.3f} "
                f"| {ratio['min']:.3f} - {ratio['max']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_cost", description=__doc__)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=8, help="turns through all subjects")
    parser.add_argument("--milliseconds", type=float, default=150, help="aim for the length of one timed block")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table between the markers of a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; without a GPU, run it under `python -m tests.nullcuda`")
    torch.set_num_threads(1)
    null = "libnullcuda" in os.environ.get("LD_PRELOAD", "")
    results: dict[str, Any] = {
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
        "memprof": memprof.__version__,
        "device": "a device that computes nothing" if null else torch.cuda.get_device_name(),
        "load_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="memprof-bench-") as folder:
        results["workloads"] = {
            name: measure(name, Path(folder), rounds=options.rounds, block_ns=round(options.milliseconds * 1e6))
            for name in options.workload or list(WORKLOADS)
        }
    results["load_after"] = os.getloadavg()[0]
    text = to_markdown(results)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.write is not None:
        write_between_markers(options.write, text, begin=BEGIN, end=END)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
