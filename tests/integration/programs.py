"""Small programs that the integration tests run under `memprof` and under `python`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from memprof import open_recording
from memprof.record.events import TickFlag

TIMEOUT_S = 120

TINY = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def step():
    loss = model(torch.randn(4, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


"""
"""The top of a training script: a model, an optimizer and a step."""

LEAKY = TINY + "history = []\nfor _ in range(12):\n    history.append(step())\nprint('trained')\n"
CLEAN = TINY + "for _ in range(12):\n    step()\nprint('trained')\n"

JSON_FILE = "report.json"


def write(folder: Path, name: str, source: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child: one thread, no colour asked for, wide enough for no line to wrap."""
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**env, "OMP_NUM_THREADS": "1", **extra}


def python(
    *args: str, cwd: Path, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )


def memprof(
    *args: str, cwd: Path, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    return python("-m", "memprof", *args, cwd=cwd, env=env, **options)


def analyze(
    *args: str, cwd: Path, status: int = 0, **options: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run `memprof analyze` with a JSON report on the side and return both."""
    result = memprof("analyze", "--format", "json", "--output", JSON_FILE, *args, cwd=cwd, **options)
    assert result.returncode == status, said(result)
    assert "problem of its own" not in result.stderr, said(result)
    return result, json.loads((cwd / JSON_FILE).read_text(encoding="utf-8"))


def said(result: subprocess.CompletedProcess[str]) -> str:
    """What a child said, for a failed test."""
    return f"status {result.returncode}\n--- stdout\n{result.stdout[-3000:]}\n--- stderr\n{result.stderr[-3000:]}"


def steps_recorded(path: Path) -> int:
    """How many optimizer steps a recording holds."""
    with open_recording(path) as recording:
        return sum(bool(tick.flags & TickFlag.OPTIMIZER_STEP) for tick in recording.ticks)


def codes(report: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in report["findings"]]
