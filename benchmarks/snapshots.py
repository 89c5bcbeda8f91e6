"""What opening and judging a large memory snapshot takes, beside PyTorch's own tools and others.

`python -m benchmarks.snapshots --peers PYTHON --write docs/performance.md`: makes a snapshot of a million trace entries
with stacks and gives it to each tool in a process of its own, in turns. PYTHON is an interpreter of an environment with
`ptmem` and `pt-snap-cli` (`pip install ptmem pt-snap-cli`); what is not installed there is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine
from benchmarks.report import write_between_markers

BEGIN = "<!-- snapshots: begin (written by python -m benchmarks.snapshots --write) -->"
END = "<!-- snapshots: end -->"

SLOWEST_AIM = 5.0
"""Times as fast as the slowest of the others."""
MEMORY_AIM = 3.0
"""Peak memory at most, in sizes of the file."""
_MIB = 1 << 20
_SEGSUM = (
    "import pickle, sys; from torch.cuda import _memory_viz as v; print(v.segsum(pickle.load(open(sys.argv[1], 'rb'))))"
)


@dataclass(frozen=True)
class Tool:
    """A way to look at a snapshot, as commands run one after the other."""

    title: str
    answer: str
    """What one gets."""
    commands: Callable[[Path, Path], Sequence[Sequence[str]]]
    """Of the snapshot and of an empty folder."""
    peer: bool = True


def tools(peers: str | None) -> dict[str, Tool]:
    """All that can be run here.

    Args:
        peers: Interpreter of the environment of the others, or None.
    """
    viz = (sys.executable, "-W", "ignore", "-m", "torch.cuda._memory_viz")
    found = {
        "memprof": Tool(
            "`memprof report`",
            "peak, findings, blocks alive by line and age",
            lambda file, out: [(sys.executable, "-m", "memprof", "report", str(file), "--output", str(out / "r.txt"))],
            peer=False,
        ),
        "trace_plot": Tool(
            "`_memory_viz trace_plot`",
            "a page to open in a browser",
            lambda file, out: [(*viz, "trace_plot", str(file), "-o", str(out / "t.html"))],
        ),
        "segment_plot": Tool(
            "`_memory_viz segment_plot`",
            "a page to open in a browser",
            lambda file, out: [(*viz, "segment_plot", str(file), "-o", str(out / "s.html"))],
        ),
        "segsum": Tool(
            "`_memory_viz.segsum`",
            "a table of the segments, as text",
            lambda file, _out: [(sys.executable, "-c", _SEGSUM, str(file))],
        ),
        "import_torch": Tool(
            "`import torch` alone",
            "part of the rows of `_memory_viz`",
            lambda _file, _out: [(sys.executable, "-c", "import torch")],
            peer=False,
        ),
    }
    if peers is not None:
        folder = Path(peers).parent
        if (folder / "ptmem").exists():
            found["ptmem"] = Tool(
                f"ptmem {_version(peers, 'ptmem')} `-s`",
                "peak and sums",
                lambda file, _out: [(str(folder / "ptmem"), "-s", str(file))],
            )
        if (folder / "pt-snap").exists():
            pt_snap = str(folder / "pt-snap")
            found["pt-snap"] = Tool(
                f"pt-snap-cli {_version(peers, 'pt-snap-cli')} `import`, `report peak-memory`",
                "a database; the peak by stack",
                lambda file, out: [
                    (pt_snap, "import", str(file), "--output-dir", str(out), "--no-focus"),
                    (pt_snap, "report", "peak-memory", str(out / f"{file.name}.db"), "--device", "0"),
                ],
            )
    return found


def _version(python: str, package: str) -> str:
    source = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([python, "-c", source], check=True, capture_output=True, text=True).stdout.strip()


def run_once(tool: Tool, file: Path, folder: Path) -> dict[str, float]:
    """Run a tool's commands; wall and processor seconds of all, and the highest resident memory of any, in bytes.

    Raises:
        RuntimeError: A command failed.
    """
    wall = cpu = peak = 0.0
    for command in tool.commands(file, folder):
        begin = time.perf_counter()
        with open(folder / "errors.txt", "wb+") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                errors.seek(0)
                raise RuntimeError(f"{command} failed: {errors.read().decode(errors='replace')[-2000:]}")
        wall += time.perf_counter() - begin
        cpu += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss * 1024)
    return {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak}


def measure(events: int, rounds: int, chosen: dict[str, Tool]) -> dict[str, Any]:
    """Make the snapshot and run every tool on it, round by round."""
    load = os.getloadavg()[0]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="memprof-bench-") as name:
        file = Path(name) / "memory.pickle"
        # Made in a process of its own: a million dictionaries would slow this one down.
        subprocess.run([sys.executable, "-m", "benchmarks.snapshot_file", str(file), str(events)], check=True)
        for number in range(rounds):
            order = list(chosen)
            for key in order[number % len(order) :] + order[: number % len(order)]:
                for cache in file.parent.glob(".*.memcache"):  # ptmem's, which would spare it the work
                    cache.unlink()
                with tempfile.TemporaryDirectory(dir=name) as folder:
                    runs[key].append(run_once(chosen[key], file, Path(folder)))
                print(f"{number + 1}/{rounds} {key}: {runs[key][-1]['wall_s']:.1f} s", file=sys.stderr, flush=True)
        nbytes = file.stat().st_size
    return {
        "schema": "memprof.benchmarks.snapshots/1",
        "machine": machine() | {"load_before": load, "load_after": os.getloadavg()[0]},
        "events": events,
        "file_bytes": nbytes,
        "rounds": rounds,
        "tools": {
            key: {
                "title": tool.title,
                "answer": tool.answer,
                "peer": tool.peer,
                **{name: median(run[name] for run in runs[key]) for name in ("wall_s", "cpu_s", "peak_bytes")},
                "runs": runs[key],
            }
            for key, tool in chosen.items()
        },
    }


def to_markdown(results: dict[str, Any]) -> str:
    """The results as a section of the page."""
    found, nbytes = results["tools"], results["file_bytes"]
    own = found["memprof"]
    peers = [item for item in found.values() if item["peer"]]
    hardware = results["machine"]
    aims = [("peak memory, in sizes of the file", own["peak_bytes"] / nbytes, MEMORY_AIM, False)]
    if peers:
        slowest, fastest = (pick(item["cpu_s"] for item in peers) for pick in (max, min))
        aims.insert(0, ("times as fast as the slowest of the others", slowest / own["cpu_s"], SLOWEST_AIM, True))
        aims.insert(1, ("times as fast as the fastest of the others", fastest / own["cpu_s"], 1.0, True))
    lines = [
        (
            f"A snapshot of {results['events']:,} trace entries with stacks, {nbytes / _MIB:.0f} MiB; each tool in a "
            f"process of its own, {results['rounds']} rounds in turns, medians. Ratios are of processor time, which a "
            f"busy machine disturbs less. {hardware['cpu']}, {hardware['cores']} cores, "
            f"{hardware['system']}, Python {hardware['python']}, torch {hardware['torch']}; load average "
            f"{hardware['load_before']:.1f} before and {hardware['load_after']:.1f} after."
        ),
        "",
        "| aim | measured | wanted | |",
        "|---|---:|---:|---|",
    ]
    for what, value, wanted, least in aims:
        met = value >= wanted if least else value <= wanted
        bound = "at least" if least else "at most"
        lines.append(f"| {what} | {value:.2f} | {bound} {wanted:g} | {'met' if met else '**missed**'} |")
    lines += [
        "",
        "| tool | gives | processor s | wall s | times memprof | peak MiB | of the file |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for item in found.values():
        figures = (
            f"{item['cpu_s']:.2f}",
            f"{item['wall_s']:.2f}",
            f"{item['cpu_s'] / own['cpu_s']:.2f}",
            f"{item['peak_bytes'] / _MIB:.0f}",
            f"{item['peak_bytes'] / nbytes:.1f}x",
        )
        lines.append(f"| {item['title']} | {item['answer']} | {' | '.join(figures)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshots", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="trace entries of the snapshot")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tool", action="append", help="only memprof and this one; may be repeated")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with ptmem and pt-snap-cli")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the section between the markers of a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    options = parser.parse_args(arguments)
    chosen = tools(options.peers)
    if options.tool is not None:
        chosen = {name: tool for name, tool in chosen.items() if name in ("memprof", *options.tool)}
    results = measure(options.events, options.rounds, chosen)
    text = to_markdown(results)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.write is not None:
        write_between_markers(options.write, text, BEGIN, END)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
