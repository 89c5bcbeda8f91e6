"""Doubles for `pynvml` and `GPUtil`."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

GIB = 1 << 30


class NVMLError(Exception):
    pass


class FakeGpu:
    """One device; a method named in `refuse` raises as NVML does where something is not supported."""

    def __init__(self, index: int = 0, *, processes=(), graphics=(), mig=None, refuse=(), used=3 * GIB) -> None:
        self.index = index
        self.uuid = f"GPU-0000000{index}-aaaa"
        self.bus = f"00000000:0{index + 1}:00.0"
        self.used = used
        self.total = 8 * GIB
        self.processes = processes
        self.graphics = graphics
        self.mig = mig
        self.refuse = set(refuse)


class FakeNvml(ModuleType):
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 2
    NVMLError = NVMLError

    def __init__(self, *gpus: FakeGpu, init_error: str | None = None, lost=()) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.init_error = init_error
        self.lost = set(lost)
        self.open = 0

    def _check(self, gpu: FakeGpu, name: str) -> None:
        if name in gpu.refuse:
            raise NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        if self.init_error:
            raise NVMLError(self.init_error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if index in self.lost:
            raise NVMLError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError("Not Found")

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> FakeGpu:
        for gpu in self.gpus:
            if gpu.bus.endswith(bus):
                return gpu
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> bytes:
        self._check(gpu, "name")
        return b"Fake GPU"  # as pynvml before 11.5

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetPciInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(busId=gpu.bus)

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int | None = None) -> SimpleNamespace:
        self._check(gpu, "memory")
        free = gpu.total - gpu.used
        if version is None:
            return SimpleNamespace(total=gpu.total, used=gpu.used, free=free)
        self._check(gpu, "memory_v2")
        return SimpleNamespace(total=gpu.total, used=gpu.used - 1000, free=free, reserved=1000)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:
        self._check(gpu, "utilisation")
        return SimpleNamespace(gpu=42, memory=7)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        self._check(gpu, "temperature")
        return 55

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        self._check(gpu, "processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: FakeGpu) -> list[SimpleNamespace]:
        self._check(gpu, "processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.graphics]

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.mig is None:
            raise NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        if index >= len(gpu.mig):
            raise NVMLError("Not Found")
        return gpu.mig[index]


class FakeGputil(ModuleType):
    def __init__(self, *gpus: SimpleNamespace, error: Exception | None = None) -> None:
        super().__init__("GPUtil")
        self.gpus = list(gpus)
        self.error = error

    def getGPUs(self) -> list[SimpleNamespace]:
        if self.error:
            raise self.error
        return self.gpus


def smi_gpu(**changes: object) -> SimpleNamespace:
    facts = {
        "id": 0, "uuid": "GPU-1", "load": 0.25, "memoryTotal": 8192.0, "memoryUsed": 1024.0, "memoryFree": 7168.0,
        "driver": "470.1", "name": "Old GPU", "temperature": 40.0,
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **changes})


def install(monkeypatch: pytest.MonkeyPatch, nvml: object, gputil: object = None) -> None:
    """Put doubles where the real modules are; None makes the import fail."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setitem(sys.modules, "GPUtil", gputil)
