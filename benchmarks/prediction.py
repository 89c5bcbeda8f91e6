"""How close a simulated run and a dry run come to what CUDA's real allocator reports.

`PYTHON -m benchmarks.prediction --json FIGURES --write docs/prediction.md`, with a PYTHON whose torch is a CUDA build:
each workload of `tests/cuda/workloads.py` and of `benchmarks/held_out.py` runs on the null device of `tests/nullcuda`,
on a simulated GPU of the same size with its arithmetic and without, and on the CPU; each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import prediction_page

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 600
_RAISED = re.compile(r"[\w.]+Error: ")
_NEEDS_A_LIMIT = ("oom_retry",)
"""Workloads that end where memory does, which on the CPU is too late."""
_NOT_SIMULATED = {"cuda_graph": "CUDA graphs are not simulated"}
SIDES = ("cuda", "dry", "simulated", "cpu")


def main(arguments: list[str] | None = None) -> int:
    """Compare, or be one of the processes that are compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("names", nargs="*", help="workloads; all by default")
    parser.add_argument("--json", type=Path, help="file of figures: what is there is not measured again")
    parser.add_argument("--sides", default=",".join(SIDES), help="which runs to make, with commas between")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--write", type=Path, help="write the tables to this page")
    parser.add_argument("--others", type=Path, help="what `benchmarks.predictors` said")
    parser.add_argument("--run", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--total", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.run:
        print(json.dumps(run_workload(given.names[0], given.run, given.total)))
        return 0
    results: dict[str, dict[str, Any]] = {}
    if given.json is not None and given.json.exists():
        results = json.loads(given.json.read_text(encoding="utf-8"))
    with _Runs() as runs:
        for name in given.names or list(workloads_by_name()):
            result = results.setdefault(name, {})
            runs.measure(name, result, [side for side in given.sides.split(",") if given.again or side not in result])
            print(f"{name}: {prediction_page.summary(result)}", file=sys.stderr, flush=True)
            if given.json is not None:
                given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    others = json.loads(given.others.read_text(encoding="utf-8")) if given.others else []
    page = prediction_page.render(results, _first_errors(), others)
    if given.write is None:
        print(page)
    else:
        given.write.write_text(page, encoding="utf-8")
    return 0


def workloads_by_name() -> Mapping[str, Any]:
    """All workloads, those held out last."""
    from tests.cuda import workloads

    return {**workloads.WORKLOADS, **_held_out()}


def _held_out() -> Mapping[str, Any]:
    from benchmarks import held_out

    return held_out.HELD_OUT


def _first_errors() -> dict[str, tuple[float, float]]:
    """Errors of the workloads held out when they ran first, which is not done again."""
    known = json.loads(Path(__file__).with_name("held_out_first.json").read_text(encoding="utf-8"))
    return {name: (allocated, reserved) for name, (allocated, reserved) in known.items()}


# ---- one process -----------------------------------------------------------------------


def run_workload(name: str, where: str, total: int) -> dict[str, Any]:
    """Run a workload in this process.

    Args:
        name: Of a workload.
        where: `cuda`, `simulated`, `dry` or `cpu`.
        total: Bytes of the simulated GPU.

    Returns:
        Bytes allocated, their peak, reserved and their peak of each device, after setup and after each iteration;
        seconds of processor time, of all threads; torch.
    """
    import torch

    from tests.cuda import workloads

    workload = workloads_by_name()[name]
    torch.backends.cudnn.enabled = workload.settings.get("cudnn", True)
    count = 1 + workload.settings.get("iters", workloads.ITERS)
    rows: list[tuple[int, ...]] = []

    def work(device: str) -> float:
        torch.manual_seed(0)
        begin = time.process_time()
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
        return time.process_time() - begin

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


class _Runs:
    """Runs workloads, each in a fresh child of a process that has imported torch."""

    def __enter__(self) -> _Runs:
        from tests.cuda.place import Place
        from tests.nullcuda.build import build
        from tests.zygote import Zygote

        self._null = Place(build())
        self._here = Zygote({"OMP_NUM_THREADS": "1", **os.environ, "CUDA_VISIBLE_DEVICES": ""})
        return self

    def __exit__(self, *error: object) -> None:
        self._null.close()
        self._here.close()

    def measure(self, name: str, result: dict[str, Any], sides: list[str]) -> None:
        """Make runs of a workload and add what they say to its result."""
        if name in _NOT_SIMULATED:
            result["failed"] = _NOT_SIMULATED[name]
            return
        for side in sides:
            if side == "cpu" and name in _NEEDS_A_LIMIT:
                continue
            try:
                total = 0 if side == "cuda" else result["cuda"]["total"]
                result[side] = self._run(name, side, total)
                result.pop(f"{side} failed", None)
            except AssertionError as error:
                result[f"{side} failed"] = _reason(error)

    def _run(self, name: str, side: str, total: int) -> Any:
        settings = workloads_by_name()[name].settings
        env = dict(settings.get("env", {}))
        memory = env.pop("NULLCUDA_MEMORY", "40326M")
        zygote = self._here
        if side == "cuda":
            zygote = self._null.zygote({})
            env.update(self._null.settings(settings.get("devices", 1), memory))
        with tempfile.TemporaryDirectory() as folder:
            arguments = {"name": name, "where": side, "total": total}
            return zygote.run(run_workload, arguments, env=env, cwd=Path(folder), timeout_s=_TIMEOUT_S)


def _reason(error: Exception) -> str:
    """What the child raised, or how it ended."""
    lines = [line.strip() for line in str(error).split("\n---")[0].splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return (raised or lines)[-1].replace(f"{_ROOT}/", "").split(". ")[0].split("; ")[0]


if __name__ == "__main__":
    raise SystemExit(main())
