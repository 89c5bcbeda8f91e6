"""The decorator, profilers in one process, and cells of a notebook."""

from __future__ import annotations

import gc
import linecache
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import memprof
from memprof.record.events import TickFlag
from tests.integration.programs import TINY, python, said, write


def train(steps: int = 6, history: list[torch.Tensor] | None = None) -> str:
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if history is not None:
            history.append(loss)
    return "trained"


def steps_of(prof: memprof.Profiler) -> int:
    return sum(bool(tick.flags & TickFlag.OPTIMIZER_STEP) for tick in prof.recording.ticks)


# --- Decorator -----------------------------------------------------------------------------------


def test_bare_decorator_keeps_the_result_and_reports_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    @memprof.profile
    def fit(steps: int, *, word: str = "") -> str:
        """Train."""
        return train(steps) + word

    result = fit(6, word="!")

    out, err = capsys.readouterr()
    assert result == "trained!"
    assert (fit.__name__, fit.__doc__) == ("fit", "Train.")
    assert out == ""
    assert "no problem found" in err
    assert steps_of(fit.profiler) == 6


def test_decorator_with_options_writes_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "away").mkdir()
    history: list[torch.Tensor] = []

    @memprof.profile(level="tensors", output="fit.memprof", plot=tmp_path / "fit.png", report=False)
    def fit() -> str:
        os.chdir("away")
        return train(12, history)

    assert fit() == "trained"
    assert capsys.readouterr() == ("", "")
    assert [finding.code for finding in fit.profiler.findings] == ["MP102"]
    assert (tmp_path / "fit.png").exists()
    with memprof.open_recording(tmp_path / "fit.memprof") as recording:
        assert recording.run.level == "tensors"


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__
)
def test_exceptions_pass_through_the_decorator(capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
    @memprof.profile
    def fit() -> None:
        train(3)
        raise error

    with pytest.raises(type(error)) as caught:
        fit()

    assert caught.value is error
    assert f"the script stopped with {type(error).__name__}" in capsys.readouterr().err
    assert steps_of(fit.profiler) == 3


def test_max_iterations_of_the_decorator_returns_none(capsys: pytest.CaptureFixture[str]) -> None:
    @memprof.profile(max_iterations=4)
    def fit() -> str:
        return train(1000)

    assert fit() is None
    assert steps_of(fit.profiler) == 4
    assert fit.profiler.recording.run.exception is None


def test_calls_inside_a_profiled_call_are_part_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    @memprof.profile
    def inner() -> str:
        return train(6)

    @memprof.profile
    def outer(depth: int = 1) -> str:
        with memprof.Profiler() as prof:
            result = inner()
        assert not prof.is_outermost
        return outer(depth - 1) if depth else result

    assert outer() == "trained"

    err = capsys.readouterr().err
    assert err.count("no problem found") == 1
    assert outer.profiler.is_outermost
    assert steps_of(outer.profiler) >= 11  # a loop elsewhere begins within the tick of the one before
    inner()
    assert inner.profiler.is_outermost


def test_functions_whose_body_does_not_run_when_called_are_refused() -> None:
    def batches() -> Iterator[int]:
        yield 1

    async def fit() -> None:
        pass

    for function in (batches, fit):
        with pytest.raises(
            memprof.UsageError, match=rf"cannot profile .*{function.__name__}\(\): calling it does not run"
        ):
            memprof.profile(function)
    with pytest.raises(memprof.UsageError, match=r"takes its options by name, not 'tensors'"):
        memprof.profile("tensors")  # type: ignore[call-overload]


def test_report_that_fails_does_not_hide_the_result(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @memprof.profile(plot=tmp_path / "nowhere" / "fit.png")
    def fit() -> str:
        return train(2)

    assert fit() == "trained"
    assert "memprof: the report could not be made (OutputError: " in capsys.readouterr().err


def test_child_forked_in_a_profiled_function_reports_nothing(tmp_path: Path) -> None:
    source = TINY + (
        "import memprof, os, sys, glob, tempfile\n"
        "@memprof.profile\n"
        "def fit():\n"
        "    for number in range(8):\n"
        "        step()\n"
        "        if number == 3:\n"
        "            child = os.fork()\n"
        "    return child\n"
        "child = fit()\n"
        "if not child: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(len(fit.profiler.recording.ticks) >= 8, len(glob.glob(tempfile.gettempdir() + '/memprof-*')))\n"
    )
    write(tmp_path, "train.py", source)
    (tmp_path / "tmp").mkdir()

    result = python("train.py", cwd=tmp_path, env={"TMPDIR": str(tmp_path / "tmp")})

    assert result.returncode == 0, said(result)
    assert result.stdout == "True 1\n"
    assert result.stderr.count("no problem found") == 1
    assert list((tmp_path / "tmp").glob("memprof-*")) == []


# --- Several in one process ----------------------------------------------------------------------


def test_profilers_follow_one_another() -> None:
    reports = []
    for steps in (4, 7):
        with memprof.Profiler() as prof:
            train(steps)
        reports.append((steps_of(prof), prof.report()))

    assert [steps for steps, _ in reports] == [4, 7]
    assert all("no problem found" in report for _, report in reports)


def test_profiler_is_used_once_and_in_a_with_block(tmp_path: Path) -> None:
    prof = memprof.Profiler()
    with pytest.raises(memprof.UsageError, match="inside the `with` block|for inside"):
        prof.step()
    with pytest.raises(memprof.UsageError, match="nothing is recorded yet"):
        _ = prof.recording
    with prof:
        train(2)
    with pytest.raises(memprof.UsageError, match="make a new one"), prof:
        pass
    for options in ({"level": "all"}, {"device": "tpu"}, {"max_iterations": 0}):
        with pytest.raises(memprof.UsageError, match=next(iter(options))):
            memprof.Profiler(**options)  # type: ignore[arg-type]
    foreign = write(tmp_path, "notes.txt", "mine")
    with pytest.raises(memprof.RecordingError, match="is not a memprof recording"), memprof.Profiler(output=foreign):
        pass
    assert foreign.read_text(encoding="utf-8") == "mine"


def test_findings_while_the_loop_runs_and_marks_by_hand() -> None:
    history: list[torch.Tensor] = []
    model = nn.Linear(8, 1)
    with memprof.Profiler("tensors") as prof:
        for _ in memprof.iterations(range(10)):
            history.append(model(torch.randn(4, 8)).sum())
        live = [finding.code for finding in prof.findings]
        with memprof.Profiler() as inner:
            inner.step()

    assert live == ["MP102"]
    assert [finding.code for finding in prof.findings] == ["MP102"]
    assert sum(bool(tick.flags & TickFlag.EXPLICIT) for tick in prof.recording.ticks) == 11


# --- Notebook ------------------------------------------------------------------------------------


def test_cells_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        "import torch, memprof\nfrom torch import nn\nmodel = nn.Linear(8, 1)\nhistory = []",
        (
            "with memprof.Profiler(level='tensors') as prof:\n"
            "    for _ in range(10):\n"
            "        loss = model(torch.randn(4, 8)).sum()\n"
            "        loss.backward()\n"
            "        history.append(loss)\n"
        ),
        "findings = prof.findings\ntext = prof.report(width=80)",
        "history.clear()\nwith memprof.Profiler() as prof:\n    for _ in range(10): model(torch.randn(4, 8)).sum().item()\n",
        "later = prof.findings",
    ]
    shell = types.ModuleType("__main__")  # IPython keeps the user's names in a module of this name
    monkeypatch.setitem(sys.modules, "__main__", shell)
    namespace = vars(shell)
    for number, source in enumerate(cells, 1):
        lines = source.splitlines(keepends=True)  # IPython keeps the text of a cell there too
        linecache.cache[f"<ipython-input-{number}>"] = (len(source), None, lines, f"<ipython-input-{number}>")
        exec(compile(source, f"<ipython-input-{number}>", "exec"), namespace)

    (finding,) = namespace["findings"]
    assert finding.code == "MP102"
    assert (finding.location.file, finding.location.line) == ("<ipython-input-2>", 5)
    assert "history" in finding.message
    assert all(len(line) <= 80 for line in str(namespace["text"]).splitlines())
    # MP104 is true here: a loop without backward and without no_grad.
    assert [finding.code for finding in namespace["later"] if finding.code != "MP104"] == []
    namespace.clear()
    gc.collect()


def test_temporary_recording_goes_with_its_profiler() -> None:
    prof = memprof.Profiler()
    with prof:
        train(2)
    path = prof.recording.path
    assert path is not None
    assert path.exists()

    prof.recording.close()
    del prof
    gc.collect()

    assert not path.parent.exists()
