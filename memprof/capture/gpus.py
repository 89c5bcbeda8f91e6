"""The GPUs of this machine and who holds their memory, from the driver; needs neither torch nor a GPU.

NVML is asked first, through `pynvml`. Where it cannot answer, `nvidia-smi` is asked through GPUtil, which
knows no processes. Where neither works, the report says why.

Source:
    NVML API reference, driver 580; GPUtil 1.4.0.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from memprof.capture.gpu_processes import ProcessState, describe_process
from memprof.capture.nvml import ask, held_by_process, import_quietly, load_nvml

NVML = "nvml"
NVIDIA_SMI = "nvidia-smi"

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that the driver lists on a GPU."""

    pid: int
    user: str | None
    command: str | None
    used_bytes: int | None
    """Device memory it holds. None where the driver does not tell (WSL, MIG without permission)."""
    state: ProcessState

    @property
    def is_zombie_holder(self) -> bool:
        """The process is dead, and memory is still held in its name."""
        return self.state in (ProcessState.GONE, ProcessState.ZOMBIE) and self.used_bytes != 0


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A part of a GPU that is split up by MIG."""

    index: int
    name: str | None
    uuid: str | None
    total_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    processes: tuple[GpuProcess, ...] | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver sees it; None is unknown. Every figure is measured."""

    index: int
    name: str | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None
    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    driver_reserved_bytes: int | None = None
    """Kept by the driver and part of neither `used_bytes` nor `free_bytes`."""
    utilisation_percent: int | None = None
    """Share of the last sample period in which a kernel ran."""
    temperature_celsius: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    """Largest first. None where they cannot be listed, which is not the same as no process."""
    mig_enabled: bool | None = None
    mig_devices: tuple[MigDevice, ...] = ()
    note: str | None = None
    """Why the GPU could not be read, or None."""


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The state of every GPU at one moment."""

    time_unix_ns: int
    source: str | None
    """`nvml`, `nvidia-smi`, or None where neither answered."""
    driver_version: str | None
    gpus: tuple[Gpu, ...]
    reasons: tuple[str, ...]
    """Why a better source could not be asked, one clause each, in the order in which they were tried."""


class _NotThere(Exception):
    """A source cannot answer; the text says why."""


def read_gpus() -> GpuReport:
    """Read the state of every GPU of this machine. A missing driver or GPU is an answer, not an error.

    Returns:
        What NVML says; failing that, what `nvidia-smi` says; failing both, no GPUs and both reasons.
    """
    reasons: list[str] = []
    for source, read in ((NVML, _from_nvml), (NVIDIA_SMI, _from_nvidia_smi)):
        try:
            driver, gpus = read()
        except _NotThere as reason:
            reasons.append(str(reason))
        else:
            return GpuReport(time.time_ns(), source, driver, gpus, tuple(reasons))
    return GpuReport(time.time_ns(), None, None, (), tuple(reasons))


# ---- NVML --------------------------------------------------------------------------------


def _from_nvml() -> tuple[str | None, tuple[Gpu, ...]]:
    try:
        nvml = load_nvml()
    except ImportError as error:
        raise _NotThere(f"pynvml cannot be imported ({error})") from error
    except Exception as error:  # NVMLError, and whatever a library of another version raises
        raise _NotThere(f"NVML cannot be used ({_said(error)})") from error
    try:
        count = nvml.nvmlDeviceGetCount()
        gpus = tuple(_nvml_gpu(nvml, index) for index in range(count))
        return ask(lambda: _text(nvml.nvmlSystemGetDriverVersion())), gpus
    except Exception as error:
        raise _NotThere(f"NVML does not list the GPUs ({_said(error)})") from error
    finally:
        with suppress(Exception):
            nvml.nvmlShutdown()


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):  # pynvml before 11.5
        value = value.decode("utf-8", "replace")
    return value or None if isinstance(value, str) else None


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:  # one GPU that is lost must not hide the others
        return Gpu(index, note=f"NVML cannot read this GPU ({_said(error)})")
    total, used, free, reserved = _nvml_memory(nvml, handle)
    utilisation = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    temperature = ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    mig = ask(lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]))
    return Gpu(
        index=index,
        name=_text(ask(lambda: nvml.nvmlDeviceGetName(handle))),
        uuid=_text(ask(lambda: nvml.nvmlDeviceGetUUID(handle))),
        pci_bus_id=_text(ask(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId)),
        total_bytes=total,
        used_bytes=used,
        free_bytes=free,
        driver_reserved_bytes=reserved,
        utilisation_percent=utilisation,
        temperature_celsius=temperature,
        processes=_nvml_processes(nvml, handle),
        mig_enabled=mig,
        mig_devices=_mig_devices(nvml, handle) if mig else (),
    )


def _nvml_memory(nvml: Any, handle: Any) -> tuple[int | None, int | None, int | None, int | None]:
    """Total, used, free and reserved by the driver; the first version of the call counts the last as used."""
    info = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2))
    if info is not None:
        return info.total, info.used, info.free, info.reserved
    info = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    if info is None:
        return None, None, None, None
    return info.total, info.used, info.free, None


def _nvml_processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...] | None:
    held = held_by_process(nvml, handle)
    if held is None:
        return None
    found = [_process(pid, nbytes) for pid, nbytes in held.items()]
    if any(process.is_zombie_holder for process in found):
        # It may just have ended between the two questions; a holder is still listed.
        listed = held_by_process(nvml, handle) or {}
        found = [process for process in found if not process.is_zombie_holder or process.pid in listed]
    return tuple(sorted(found, key=lambda process: (-(process.used_bytes or 0), process.pid)))


def _process(pid: int, nbytes: int | None) -> GpuProcess:
    user, command, state = describe_process(pid)
    return GpuProcess(pid, user, command, nbytes, state)


def _mig_devices(nvml: Any, handle: Any) -> tuple[MigDevice, ...]:
    slots = ask(lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0
    parts = (_mig_device(nvml, handle, index) for index in range(slots))
    return tuple(part for part in parts if part is not None)


def _mig_device(nvml: Any, handle: Any, index: int) -> MigDevice | None:
    part = ask(lambda: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    if part is None:  # no such slice, or no permission to see it
        return None
    total, used, free, _ = _nvml_memory(nvml, part)
    return MigDevice(
        index=index,
        name=_text(ask(lambda: nvml.nvmlDeviceGetName(part))),
        uuid=_text(ask(lambda: nvml.nvmlDeviceGetUUID(part))),
        total_bytes=total,
        used_bytes=used,
        free_bytes=free,
        processes=_nvml_processes(nvml, part),
    )


# ---- nvidia-smi --------------------------------------------------------------------------


def _from_nvidia_smi() -> tuple[str | None, tuple[Gpu, ...]]:
    try:
        gputil = import_quietly("GPUtil")
    except ImportError as error:
        needs = "; it needs setuptools on Python 3.12 and newer" if "distutils" in str(error) else ""
        raise _NotThere(f"GPUtil cannot be imported ({error}{needs})") from error
    if shutil.which("nvidia-smi") is None:
        raise _NotThere("nvidia-smi is not on the PATH")
    try:
        listed = gputil.getGPUs()
    except Exception as error:
        raise _NotThere(f"nvidia-smi gave no answer that GPUtil can read ({_said(error)})") from error
    if not listed:
        raise _NotThere("nvidia-smi lists no GPU")
    return _text(listed[0].driver), tuple(map(_smi_gpu, listed))


def _smi_gpu(gpu: Any) -> Gpu:
    utilisation = _number(gpu.load, 100)
    return Gpu(
        index=gpu.id,
        name=_text(gpu.name),
        uuid=_text(gpu.uuid),
        total_bytes=_number(gpu.memoryTotal, _MIB),
        used_bytes=_number(gpu.memoryUsed, _MIB),
        free_bytes=_number(gpu.memoryFree, _MIB),
        utilisation_percent=utilisation,
        temperature_celsius=_number(gpu.temperature, 1),
    )


def _number(value: float, factor: int) -> int | None:
    """What GPUtil read, scaled; `[N/A]` came out of it as NaN."""
    return round(value * factor) if math.isfinite(value) else None


# ---- one device, during a run --------------------------------------------------------------


class DeviceUse(NamedTuple):
    """Memory of one device as the driver counts it, in bytes; None is unknown."""

    driver_used_bytes: int | None
    """All that is not free, the driver's own share among it: what `cudaMemGetInfo` calls used."""
    own_process_bytes: int | None
    """Held by this process: context, caching allocator and libraries."""
    other_processes_bytes: int | None
    """Held by all other listed processes together."""


_UNKNOWN = DeviceUse(None, None, None)


class DeviceWatch:
    """Keeps an NVML handle on one CUDA device; reading it costs less than a millisecond and never raises.

    CUDA and NVML number devices differently (`CUDA_VISIBLE_DEVICES`, `CUDA_DEVICE_ORDER`), so a device is
    found by what both call it. Where NVML cannot be used or does not know the device, every reading is
    unknown.

    Args:
        uuid: What `torch.cuda.get_device_properties(i).uuid` reads as, with or without `GPU-` or `MIG-`.
        pci_bus_id: `domain:bus:device.function`, used where the UUID is None or not known to NVML.
    """

    def __init__(self, uuid: str | None, *, pci_bus_id: str | None = None) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        try:
            self._nvml = load_nvml()
        except Exception:
            return
        self._handle = self._find(uuid, pci_bus_id)

    def _find(self, uuid: str | None, pci_bus_id: str | None) -> Any:
        wanted = []
        if uuid:
            bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
            wanted = [("nvmlDeviceGetHandleByUUID", name) for name in (uuid, f"GPU-{bare}", f"MIG-{bare}")]
        if pci_bus_id:
            wanted.append(("nvmlDeviceGetHandleByPciBusId", pci_bus_id))
        for function, name in wanted:
            with suppress(Exception):
                return getattr(self._nvml, function)(name)
        return None

    @property
    def found(self) -> bool:
        """NVML knows the device."""
        return self._handle is not None

    def read(self) -> DeviceUse:
        """Ask the driver. In a container that hides process ids, whose memory it is stays unknown."""
        if self._handle is None:
            return _UNKNOWN
        used = own = others = None
        try:
            info = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            used = info.total - info.free
        except Exception:
            pass
        try:
            held = held_by_process(self._nvml, self._handle)
            pid = os.getpid()
            # Without this process in the list, one of the others may be it under another id.
            if held is not None and pid in held:
                own = held.pop(pid)
                known = [nbytes for nbytes in held.values() if nbytes is not None]
                others = sum(known) if len(known) == len(held) else None
        except Exception:
            pass
        return DeviceUse(used, own, others)

    def close(self) -> None:
        """Let go of NVML; later readings are unknown."""
        nvml, self._nvml, self._handle = self._nvml, None, None
        if nvml is not None:
            with suppress(Exception):
                nvml.nvmlShutdown()
