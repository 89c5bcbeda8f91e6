"""Reading the state of GPUs: every source, every way in which one can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from memprof.capture import gpu_processes, gpus
from memprof.capture.gpu_processes import ProcessState
from memprof.capture.gpus import DeviceUse, DeviceWatch, read_gpus
from tests.unit.capture.fake_nvml import GIB, FakeGpu, FakeGputil, FakeNvml, install, smi_gpu

NO_SUCH_PID = 2**22 + 5  # above the largest pid Linux gives out


@pytest.fixture
def on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_processes, "sees_all_processes", lambda: True)


@pytest.fixture
def nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/usr/bin/nvidia-smi")


def one(report: gpus.GpuReport) -> gpus.Gpu:
    assert len(report.gpus) == 1
    return report.gpus[0]


# ---- NVML ------------------------------------------------------------------------------------


def test_nvml_tells_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu(processes=[(os.getpid(), 2 * GIB)]), FakeGpu(1))
    install(monkeypatch, nvml)

    report = read_gpus()

    assert (report.source, report.driver_version, report.reasons) == ("nvml", "580.95.05", ())
    first, second = report.gpus
    assert (first.index, first.name, first.uuid) == (0, "Fake GPU", "GPU-00000000-aaaa")
    assert (first.total_bytes, first.used_bytes, first.free_bytes) == (8 * GIB, 3 * GIB - 1000, 5 * GIB)
    assert first.driver_reserved_bytes == 1000
    assert (first.utilisation_percent, first.temperature_celsius) == (42, 55)
    assert first.mig_enabled is None
    (process,) = first.processes
    assert (process.pid, process.used_bytes, process.state) == (os.getpid(), 2 * GIB, ProcessState.RUNNING)
    assert "py" in process.command
    assert not process.is_zombie_holder
    assert second.processes == ()
    assert nvml.open == 0


def test_what_is_not_supported_is_unknown_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = ("name", "memory", "utilisation", "temperature", "processes")
    install(monkeypatch, FakeNvml(FakeGpu(refuse=refuse)))

    gpu = one(read_gpus())

    figures = (gpu.name, gpu.total_bytes, gpu.used_bytes, gpu.free_bytes, gpu.utilisation_percent)
    assert figures == (None,) * 5
    assert gpu.temperature_celsius is None
    assert gpu.processes is None


@pytest.mark.parametrize("nbytes", [None, (1 << 64) - 1])
def test_bytes_of_a_process_that_the_driver_hides_are_unknown(nbytes, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu(processes=[(os.getpid(), nbytes)])))

    assert one(read_gpus()).processes[0].used_bytes is None


def test_old_drivers_know_the_first_version_of_the_memory_call(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu(refuse=("memory_v2",))))

    gpu = one(read_gpus())

    assert (gpu.used_bytes, gpu.driver_reserved_bytes) == (3 * GIB, None)


def test_a_process_that_computes_and_draws_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.getpid()
    install(monkeypatch, FakeNvml(FakeGpu(processes=[(pid, 5)], graphics=[(pid, 5)])))

    assert [process.used_bytes for process in one(read_gpus()).processes] == [5]


def test_a_lost_gpu_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu(), FakeGpu(1), lost=[0]))

    lost, other = read_gpus().gpus

    assert "GPU is lost" in lost.note
    assert lost.used_bytes is None
    assert other.note is None


def test_mig_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    part = FakeGpu(5, used=GIB, processes=[(os.getpid(), None)])
    install(monkeypatch, FakeNvml(FakeGpu(mig=[part], refuse=("utilisation", "processes"))))

    gpu = one(read_gpus())

    assert gpu.mig_enabled
    assert gpu.utilisation_percent is None
    assert gpu.processes is None
    assert [(each.index, each.used_bytes) for each in gpu.mig_devices] == [(0, GIB - 1000)]
    assert gpu.mig_devices[0].processes[0].used_bytes is None


# ---- processes -------------------------------------------------------------------------------


def test_a_pid_that_is_gone_holds_memory(on_the_host, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu(processes=[(NO_SUCH_PID, GIB)])))

    (process,) = one(read_gpus()).processes

    assert process.state is ProcessState.GONE
    assert process.is_zombie_holder
    assert (process.user, process.command) == (None, None)


def test_a_real_zombie_holds_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        deadline = time.monotonic() + 20
        while gpu_processes.describe_process(child.pid)[2] is not ProcessState.ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        install(monkeypatch, FakeNvml(FakeGpu(processes=[(child.pid, None)])))

        (process,) = one(read_gpus()).processes

        assert process.is_zombie_holder
    finally:
        child.wait()


def test_a_process_that_ended_between_two_questions_is_no_holder(on_the_host, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu())
    answers = iter([[(NO_SUCH_PID, GIB)], []])
    gpu = nvml.gpus[0]

    def listed(handle):
        gpu.processes = next(answers)
        return FakeNvml.nvmlDeviceGetComputeRunningProcesses(nvml, handle)

    nvml.nvmlDeviceGetComputeRunningProcesses = listed
    install(monkeypatch, nvml)

    assert one(read_gpus()).processes == ()


def test_in_a_container_a_foreign_pid_is_no_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_processes, "sees_all_processes", lambda: False)
    install(monkeypatch, FakeNvml(FakeGpu(processes=[(NO_SUCH_PID, GIB)])))

    (process,) = one(read_gpus()).processes

    assert process.state is ProcessState.NOT_VISIBLE
    assert not process.is_zombie_holder


def test_a_process_of_somebody_else_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def denied(self, *_):
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "username", denied)
    monkeypatch.setattr(psutil.Process, "cmdline", denied)

    assert gpu_processes.describe_process(os.getpid()) == (None, None, ProcessState.RUNNING)


@pytest.mark.parametrize("pid", [-1, 2**40])
def test_a_pid_that_cannot_be_is_no_error(pid: int) -> None:
    gpu_processes.describe_process(pid)


# ---- fallbacks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "why", ["NVML Shared Library Not Found", "Driver/library version mismatch", "Insufficient Permissions"]
)
def test_nvidia_smi_is_asked_where_nvml_fails(why: str, nvidia_smi, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(init_error=why), FakeGputil(smi_gpu(temperature=float("nan"))))

    report = read_gpus()

    assert report.source == "nvidia-smi"
    assert report.driver_version == "470.1"
    assert why in report.reasons[0]
    gpu = one(report)
    assert (gpu.total_bytes, gpu.used_bytes, gpu.free_bytes) == (8 * GIB, GIB, 7 * GIB)
    assert (gpu.utilisation_percent, gpu.temperature_celsius) == (25, None)
    assert gpu.processes is None


def test_without_pynvml_nvidia_smi_is_asked(nvidia_smi, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, FakeGputil(smi_gpu()))

    report = read_gpus()

    assert report.source == "nvidia-smi"
    assert report.reasons[0].startswith("pynvml cannot be imported")


def test_gputil_without_distutils_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(init_error="no library"))

    def no_distutils(name: str):
        if name == "GPUtil":
            raise ModuleNotFoundError("No module named 'distutils'")
        return sys.modules[name]

    monkeypatch.setattr(gpus, "import_quietly", no_distutils)

    report = read_gpus()

    assert report.source is None
    assert report.gpus == ()
    assert "No module named 'distutils'; it needs setuptools on Python 3.12" in report.reasons[1]


@pytest.mark.parametrize(
    ("gputil", "reason"),
    [
        (FakeGputil(), "nvidia-smi lists no GPU"),
        (FakeGputil(error=ValueError("invalid literal for int()")), "no answer that GPUtil can read (invalid literal"),
    ],
)
def test_nvidia_smi_without_an_answer(gputil, reason: str, nvidia_smi, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, gputil)

    assert reason in read_gpus().reasons[1]


def test_nvidia_smi_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    install(monkeypatch, None, FakeGputil())

    assert read_gpus().reasons[1] == "nvidia-smi is not on the PATH"


def test_needs_no_torch() -> None:
    program = "import sys\nsys.modules['torch'] = None\nfrom memprof.capture.gpus import read_gpus\nread_gpus()"
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- one device during a run -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        {"uuid": "00000001-aaaa"},
        {"uuid": "GPU-00000001-aaaa"},
        {"uuid": None, "pci_bus_id": "0000:02:00.0"},
        {"uuid": "unheard-of", "pci_bus_id": "0000:02:00.0"},
    ],
)
def test_watch_finds_its_device_by_name_not_number(name, monkeypatch: pytest.MonkeyPatch) -> None:
    other = FakeGpu(1, used=4 * GIB, processes=[(os.getpid(), GIB), (1, 2 * GIB), (2, GIB)])
    nvml = FakeNvml(FakeGpu(), other)
    install(monkeypatch, nvml)

    watch = DeviceWatch(**name)

    assert watch.found
    assert watch.read() == DeviceUse(4 * GIB, GIB, 3 * GIB)
    watch.close()
    watch.close()
    assert nvml.open == 0
    assert watch.read() == DeviceUse(None, None, None)


def test_watch_finds_a_mig_device(monkeypatch: pytest.MonkeyPatch) -> None:
    part = FakeGpu()
    part.uuid = "MIG-77"
    install(monkeypatch, FakeNvml(part))

    assert DeviceWatch("GPU-77").found


@pytest.mark.parametrize(
    ("processes", "own", "others"),
    [
        ([(1, GIB)], None, None),  # a container hides pids: this process may be any of them
        ([], None, None),
        ([(os.getpid(), None), (1, GIB)], None, GIB),
        ([(os.getpid(), GIB), (1, None)], GIB, None),
        ([(os.getpid(), GIB)], GIB, 0),
    ],
)
def test_watch_knows_what_it_does_not_know(processes, own, others, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(FakeGpu(processes=processes)))

    assert DeviceWatch("GPU-00000000-aaaa").read() == DeviceUse(3 * GIB, own, others)


@pytest.mark.parametrize("nvml", [None, FakeNvml(init_error="no driver"), FakeNvml()])
def test_watch_without_nvml_or_device_never_raises(nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, nvml)

    watch = DeviceWatch("GPU-1")

    assert not watch.found
    assert watch.read() == DeviceUse(None, None, None)
    watch.close()


def test_watch_survives_a_gpu_that_gets_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(processes=[(os.getpid(), GIB)])
    install(monkeypatch, FakeNvml(gpu))
    watch = DeviceWatch(gpu.uuid)
    gpu.refuse = {"memory", "processes"}

    assert watch.read() == DeviceUse(None, None, None)
