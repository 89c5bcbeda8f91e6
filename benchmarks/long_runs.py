"""What memprof itself takes in a run of many iterations: memory, time, and the size of the recording.

`python -m benchmarks.long_runs --write docs/performance.md`. A clean loop of a small model runs in a process of its own
at each level and without memprof. Growth is taken from the second fifth of the iterations on: before that, both torch
and memprof meet everything for the first time. On a device that computes nothing (`python -m tests.nullcuda ...`) it
measures the levels of CUDA.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.report import write_between_markers

BEGIN = "<!-- long runs on {}: begin (written by python -m benchmarks.long_runs --write) -->"
END = "<!-- long runs on {}: end -->"
PARTS = 5
LEVELS = {"cpu": ("none", "steps", "auto", "tensors"), "cuda": ("none", "steps", "auto", "blocks", "tensors")}


def marks(count: int, rows: list[dict[str, float]]) -> Iterator[int]:
    """Numbers of iterations; measures the process at the ends of parts of equal length."""
    for index in range(count + 1):
        if index % (count // PARTS) == 0:
            spent = time.process_time()
            gc.collect()
            rows.append(
                {
                    "at": index,
                    "resident": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
                    "objects": len(gc.get_objects()),
                    "cpu_s": spent,
                    "cpu_s_after": time.process_time(),
                }
            )
        if index < count:
            yield index


def loop(turns: Iterator[int], device: str) -> None:
    """A clean training loop of a small model."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in turns:
        inputs, targets = torch.randn(16, 32, device=device), torch.randint(0, 8, (16,), device=device)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def one_run(level: str, count: int, folder: Path) -> dict[str, Any]:
    """Run the loop in this process."""
    import torch

    import memprof

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, float]] = []
    file = folder / "run.memprof"
    profiler = None if level == "none" else memprof.Profiler(level, output=file)
    with nullcontext() if profiler is None else profiler:
        loop(marks(count, rows), "cuda" if torch.cuda.is_available() else "cpu")
        ends = time.process_time()
    left = time.process_time()
    if profiler is not None:
        profiler.report()
    reported = time.process_time()
    base, last = rows[1], rows[-1]
    turns = last["at"] - base["at"]
    part_us = [1e6 * (b["cpu_s"] - a["cpu_s_after"]) / (b["at"] - a["at"]) for a, b in pairwise(rows)]
    return {
        "level": level,
        "resident_bytes": (last["resident"] - base["resident"]) / turns,
        "objects": (last["objects"] - base["objects"]) / turns,
        "recorded_bytes": (file.stat().st_size / count) if file.exists() else 0,
        "second_part_us": part_us[1],
        "last_part_us": part_us[-1],
        "leaving_s": left - ends,
        "report_s": reported - left,
    }


def to_markdown(results: dict[str, Any]) -> str:
    where = f"{results['cpu']}, {results['cores']} cores, torch {results['torch']} on {results['device']}, one thread"
    load = f"load average {results['load_before']:.1f} before and {results['load_after']:.1f} after the run"
    lines = [
        f"Measured on {where}, memprof {results['memprof']}; {results['count']:,} iterations, {load}.",
        "",
        "| level | resident, B | objects | recording, B | second fifth, µs | last fifth, µs | leaving, s | report, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results["runs"]:
        name = "nothing recorded" if row["level"] == "none" else f"`{row['level']}`"
        lines.append(
            f"| {name} | {row['resident_bytes']:.1f} | {row['objects']:.4f} "
            f"| {row['recorded_bytes']:,.0f} | {row['second_part_us']:.0f} | {row['last_part_us']:.0f} "
            f"| {row['leaving_s']:.2f} | {row['report_s']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_runs", description=__doc__)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--device", choices=list(LEVELS), default="cpu", help="whose levels to run")
    parser.add_argument("--one", metavar="LEVEL", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table between the markers of a page")
    options = parser.parse_args(arguments)
    if options.one:
        with tempfile.TemporaryDirectory(prefix="memprof-bench-") as folder:
            print(json.dumps(one_run(options.one, options.iterations, Path(folder))))
        return 0
    load_before = os.getloadavg()[0]
    runs = []
    for level in LEVELS[options.device]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.long_runs",
            "--one",
            level,
            "--iterations",
            str(options.iterations),
        ]
        runs.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        )
        print(f"{level}: {runs[-1]}", file=sys.stderr, flush=True)
    results = {
        **machine(),
        "count": options.iterations,
        "device": options.device,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "runs": runs,
    }
    text = to_markdown(results)
    if options.write is not None:
        begin, end = BEGIN.format(options.device), END.format(options.device)
        write_between_markers(options.write, text, begin=begin, end=end)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
