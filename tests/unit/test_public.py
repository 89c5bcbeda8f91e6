"""The public names, the profiler and the decorator."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch

import memprof
from memprof.capture.windows import Level
from memprof.cli import analyze, fix
from memprof.profiler import DEVICES, LEVELS
from memprof.record.events import TickFlag

PUBLIC = [
    "CachingAllocator",
    "Diagnosis",
    "DryRunStoppedError",
    "Finding",
    "MemprofError",
    "OutputError",
    "Profiler",
    "Recording",
    "RecordingError",
    "RecordingVersionError",
    "Remedy",
    "TorchUnavailableError",
    "UsageError",
    "__version__",
    "diagnose",
    "fit",
    "iterations",
    "oom",
    "open_recording",
    "profile",
    "simulate_gpu",
    "what_if",
]


def train(count: int = 3, batch: Callable[[], object] = lambda: None) -> float:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(count):
        batch()
        loss = model(torch.randn(2, 4)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def trains(recording: memprof.Recording) -> int:
    kinds = [iteration.kind for iteration in memprof.diagnose(recording).model.iterations]
    return kinds.count("train")


# ---- names -----------------------------------------------------------------------------------


def test_export_list() -> None:
    assert memprof.__all__ == PUBLIC == dir(memprof)
    for name in PUBLIC:
        assert getattr(memprof, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = memprof.nothing


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.endswith("Error")])
def test_errors_are_one_tree(name: str) -> None:
    assert issubclass(getattr(memprof, name), memprof.MemprofError)


def test_importing_loads_neither_torch_nor_matplotlib() -> None:
    program = "import sys, memprof, memprof.cli; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_capture_changes_nothing_in_torch() -> None:
    importlib.import_module("memprof.capture.session")  # the autouse fixture looks for what is left


# ---- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "all"}, "level 'all' is not one of auto, steps, blocks, tensors"),
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu, cuda"),
        ({"max_iterations": 0}, "must be at least 1"),
    ],
)
def test_options_that_are_not_offered(options: dict[str, object], message: str) -> None:
    with pytest.raises(memprof.UsageError, match=message):
        memprof.Profiler(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [analyze.command, fix.command])
def test_commands_offer_what_the_profiler_knows(command: click.Command) -> None:
    offered = {option.name: tuple(option.type.choices) for option in command.params if hasattr(option.type, "choices")}
    assert (offered["level"], offered["device"]) == (LEVELS, DEVICES)
    assert sorted(LEVELS) == sorted(level.value for level in Level)


def test_results_before_the_run_are_a_usage_error() -> None:
    prof = memprof.Profiler()
    for ask in (lambda: prof.recording, lambda: prof.findings, prof.step, prof.report):
        with pytest.raises(memprof.UsageError, match="with"):
            ask()


def test_a_profiler_records_once() -> None:
    prof = memprof.Profiler("steps")
    with prof:
        pass
    with pytest.raises(memprof.UsageError, match="make a new one"):
        prof.__enter__()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(memprof.UsageError, match="no CUDA device"):
        memprof.Profiler(device="cuda", output=tmp_path / "r.memprof").__enter__()
    assert not list(tmp_path.iterdir())


def test_a_foreign_output_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    with pytest.raises(memprof.RecordingError, match="is not a memprof recording"):
        memprof.Profiler(output=file).__enter__()
    assert file.read_bytes() == b"weights"


# ---- profiler --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["auto", "steps", "tensors"])
def test_output_is_a_recording_that_says_how_the_run_ended(level: str, tmp_path: Path) -> None:
    file = tmp_path / "run.memprof"
    with memprof.Profiler(level, output=file) as prof:
        train()
    with memprof.open_recording(file) as recording:
        assert recording.run.finished
        assert (recording.run.exit_status, recording.run.exception) == (0, None)
        assert recording.run.level == level
        assert recording.run.memprof == memprof.__version__
        assert trains(recording) == 3
    assert prof.diagnosis is prof.diagnosis


def test_the_exception_of_the_run_passes_and_is_recorded() -> None:
    prof = memprof.Profiler("steps")
    with pytest.raises(ValueError, match="of mine"), prof:
        train()
        raise ValueError("of mine")
    assert prof.recording.run.exit_status == 1
    assert prof.recording.run.exception == "ValueError: of mine"
    assert trains(prof.recording) == 3


def test_max_iterations_ends_the_block_cleanly() -> None:
    reached_the_end = False
    with memprof.Profiler("steps", max_iterations=2) as prof:
        train(50)
        reached_the_end = True
    assert not reached_the_end
    assert 2 <= trains(prof.recording) <= 3
    assert prof.recording.run.exit_status == 0


def test_max_iterations_passes_except_exception() -> None:
    swallowed = []
    model = torch.nn.Linear(2, 2)
    with memprof.Profiler("steps", max_iterations=2):
        for _ in range(10):
            try:
                model(torch.randn(1, 2)).sum().backward()
            except Exception as error:
                swallowed.append(error)
    assert swallowed == []


def test_results_while_it_runs() -> None:
    with memprof.Profiler("tensors") as prof:
        train()
        assert trains(prof.recording) == 2  # the third has not ended yet
        assert "memory of cpu" in prof.report()
    assert trains(prof.recording) == 3


def test_an_inner_profiler_shows_what_the_outer_records() -> None:
    with memprof.Profiler("steps") as outer:
        with memprof.Profiler("tensors") as inner:
            assert not inner.is_outermost
            train()
        assert trains(inner.recording) == 2  # the outer one goes on
        assert memprof.Profiler("steps").__enter__().recording.run.level == "steps"
    assert outer.is_outermost
    assert trains(outer.recording) == trains(inner.recording) == 3


def test_report_and_plot(tmp_path: Path) -> None:
    with memprof.Profiler("tensors") as prof:
        train()
    assert max(map(len, prof.report(width=80).splitlines())) <= 80
    assert "\x1b" not in prof.report()
    prof.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# ---- marks -----------------------------------------------------------------------------------


def test_marked_iterations_are_the_iterations() -> None:
    with memprof.Profiler("steps") as prof:
        for _ in memprof.iterations(range(3)):
            train(2)
    explicit = [tick for tick in prof.recording.ticks if tick.flags & TickFlag.EXPLICIT]
    assert len(explicit) == 3
    assert trains(prof.recording) == 3


def test_step_marks_an_iteration() -> None:
    with memprof.Profiler("steps") as prof:
        for _ in range(3):
            train(2)
            prof.step()
    assert trains(prof.recording) == 3


def test_iterations_outside_a_profiler_are_the_items() -> None:
    assert list(memprof.iterations("abc")) == ["a", "b", "c"]
    assert list(memprof.iterations(())) == []


# ---- decorator -------------------------------------------------------------------------------


def test_bare_decorator_reports_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    @memprof.profile
    def job(count: int, *, scale: float = 1.0) -> float:
        """Docs."""
        train(count)
        return scale

    assert job(3, scale=2.0) == 2.0
    assert (job.__name__, job.__doc__) == ("job", "Docs.")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "memory of cpu" in captured.err
    assert trains(job.profiler.recording) == 3  # type: ignore[attr-defined]


def test_each_call_records_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.memprof"
    job = memprof.profile(level="steps", output=file, report=False, plot=tmp_path / "p.png")(train)
    for count in (2, 4):
        job(count)
        with memprof.open_recording(file) as recording:
            assert trains(recording) == count
    assert capsys.readouterr().err == ""
    assert (tmp_path / "p.png").exists()


def test_calls_inside_a_profiled_call_report_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    inner = memprof.profile(level="steps")(train)

    @memprof.profile(level="steps")
    def outer() -> None:
        inner(2)
        inner(2)

    outer()
    assert capsys.readouterr().err.count("memory of cpu") == 1


def test_an_exception_passes_through_the_decorator(capsys: pytest.CaptureFixture[str]) -> None:
    @memprof.profile(level="steps")
    def job() -> None:
        train()
        raise ValueError("of mine")

    with pytest.raises(ValueError, match="of mine"):
        job()
    assert "of mine" in capsys.readouterr().err


def test_a_report_that_fails_does_not_hide_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = memprof.profile(level="steps", report=False, plot=tmp_path / "none" / "p.png")(train)
    assert isinstance(job(), float)
    assert "the report could not be made (OutputError" in capsys.readouterr().err


def test_max_iterations_of_the_decorator_returns_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert memprof.profile(level="steps", max_iterations=1, report=False)(train)(50) is None
