"""`python -m benchmarks`: measure what profiling costs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.footprint import observer_effect, recording_bytes, start_up
from benchmarks.machine import machine
from benchmarks.measure import QUICK, Plan, measure
from benchmarks.report import to_markdown, write_between_markers
from benchmarks.workloads import WORKLOADS, count_ops


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="only this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="smoke test: one short round")
    parser.add_argument("--rounds", type=int, help="turns through all subjects")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the results between the markers of a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--seconds", type=float, help="begin no further round after so long, for each workload")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    if options.rounds is not None:
        plan = replace(plan, rounds=options.rounds)
    if options.seconds is not None:
        plan = replace(plan, limit_s=options.seconds, auto_limit_s=options.seconds)
    results = run(options.workload or list(WORKLOADS), plan, quick=options.quick)
    text = to_markdown(results)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.write is not None:
        write_between_markers(options.write, text)
    print(text)
    return 0


def run(names: list[str], plan: Plan, *, quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    begin = time.perf_counter()
    load = os.getloadavg()[0]
    workloads: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="memprof-bench-") as name:
        folder = Path(name)
        starts = start_up(rounds=1 if quick else 9)
        for key in names:
            torch.manual_seed(0)
            make = WORKLOADS[key]
            work = make()
            item: dict[str, Any] = {"title": work.title, "ops": count_ops(work)}
            item |= measure(work, folder, plan, progress=_progress)
            del work
            few, many = (2, 4) if quick else (10, 60)
            item["recording_bytes"] = recording_bytes(make, folder, few=few, many=many)
            item["live_bytes"] = observer_effect(make, folder, iterations=3)
            workloads[key] = item
    return {
        "schema": "memprof.benchmarks/1",
        "quick": quick,
        "machine": machine() | {"load_before": load, "load_after": os.getloadavg()[0]},
        "duration_s": time.perf_counter() - begin,
        "start_up": starts,
        "workloads": workloads,
    }


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
