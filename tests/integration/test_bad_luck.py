"""What goes wrong around a run: it goes on, the message is clear, and what was recorded is not lost."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.integration.programs import CLEAN, LEAKY, TINY, analyze, codes, memprof, python, said, steps_recorded, write

# --- Before the run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.py"], "memprof: cannot open script 'missing.py': No such file or directory\n"),
        (["folder"], "memprof: 'folder' is a folder without a __main__.py; name a script in it\n"),
        (["-m", "no_such_module"], "memprof: cannot find a module named 'no_such_module' to run"),
        (["-m", "no.such"], "memprof: cannot find module 'no.such': No module named 'no'\n"),
        (
            ["--device", "cuda", "train.py"],
            "memprof: --device cuda: torch sees no CUDA device here; use --device auto or cpu\n",
        ),
        (
            ["-o", "notes.txt", "train.py"],
            "memprof: notes.txt exists and is not a memprof recording; choose another file with -o\n",
        ),
        (["-o", "train.py", "train.py"], "is not a memprof recording; choose another file with -o\n"),
        (["-o", "nowhere/run", "train.py"], "cannot write the recording to "),
        (["--plot", "nowhere/a.png", "train.py"], "there is no folder "),
        (["--plot", "a.bmp", "train.py"], "memprof: cannot write a plot to "),
        (["--output", "notes.txt/a.json", "train.py"], "there is no folder "),
        ([], "name a script to run: memprof analyze train.py (or -m MODULE)"),
        (["--levle", "auto", "train.py"], "No such option"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_told_before_the_script_runs(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path, "notes.txt", "do not lose me\n")
    script = "print('runs')\n"
    write(tmp_path, "train.py", script)

    result = memprof("analyze", *options, cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})

    assert result.returncode == 2, said(result)
    assert message in result.stderr.replace(f"{tmp_path}/", "")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "do not lose me\n"
    assert (tmp_path / "train.py").read_text(encoding="utf-8") == script


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_found_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    write(tmp_path, "train.py", "print('runs')\n")

    for option in ("--plot", "--output", "-o"):
        result = memprof("analyze", option, "locked/file.png", "train.py", cwd=tmp_path)

        assert result.returncode == 2, said(result)
        assert "cannot write" in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    "source",
    [
        b"x = (\n",
        b"# text\nname = '\xe9'\n",
        b"x = 1\0\n",
        b"# coding: klingon\n",
        b"if True:\npass\n",
        b"\xef\xbb\xbfx = \xff\n",
    ],
    ids=["syntax", "not-utf8", "null-byte", "unknown-encoding", "indentation", "bom-not-utf8"],
)
def test_source_that_does_not_compile_reads_as_with_python(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "train.py").write_bytes(source)
    bare = python("train.py", cwd=tmp_path)

    result = memprof("analyze", "train.py", cwd=tmp_path)

    assert bare.returncode == result.returncode == 1
    assert "memprof" not in result.stderr
    last, last_bare = result.stderr.splitlines()[-1], bare.stderr.splitlines()[-1]
    # Where the wording of a version differs in detail, the kind of error does not.
    assert last.split(":")[0] == last_bare.split(":")[0] == ("IndentationError" if b"if" in source else "SyntaxError")
    if source.startswith((b"x = (", b"# text", b"if")):
        assert result.stderr == bare.stderr
    assert not (tmp_path / "train.memprof").exists()


# --- Sudden ends ---------------------------------------------------------------------------------

FAST = """\
import os, signal, torch
layer = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
x = torch.ones(1, 1)
done = 0
while True:
    optimizer.zero_grad(); layer(x).backward(); optimizer.step()
    done += 1
    if done == 50:
        {end}
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("os._exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("os.abort()", -signal.SIGABRT)],
    ids=["_exit", "sigkill", "abort"],
)
@pytest.mark.parametrize("level", ["auto", "tensors"])
def test_what_was_finished_before_a_sudden_end_is_recorded(tmp_path: Path, end: str, status: int, level: str) -> None:
    write(tmp_path, "train.py", FAST.format(end=end))

    result = memprof("analyze", "--level", level, "train.py", cwd=tmp_path)
    report = memprof("report", "train.memprof", cwd=tmp_path)

    assert result.returncode == status, said(result)
    assert report.returncode == 0, said(report)
    assert "no problem found" in report.stdout
    assert steps_recorded(tmp_path / "train.memprof") >= 49


def test_recording_of_a_run_is_read_while_it_goes_on_and_replaced_by_the_next(tmp_path: Path) -> None:
    write(tmp_path, "killed.py", FAST.format(end="os._exit(0)"))
    source = CLEAN + (
        "import memprof\n"
        "with memprof.open_recording('run.memprof') as seen:\n"
        "    print(sum(bool(tick.flags & 4 and 1) for tick in seen.ticks) >= 0, len(seen.ticks) >= 12)\n"
    )
    write(tmp_path, "train.py", source)

    memprof("analyze", "-o", "run.memprof", "killed.py", cwd=tmp_path)
    result, _ = analyze("-o", "run.memprof", "train.py", cwd=tmp_path)

    assert result.stdout == "trained\nTrue True\n"
    assert steps_recorded(tmp_path / "run.memprof") == 12


# --- Full disks ----------------------------------------------------------------------------------


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))


@pytest.mark.parametrize("strict", [False, True], ids=["", "warnings-are-errors"])
def test_full_disk_does_not_end_the_run(tmp_path: Path, strict: bool) -> None:
    write(tmp_path, "train.py", LEAKY.replace("range(12)", "range(400)"))
    env = {"PYTHONWARNINGS": "error::RuntimeWarning"} if strict else {}

    result = memprof("analyze", "--level", "tensors", "train.py", cwd=tmp_path, env=env, preexec_fn=_small_files)

    assert result.returncode == 0, said(result)
    assert "Traceback" not in result.stderr, said(result)
    assert result.stdout.startswith("trained\n")
    assert "MP102" in result.stdout
    # A long path is folded anywhere at the edge of the report.
    assert "train.memprofcannolongerbewritten" in "".join((result.stdout + result.stderr).split())
    if not strict:
        assert result.stderr.count("can no longer be written") == 1
        assert "recording goes on in memory and the file ends here" in result.stderr
    assert steps_recorded(tmp_path / "train.memprof") > 10  # up to where the disk was full


def test_report_that_cannot_be_written_in_the_end_is_shown(tmp_path: Path) -> None:
    source = LEAKY + "import os, shutil\nshutil.rmtree('out')\n"
    write(tmp_path, "train.py", source)
    (tmp_path / "out").mkdir()

    result = memprof("analyze", "--output", "out/report.txt", "--plot", "out/plot.png", "train.py", cwd=tmp_path)

    assert result.returncode == 2, said(result)
    assert "MP102" in result.stdout
    assert f"memprof: cannot write '{tmp_path}/out/report.txt': No such file or directory." in result.stderr
    assert "Traceback" not in result.stderr


# --- Scripts that do unusual things --------------------------------------------------------------


def test_child_that_trains_too_leaves_recording_and_report_to_the_parent(tmp_path: Path) -> None:
    source = TINY + (
        "import os, sys\n"
        "first = second = None\n"
        "for number in range(18):\n"
        "    step()\n"
        "    if number == 5:\n"
        "        first = os.fork()\n"
        "    if number == 11 and first == 0:\n"
        "        print('child ends', flush=True)\n"
        "        sys.exit(5)\n"
        "    if number == 11:\n"
        "        print('child ended with', os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]), flush=True)\n"
        "        second = os.fork()\n"
        "if second:\n"
        "    print('and with', os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))\n"
        "else:\n"
        "    raise ValueError('in the child')\n"
    )
    write(tmp_path, "train.py", source)

    result = memprof("analyze", "train.py", cwd=tmp_path)

    assert result.returncode == 0, said(result)
    assert result.stdout.splitlines()[:3] == ["child ends", "child ended with 5", "and with 1"]
    assert result.stdout.count("no problem found") == 1
    assert result.stderr.count("ValueError: in the child") == 1
    assert result.stderr.count("recording:") == 1
    assert steps_recorded(tmp_path / "train.memprof") == 18


PLACES = (
    "import torch\n\ntorch.manual_seed(0)\n"
    + TINY
    + """\
import copy, io, pickle, threading, warnings
import torch.utils.checkpoint
from torch.func import functional_call, grad, vmap


def said(name, *values):
    print(name, *[round(float(value), 5) for value in values])


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * 3 * x**2


def turn():
    # models that are copied, pickled and saved between two steps
    copied = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    saved = copy.deepcopy(optimizer.state_dict())
    x = torch.ones(2, 8)
    said("copies", *(twin(x).sum().item() for twin in (model, copied, again, loaded)), len(saved["param_groups"]))

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = grad(lambda p, x: functional_call(model, p, (x,)).sum())(parameters, x)
    each = vmap(grad(lambda p, x: functional_call(model, p, (x,)).sum()), in_dims=(None, 0))(parameters, x)
    said("func", *(gradients[name].sum() for name in gradients), *(each[name].sum() for name in each))

    x = torch.linspace(0, 1, 8, requires_grad=True)
    Cube.apply(x).sum().backward()
    said("function", x.grad.sum())

    for reentrant in (False, True):
        x = torch.ones(2, 8, requires_grad=True)
        torch.utils.checkpoint.checkpoint(model, x, use_reentrant=reentrant).sum().backward()
        said("checkpoint", x.grad.sum())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.ones(2, 8))
        loss = y.float().sum()
    loss.backward()
    said("autocast", y.dtype == torch.bfloat16, loss)

    table = nn.EmbeddingBag(50, 4, sparse=True)
    with torch.no_grad():
        table.weight.fill_(0.5)
    sparse = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([[1, 2], [3, 4]])).sum().backward()
    said("sparse", table.weight.grad.is_sparse)
    sparse.step()
    sparse.zero_grad()
    said("sparse", table.weight.sum())

    with torch.device("meta"):
        large = nn.Linear(1 << 16, 1 << 16)
        said("meta", large(torch.empty(3, 1 << 16)).numel())
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        fake = nn.Linear(8, 8)
        said("fake", fake(torch.empty(3, 8)).numel())

    values = []
    thread = threading.Thread(target=lambda: values.extend(float(copied(torch.ones(1, 8)).sum()) for _ in range(20)))
    thread.start()
    step_values = [step().item() for _ in range(3)]
    thread.join()
    said("thread", len(set(values)), len(step_values))
    quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    said("quantized", quantized.dequantize().sum())
    optimizer.zero_grad()


torch.manual_seed(0)
warnings.simplefilter("ignore")
for _ in range(3):
    turn()
"""
)


@pytest.mark.parametrize("level", ["tensors", "auto"])
def test_unusual_uses_of_torch_go_on_as_without_memprof(tmp_path: Path, level: str) -> None:
    write(tmp_path, "train.py", PLACES)
    bare = python("train.py", cwd=tmp_path)

    result, report = analyze("--level", level, "train.py", cwd=tmp_path)

    assert bare.returncode == 0, said(bare)
    assert result.stdout.splitlines() == bare.stdout.splitlines()
    assert result.stderr == "recording: train.memprof\n"
    assert not [code for code in codes(report) if code != "MP301"]
    assert all(
        peak["allocated_bytes"] < 1 << 30 for peak in report["peak"]
    )  # nothing of meta or fake tensors was counted


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_still_compile_and_say_the_same(tmp_path: Path, backend: str) -> None:
    source = (
        "import warnings\nwarnings.simplefilter('ignore')\nimport torch\nfrom torch import nn\n"
        "torch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "compilations = []\n"
        "from torch._dynamo.backends.registry import lookup_backend\n"
        "def backend(graph, inputs):\n"
        "    compilations.append(step)\n"
        f"    return lookup_backend({backend!r})(graph, inputs)\n"
        "compiled = torch.compile(model, backend=backend, fullgraph=True)  # an error where memprof breaks it\n"
        "for step in range(40):\n"
        "    loss = compiled(torch.ones(4, 8)).square().mean()\n"
        "    optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
        "print(round(loss.item(), 6), bool(compilations))\n"
    )
    write(tmp_path, "train.py", source)
    bare = python("train.py", cwd=tmp_path)

    result, report = analyze("train.py", cwd=tmp_path)

    assert bare.returncode == 0, said(bare)
    assert bare.stdout.endswith("True\n")
    assert result.stdout == bare.stdout
    assert codes(report) == []
    assert steps_recorded(tmp_path / "train.memprof") == 40
