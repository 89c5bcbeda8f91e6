"""How close a simulated run comes to what CUDA's real allocator reports.

`python -m benchmarks.prediction --cuda-python PYTHON --write docs/prediction.md`: each workload of
`tests/cuda/workloads.py` runs with PYTHON's CUDA build of torch on the null device of `tests/nullcuda`, then with this
interpreter's torch on a simulated GPU of the same size, then plainly on the CPU; each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 600
_NEEDS_A_LIMIT = ("oom_retry",)
"""Workloads that end where memory does, which on the CPU is too late."""
_NOT_SIMULATED = {"cuda_graph": "CUDA graphs are not simulated"}


def main(arguments: list[str] | None = None) -> int:
    """Compare, or be one of the processes that are compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("names", nargs="*", help="workloads; all by default")
    parser.add_argument("--cuda-python", help="interpreter whose torch is a CUDA build")
    parser.add_argument("--write", type=Path, help="write the tables to this page")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--merge", type=Path, action="append", default=[], help="add the figures of such a file")
    parser.add_argument("--skip-cpu", action="store_true", help="do not time the workloads on the CPU")
    parser.add_argument("--run", choices=("cuda", "simulated", "dry", "cpu"), help=argparse.SUPPRESS)
    parser.add_argument("--total", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.run:
        print(json.dumps(run_workload(given.names[0], given.run, given.total)))
        return 0
    if given.cuda_python is None and not given.merge:
        parser.error("--cuda-python is needed: an interpreter whose torch is a CUDA build")
    results: list[dict[str, Any]] = []
    for file in given.merge:
        results += json.loads(file.read_text(encoding="utf-8"))
    if given.names or not results:
        results += _compare(given.names, given.cuda_python, beside_cpu=not given.skip_cpu)
    results.sort(key=lambda result: str(result["name"]))
    if given.json is not None:
        given.json.write_text(json.dumps(results), encoding="utf-8")
    page = _page(results)
    if given.write is None:
        print(page)
    else:
        given.write.write_text(page, encoding="utf-8")
    return 0


# ---- one process -----------------------------------------------------------------------


def run_workload(name: str, where: str, total: int) -> dict[str, Any]:
    """Run a workload in this process.

    Args:
        name: One of `tests/cuda/workloads.py`.
        where: `cuda`, `simulated`, `dry` or `cpu`.
        total: Bytes of the simulated GPU.

    Returns:
        Bytes allocated, their peak, reserved and their peak of each device, after setup and after each iteration;
        seconds; torch.
    """
    import torch

    from tests.cuda import workloads

    workload = workloads.WORKLOADS[name]
    torch.backends.cudnn.enabled = workload.settings.get("cudnn", True)
    count = 1 + workload.settings.get("iters", workloads.ITERS)
    rows: list[tuple[int, ...]] = []

    def work(device: str) -> float:
        torch.manual_seed(0)
        begin = time.perf_counter()
        steps = workload(device)
        for _ in range(count):
            next(steps)
            if device == "cuda":
                rows.append(
                    tuple(
                        figure(index)
                        for index in range(torch.cuda.device_count())
                        for figure in (
                            torch.cuda.memory_allocated,
                            torch.cuda.max_memory_allocated,
                            torch.cuda.memory_reserved,
                            torch.cuda.max_memory_reserved,
                        )
                    )
                )
        return time.perf_counter() - begin

    if where in ("simulated", "dry"):
        from memprof.capture.simulated.cuda import SimulatedCuda
        from memprof.simulate.gpus import Gpu

        with SimulatedCuda(Gpu("null", total, 0), count=workload.settings.get("devices", 1), dry=where == "dry"):
            seconds = work("cuda")
    else:
        seconds = work(where)
    size = torch.cuda.mem_get_info()[1] if where == "cuda" else total
    return {"rows": rows, "seconds": seconds, "total": size, "torch": torch.__version__}


# ---- all of them -----------------------------------------------------------------------


def _compare(names: list[str], cuda_python: str, *, beside_cpu: bool) -> list[dict[str, Any]]:
    from tests.cuda import workloads

    found = []
    for name in names or sorted(workloads.WORKLOADS):
        settings = workloads.WORKLOADS[name].settings
        result: dict[str, Any] = {"name": name}
        if name in _NOT_SIMULATED:
            result["failed"] = _NOT_SIMULATED[name]
        else:
            try:
                null = [cuda_python, "-m", "tests.nullcuda", cuda_python]
                result["real"] = real = _process(null, name, "cuda", 0, settings)
                result["simulated"] = _process([sys.executable], name, "simulated", real["total"], settings)
                if beside_cpu and name not in _NEEDS_A_LIMIT:
                    result["cpu"] = _process([sys.executable], name, "cpu", 0, settings)
            except (subprocess.SubprocessError, ValueError) as error:
                result["failed"] = result.get("failed") or _reason(error)
        print(f"{name}: {result.get('failed') or _errors(result)}", file=sys.stderr, flush=True)
        found.append(result)
    return found


def _process(python: list[str], name: str, where: str, total: int, settings: Any) -> dict[str, Any]:
    command = [*python, "-m", "benchmarks.prediction", name, "--run", where, "--total", str(total)]
    environment = {**os.environ, "NULLCUDA_DEVICES": str(settings.get("devices", 1)), **settings.get("env", {})}
    if where == "simulated":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no message"])[-1])
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"longer than {_TIMEOUT_S} s"
    return str(error).split("`only_active")[0][:160]


def _errors(result: dict[str, Any]) -> tuple[float, float]:
    """Signed relative errors of the highest peaks of the first device, allocated and reserved."""
    found = []
    for at in (1, 3):
        real, simulated = (max(row[at] for row in result[side]["rows"]) for side in ("real", "simulated"))
        found.append(simulated / real - 1)
    return found[0], found[1]


def _same(result: dict[str, Any]) -> str:
    """How many of the figures after setup and after each iteration are the same to the byte."""
    pairs = [
        (one, other)
        for real, simulated in zip(result["real"]["rows"], result["simulated"]["rows"], strict=True)
        for one, other in zip(real, simulated, strict=True)
    ]
    return f"{sum(one == other for one, other in pairs)} of {len(pairs)}"


def _page(results: list[dict[str, Any]]) -> str:
    compared = [result for result in results if "simulated" in result]
    versions = sorted({result["real"]["torch"] for result in compared})
    here = sorted({result["simulated"]["torch"] for result in compared})
    lines = [
        "# Prediction",
        "",
        "How close a [simulated run](how-to/simulate.md) on the CPU comes to what CUDA's real allocator reports.",
        "",
        "Each workload of `tests/cuda/workloads.py` ran twice. *Real*: with the stock CUDA build of torch",
        f"{', '.join(versions)} on a stand-in for NVIDIA's driver that accounts memory and runs no kernel; the",
        "allocator and every operator are torch's own, but workspaces that only cuDNN knows are missing. *Simulated*:",
        f"with torch {', '.join(here)} on a GPU of the same size simulated by memprof. Errors are simulated / real - 1",
        "of the highest peak. *Same* counts the figures (allocated, reserved, and their peaks, after setup and after",
        "each iteration) that are equal to the byte. *Time*, where it was taken, is that of the simulated run over",
        "that of the same workload on the CPU without memprof. All figures: measured.",
        "",
        "The table of kernels was made while looking at these workloads; none was held out.",
        "",
        "| workload | real peak allocated, MiB | error allocated | error reserved | same | time |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in compared:
        allocated, reserved = _errors(result)
        beside = f"{result['simulated']['seconds'] / result['cpu']['seconds']:.1f}x" if "cpu" in result else ""
        peak = max(row[1] for row in result["real"]["rows"]) / (1 << 20)
        lines.append(
            f"| `{result['name']}` | {peak:,.1f} | {allocated:+.3%} | {reserved:+.3%} | {_same(result)} | {beside} |"
        )
    lines.append("")
    for at, word in enumerate(("allocated", "reserved")):
        sizes = sorted(abs(_errors(result)[at]) for result in compared)
        at_95 = sizes[max(0, -(-95 * len(sizes) // 100) - 1)]
        lines.append(
            f"- {word}: median {statistics.median(sizes):.3%}, 95th percentile {at_95:.3%}, worst {sizes[-1]:.3%} "
            f"of {len(sizes)} workloads."
        )
    left = [result for result in results if "simulated" not in result]
    if left:
        lines += ["", "Not compared:", ""]
        lines += [f"- `{result['name']}`: {result['failed']}." for result in left]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
