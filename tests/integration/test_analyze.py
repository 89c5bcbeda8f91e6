"""`memprof analyze` runs a script as `python` would, and says what it found."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

import memprof as memprof_package
from tests.integration.programs import (
    CLEAN,
    LEAKY,
    TINY,
    analyze,
    codes,
    environment,
    memprof,
    python,
    said,
    steps_recorded,
    write,
)

LOOK_AROUND = """\
import inspect, os, pickle, sys, warnings
from dataclasses import dataclass, fields

import helper


class Point:
    def __init__(self, x):
        self.x = x


@dataclass
class Options:
    lr: "float" = 0.1


print(sorted(name for name in globals() if name.startswith("__")))
print(__name__, __file__, __package__, __spec__ and __spec__.name, __doc__, __annotations__)
print(type(__loader__).__name__, __loader__.name)
print(sys.argv, sys.path, os.getcwd(), helper.__file__)
print(sys.modules["__main__"].__dict__ is globals(), sys.modules["__main__"].Point is Point)
print(pickle.loads(pickle.dumps(Point(3))).x, [field.type for field in fields(Options)])
print(Point.__module__, inspect.getsource(Point).splitlines()[0], inspect.getmodule(Point).__name__)
print(len(inspect.stack(0)) > 0, sys.gettrace(), sys.getprofile(), sys.excepthook is sys.__excepthook__)
print("asserts", __debug__, sys.flags.optimize)
warnings.warn("told", DeprecationWarning)
if __name__ == "__main__":
    print("is main")
"""


# --- As python would run it ----------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a script and a package that both look around."""
    write(tmp_path, "scripts/look.py", LOOK_AROUND)
    write(tmp_path, "scripts/helper.py", "")
    write(tmp_path, "helper.py", "")
    write(tmp_path, "pkg/helper.py", "")
    for name in ("pkg/__init__.py", "pkg/sub/__init__.py"):
        write(tmp_path, name, "")
    write(tmp_path, "pkg/__main__.py", LOOK_AROUND)
    write(tmp_path, "pkg/sub/look.py", LOOK_AROUND + "from . import __name__ as parent\nprint(parent)\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["scripts/look.py", "--level", "steps", "-o", "mine", "--", "-m", "x"],
        ["./scripts/../scripts/look.py"],
        ["-m", "pkg", "--level", "-o"],
        ["-m", "pkg.sub.look", "--", "-v"],
        ["pkg", "a"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_script_sees_what_it_sees_under_python(package: Path, words: list[str]) -> None:
    bare = python(*words, cwd=package)
    watched, report = analyze("-o", "out.memprof", *words, cwd=package)

    assert bare.returncode == 0, said(bare)
    assert watched.stdout.splitlines() == bare.stdout.splitlines()
    assert "DeprecationWarning: told" in bare.stderr
    assert "DeprecationWarning: told" in watched.stderr
    assert report["run"]["exit_status"] == 0


@pytest.mark.parametrize("level", ["steps", "tensors"])
def test_traceback_is_that_of_python(tmp_path: Path, level: str) -> None:
    source = TINY + (
        "class Wrong(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x):\n"
        "        return x * 2\n"
        "    @staticmethod\n"
        "    def backward(ctx, gradient):\n"
        "        return model(torch.ones(1, 3))\n"
        "try:\n"
        "    Wrong.apply(step()).backward()\n"
        "except RuntimeError:\n"
        "    torch.ones(3) + torch.ones(4)\n"
    )
    write(tmp_path, "train.py", source)
    bare = python("train.py", cwd=tmp_path)
    watched = memprof("analyze", "--level", level, "train.py", cwd=tmp_path)

    assert "During handling of the above exception" in bare.stderr
    assert watched.stderr == bare.stderr + "recording: train.memprof\n", said(watched)


def test_module_name_alone_takes_its_options_apart_from_memprofs(package: Path) -> None:
    result, report = analyze("--level=steps", "-o", "out.memprof", "-mpkg.__main__", "-o", "x", "--help", cwd=package)

    assert "'-o', 'x', '--help'" in result.stdout
    assert report["run"]["level"] == "steps"
    assert not (package / "x").exists()


def test_console_script_and_module_say_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("memprof")
    if not script.exists():
        pytest.skip("memprof is not installed as a command here")
    write(tmp_path, "look.py", "import sys\nprint(sys.path)\nprint(sys.argv)\n")

    result = subprocess.run(
        [str(script), "analyze", "look.py", "-x"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    bare = python("look.py", "-x", cwd=tmp_path)

    assert result.stdout.splitlines()[:2] == bare.stdout.splitlines()


def test_spawned_and_forked_workers_find_what_the_script_defines(tmp_path: Path) -> None:
    source = TINY + (
        "import multiprocessing, sys\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Numbers(Dataset):\n"
        "    def __len__(self): return 32\n"
        "    def __getitem__(self, index): return torch.full((8,), float(index)), 'memprof.capture' in sys.modules\n"
        "def square(x): return x * x\n"
        "def run():\n"
        "    for context in ('fork', 'spawn'):\n"
        "        loader = DataLoader(Numbers(), batch_size=4, num_workers=1, multiprocessing_context=context)\n"
        "        for batch, watched in loader:\n"
        "            optimizer.zero_grad(); model(batch).sum().backward(); optimizer.step()\n"
        "        print(context, batch[-1, 0].item(), watched.any().item() and context == 'spawn')\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        print(pool.map(square, range(4)))\n"
        "    workers = [multiprocessing.get_context('fork').Process(target=signal.pause) for _ in range(20)]\n"
        "    for worker in workers: worker.start(); worker.terminate(); worker.join()\n"
        "    print({worker.exitcode for worker in workers})\n"
        "import signal\n"
        "print('imported as', __name__)\n"
        "if __name__ == '__main__':\n"
        "    run()\n"
    )
    write(tmp_path, "train.py", source)

    result, report = analyze("train.py", cwd=tmp_path)

    assert result.stdout.splitlines() == [
        "imported as __main__",
        "fork 31.0 False",
        "imported as __mp_main__",
        "spawn 31.0 False",
        "[0, 1, 4, 9]",
        "{-15}",
    ]
    assert report["findings"] == []
    assert steps_recorded(tmp_path / "train.memprof") == 16


# --- How it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status", "stderr"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('out of coffee')", 1, "out of coffee\n"),
    ],
)
def test_exit_status_is_kept(tmp_path: Path, end: str, status: int, stderr: str) -> None:
    write(tmp_path, "train.py", f"import sys\nprint('begins')\n{end}\n")
    bare = python("train.py", cwd=tmp_path)

    result, report = analyze("train.py", cwd=tmp_path, status=status)

    assert bare.returncode == status
    assert bare.stderr == stderr
    assert result.stderr == stderr + "recording: train.memprof\n"
    assert report["run"]["exit_status"] == status


def test_exception_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    source = CLEAN + (
        "import atexit\natexit.register(print, 'at exit')\n"
        "def fails():\n"
        "    try:\n        {}['key']\n"
        "    except KeyError as error:\n        raise ValueError('no such key') from error\n"
        "fails()\n"
    )
    write(tmp_path, "train.py", source)
    bare = python("train.py", cwd=tmp_path)

    result = memprof("analyze", "train.py", cwd=tmp_path)

    assert bare.returncode == result.returncode == 1
    assert result.stderr == bare.stderr + "recording: train.memprof\n"
    assert "the script stopped with ValueError: no such key" in result.stdout
    assert "no problem found" in result.stdout
    assert result.stdout.startswith("trained\n")
    assert result.stdout.endswith("at exit\n")
    assert steps_recorded(tmp_path / "train.memprof") == 12


def test_keyboard_interrupt_ends_it_by_sigint_with_a_diagnosis(tmp_path: Path) -> None:
    source = (
        CLEAN
        + "import atexit, os, signal\natexit.register(print, 'at exit')\nos.kill(os.getpid(), signal.SIGINT)\nstep()\n"
    )
    write(tmp_path, "train.py", source)
    bare = python("train.py", cwd=tmp_path)

    result, report = analyze("train.py", cwd=tmp_path, status=-signal.SIGINT)

    assert bare.returncode == -signal.SIGINT
    assert result.stdout == bare.stdout == "trained\nat exit\n"
    assert result.stderr.endswith("KeyboardInterrupt\nrecording: train.memprof\n")
    assert report["run"]["exception"] == "KeyboardInterrupt"
    assert steps_recorded(tmp_path / "train.memprof") == 12


def test_sigterm_ends_it_as_an_exit_does(tmp_path: Path) -> None:
    source = CLEAN + (
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\n"
        "finally:\n    print('cleaned up')\n"
    )
    write(tmp_path, "train.py", source)

    result, report = analyze("train.py", cwd=tmp_path, status=128 + signal.SIGTERM)

    assert result.stdout == "trained\ncleaned up\n"
    assert report["run"]["exit_status"] == 143
    assert steps_recorded(tmp_path / "train.memprof") == 12


def test_max_iterations_stops_cleanly(tmp_path: Path) -> None:
    source = TINY + (
        "count = 0\n"
        "try:\n"
        "    while True:\n"
        "        try:\n            step()\n"
        "        except Exception:\n            print('not to be caught here')\n"
        "        count += 1\n"
        "finally:\n    print('cleaned up after', count)\n"
        "print('not reached')\n"
    )
    write(tmp_path, "train.py", source)

    result, report = analyze("--max-iterations", "7", "train.py", cwd=tmp_path)

    assert result.stdout == "cleaned up after 7\n"
    assert report["run"]["exit_status"] == 0
    assert report["run"]["exception"] is None
    assert steps_recorded(tmp_path / "train.memprof") == 7


# --- What it says --------------------------------------------------------------------------------


def test_report_is_found_on_stdout_in_files_and_in_a_plot(tmp_path: Path) -> None:
    write(
        tmp_path,
        "train.py",
        LEAKY + "import os, sys\nos.mkdir('away'); os.chdir('away')\nsys.stdout = open('log', 'w')\n",
    )

    result = memprof(
        "analyze",
        "-o",
        "run.memprof",
        "--plot",
        "run.png",
        "--fail-on",
        "info",
        "train.py",
        cwd=tmp_path,
        env={"COLUMNS": "80"},
    )

    assert result.returncode == 1, said(result)
    assert result.stdout.startswith("trained\ntrain.py | torch")
    assert "MP102" in result.stdout
    assert "train.py:18" in result.stdout
    assert "/away" not in result.stdout
    assert "\033" not in result.stdout + result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stderr == f"recording: run.memprof; plot: {tmp_path / 'run.png'}\n"
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "run.memprof", "run.png", "train.py"]


def test_a_plot_that_cannot_be_drawn_is_not_said_to_be_there(tmp_path: Path) -> None:
    write(tmp_path, "train.py", CLEAN + "import os\nos.mkdir('run.png')\n")

    result = memprof("analyze", "--plot", "run.png", "train.py", cwd=tmp_path)

    assert result.returncode == 2, said(result)
    assert "no problem found" in result.stdout
    assert "cannot write" in result.stderr
    assert result.stderr.endswith("recording: train.memprof\n")


def test_ranks_of_one_job_write_beside_each_other_and_only_the_first_reports_at_length(tmp_path: Path) -> None:
    write(tmp_path, "train.py", LEAKY)
    job = {"WORLD_SIZE": "2"}

    first, other = (memprof("analyze", "train.py", cwd=tmp_path, env={**job, "RANK": rank}) for rank in "01")

    assert (first.returncode, other.returncode) == (0, 0), said(first) + said(other)
    assert "MP102" in first.stdout
    assert first.stderr == "recording: train.rank0.memprof\n"
    assert other.stdout == "trained\n"
    assert other.stderr == "rank 1: 1 hint: MP102 at train.py:18; recording: train.rank1.memprof\n"
    assert {path.name for path in tmp_path.glob("*.memprof")} == {"train.rank0.memprof", "train.rank1.memprof"}


def test_two_runs_of_one_script_in_one_folder_do_not_take_each_others_recording(tmp_path: Path) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go_on"
    waits = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\n"
    waits += f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)\n"
    write(tmp_path, "train.py", CLEAN + waits + "step()\n")
    command = [sys.executable, "-m", "memprof", "analyze"]
    first = subprocess.Popen([*command, "train.py"], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        while not started.exists() and first.poll() is None:
            time.sleep(0.01)

        named = memprof("analyze", "-o", "train.memprof", "train.py", cwd=tmp_path)
        go_on.touch()
        first_said = first.communicate(timeout=60)[1]
    finally:
        first.kill()

    assert named.returncode == 2, said(named)
    assert f"another run is writing {tmp_path / 'train.memprof'}; choose another file with -o" in named.stderr
    assert (first.returncode, first_said) == (0, "recording: train.memprof\n")
    assert steps_recorded(tmp_path / "train.memprof") == 13


@pytest.mark.parametrize(
    ("fail_on", "source", "status"),
    [("error", LEAKY, 0), ("info", CLEAN, 0), ("info", LEAKY + "raise SystemExit(4)", 4)],
)
def test_fail_on_looks_at_the_severity_and_keeps_the_scripts_failure(
    tmp_path: Path, fail_on: str, source: str, status: int
) -> None:
    write(tmp_path, "train.py", source)

    _, report = analyze("--fail-on", fail_on, "train.py", cwd=tmp_path, status=status)

    assert codes(report) == ([] if source is CLEAN else ["MP102"])


def test_json_on_stdout_follows_what_the_script_prints_and_obeys_the_schema(tmp_path: Path) -> None:
    write(tmp_path, "train.py", LEAKY)

    result = memprof("analyze", "--format", "json", "train.py", cwd=tmp_path)

    assert result.returncode == 0, said(result)
    assert result.stderr == ""
    printed, json_text = result.stdout.split("\n", 1)
    assert printed == "trained"
    report = json.loads(json_text)
    schema = Path(memprof_package.__file__).with_name("report") / "schema.json"
    jsonschema.validate(report, json.loads(schema.read_text(encoding="utf-8")))
    assert report["run"]["script"] == str(tmp_path / "train.py")
    assert [finding["location"]["line"] for finding in report["findings"]] == [18]


def test_loader_iteration_is_found(tmp_path: Path) -> None:
    source = TINY + (
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "loader = DataLoader(TensorDataset(torch.randn(24, 8)), batch_size=4)\n"
        "for _ in range(2):\n"
        "    for number, (batch,) in enumerate(loader):\n"
        "        model(batch).sum().backward()\n"
        "        if number % 2: optimizer.step(); optimizer.zero_grad()\n"
        "model.eval()\n"
        "with torch.no_grad():\n"
        "    for (batch,) in loader: model(batch)\n"
    )
    write(tmp_path, "train.py", source)

    _, report = analyze("train.py", cwd=tmp_path)

    assert codes(report) == []
    kinds = [iteration["kind"] for iteration in report["iterations"]]
    assert kinds.count("train") == 6, kinds  # gradients of two batches a step
    assert kinds.count("evaluate") == 6, str(kinds)


def _run_on_terminal(command: list[str], cwd: Path, **env: str) -> tuple[int, str]:
    """Run with standard error (and output) on a terminal of its own; return what came there."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command, cwd=cwd, env=environment(**env), stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL
    )
    os.close(theirs)
    said_there = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            said_there += chunk
    os.close(ours)
    return child.wait(timeout=60), said_there.decode()


@pytest.mark.parametrize("no_color", [False, True])
def test_progress_and_colour_on_a_terminal(tmp_path: Path, no_color: bool) -> None:
    write(tmp_path, "train.py", LEAKY)
    extra = {"NO_COLOR": "1"} if no_color else {}

    status, said_there = _run_on_terminal(
        [sys.executable, "-m", "memprof", "analyze", "train.py"], tmp_path, TERM="xterm-256color", COLUMNS="80", **extra
    )

    assert status == 0, said_there
    assert "memprof: iteration 1  allocated" in said_there
    report = said_there[said_there.index("train.py | torch") :]
    assert report.rstrip().endswith("1 hint: MP102 at train.py:18; recording: train.memprof")
    colours = re.findall(r"\033\[[0-9;]*m", report)
    assert any(re.search(r"3[1-7]|9[0-7]|38;5", code) for code in colours) is not no_color


# --- The other commands --------------------------------------------------------------------------


def test_version_help_explain_and_completion_need_no_torch(tmp_path: Path) -> None:
    source = (
        "import sys\nsys.modules['torch'] = None\n"
        "from click.testing import CliRunner\nfrom memprof.cli import cli\n"
        "for words in (['--version'], ['--help'], ['explain'], ['explain', 'MP101'], ['explain', 'MP999'],\n"
        "              ['completion', 'bash'], ['completion', 'zsh'], ['completion', 'fish'], ['completion', 'dos'], ['nothing']):\n"
        "    result = CliRunner().invoke(cli, words)\n"
        "    print('=====', *words, result.exit_code)\n    print(result.output)\n"
    )
    write(tmp_path, "commands.py", source)

    result = python("commands.py", cwd=tmp_path)

    assert result.returncode == 0, said(result)
    parts = dict(part.split("\n", 1) for part in result.stdout.split("===== ")[1:])
    assert f"version {memprof_package.__version__}" in parts["--version 0"]
    assert "analyze" in parts["--help 0"]
    assert len(parts["explain 0"].splitlines()) >= 7
    assert all(line.startswith("MP") for line in parts["explain 0"].strip().splitlines())
    assert "Why it costs memory" in parts["explain MP101 0"]
    assert "there is no rule 'MP999'; `memprof explain` lists all" in parts["explain MP999 2"]
    for shell in ("bash", "zsh", "fish"):
        assert "_MEMPROF_COMPLETE" in parts[f"completion {shell} 0"]
    assert "'dos'" in parts["completion dos 2"]
    assert "nothing 2" in parts


def test_completion_script_is_answered(tmp_path: Path) -> None:
    env = {"_MEMPROF_COMPLETE": "bash_complete", "COMP_WORDS": "memprof ana", "COMP_CWORD": "1"}

    result = memprof(cwd=tmp_path, env=env)

    assert result.stdout.strip() == "plain,analyze"
