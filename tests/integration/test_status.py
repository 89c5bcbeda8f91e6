"""`memprof status` with doubles for NVML and nvidia-smi, and where there is neither."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

import memprof.cli.status
from memprof.capture import gpu_processes, gpus
from memprof.cli import cli
from memprof.report.gpu_json import status_schema
from tests.integration.programs import environment
from tests.unit.capture.fake_nvml import GIB, FakeGpu, FakeGputil, FakeNvml, install, smi_gpu

NO_SUCH_PID = 2**22 + 5

FAKE_PYNVML = """\
NVML_TEMPERATURE_GPU = 0
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return '580.1'
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return 'Fake GPU'
"""


def run(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(cli, ["status", *words])
    assert result.exit_code == 0, result.output
    return result.output


def document(*words: str) -> dict:
    found = json.loads(run("--format", "json", *words))
    jsonschema.Draft202012Validator(status_schema()).validate(found)
    return found


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(status_schema())


def test_devices_and_processes_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu(processes=[(os.getpid(), 2 * GIB)]), FakeGpu(1)))

    text = run()

    assert "2 GPUs, driver 580.95.05; measured, read through NVML" in text
    assert "Fake GPU" in text
    assert "42 %" in text
    assert str(os.getpid()) in text
    assert "still held" not in text


def test_json_of_a_split_gpu_with_a_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_processes, "sees_all_processes", lambda: True)
    part = FakeGpu(5, processes=[(NO_SUCH_PID, None)])
    install(monkeypatch, FakeNvml(FakeGpu(mig=[part], refuse=("processes", "temperature"))))

    found = document()

    assert (found["schema"], found["read_through"], found["source"]) == ("memprof.status/1", "nvml", "measured")
    (gpu,) = found["gpus"]
    assert gpu["temperature_celsius"] is None
    assert gpu["processes"] is None
    (process,) = gpu["mig_devices"][0]["processes"]
    assert process["used_bytes"] is None
    assert process["zombie_holder"]


def test_a_zombie_holder_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_processes, "sees_all_processes", lambda: True)
    install(monkeypatch, FakeNvml(FakeGpu(processes=[(NO_SUCH_PID, 2 * GIB)])))

    text = " ".join(run().split())

    assert f"pid {NO_SUCH_PID} no longer exists, and 2 GiB on GPU 0 is still held in its name" in text
    assert "fuser" in text


def test_nvidia_smi_says_why_processes_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    install(monkeypatch, FakeNvml(init_error="Driver/library version mismatch"), FakeGputil(smi_gpu()))

    text = " ".join(run().split())

    assert "read through nvidia-smi" in text
    assert "processes are unknown: NVML cannot be used (Driver/library version mismatch)" in text
    assert document()["gpus"][0]["processes"] is None


def test_no_gpu_is_one_sentence_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    install(monkeypatch, FakeNvml(init_error="NVML Shared Library Not Found"), FakeGputil())

    text = " ".join(run().split())

    assert text == (
        "No NVIDIA GPU can be read: NVML cannot be used (NVML Shared Library Not Found); nvidia-smi is not on the PATH."
    )
    assert document()["gpus"] == []
    install(monkeypatch, FakeNvml())
    assert run() == "NVML lists no GPU on this machine.\n"


def test_names_are_printed_harmlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu())
    nvml.nvmlDeviceGetName = lambda handle: "[red]\x1b[31m</script>\udcff"
    install(monkeypatch, nvml)

    assert "\x1b" not in run()
    assert "[red]" in run()
    assert "</script" not in run("--format", "json")
    document()


def test_output_goes_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu()))

    assert run("--output", str(tmp_path / "a.txt")) == ""
    assert run("--format", "json", "--output", str(tmp_path / "a.json")) == ""

    assert "Fake GPU" in (tmp_path / "a.txt").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == "memprof.status/1"
    missing = CliRunner().invoke(cli, ["status", "--output", str(tmp_path / "none" / "a.json")])
    assert "create it first" in str(missing.exception)


def test_watch_prints_a_block_an_interval_until_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu()))
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) % 3 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(memprof.cli.status.time, "sleep", sleep)

    assert run("--watch").count("read through NVML") == 3
    lines = run("--format", "json", "--watch", "0.5").splitlines()

    assert [json.loads(line)["schema"] for line in lines] == ["memprof.status/1"] * 3
    assert waited == [2.0] * 3 + [0.5] * 3


def test_watch_in_a_terminal_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu()))
    naps = iter([None, KeyboardInterrupt()])

    def sleep(_: float) -> None:
        if error := next(naps):
            raise error

    monkeypatch.setattr(memprof.cli.status.time, "sleep", sleep)

    with pytest.raises(KeyboardInterrupt):
        memprof.cli.status._live(1)


def test_too_short_an_interval_is_refused() -> None:
    assert CliRunner().invoke(cli, ["status", "--watch", "0"]).exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_a_watch_with_status_0(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(FAKE_PYNVML)
    watching = subprocess.Popen(
        [sys.executable, "-m", "memprof", "status", "--watch", "0.1", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))),
    )
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    time.sleep(0.2)
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)

    assert first["gpus"][0]["name"] == "Fake GPU"
    assert first["gpus"][0]["used_bytes"] is None
    assert (watching.returncode, errors) == (0, "")
