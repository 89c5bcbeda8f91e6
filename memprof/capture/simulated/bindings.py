"""Stand-ins for what `torch.cuda` calls in C++, so that its own Python code runs on simulated devices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from memprof._errors import UsageError
from memprof.capture.simulated.communication import communication_functions
from memprof.capture.simulated.devices import History, OomObserver, SimulatedDevice
from memprof.capture.simulated.pinned import PinnedMemory
from memprof.capture.simulated.streams import CurrentStreams, QuietNvtx, no_graphs, stream_classes
from memprof.simulate.gpus import Gpu
from memprof.simulate.settings import NO_DIVISIONS, UNLIMITED, AllocatorSettings

_MISSING: Any = object()
_TORCH_ENTRIES = 1 << 62


class Patches:
    """Attributes that were replaced, and how to put them back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute, or add one."""
        self._undo.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put back what was there, newest first."""
        while self._undo:
            owner, name, before = self._undo.pop()
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


class DeviceProperties:
    """In place of `torch._C._CudaDeviceProperties`.

    Args:
        gpu: The GPU.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.name = gpu.name
        self.major, self.minor = gpu.compute_capability
        self.total_memory = gpu.total_bytes
        self.multi_processor_count = gpu.multi_processors
        self.warp_size = 32
        self.max_threads_per_multi_processor = gpu.threads_per_multi_processor
        self.max_threads_per_block = 1024
        self.regs_per_multiprocessor = 65536
        self.shared_memory_per_block = 48 << 10
        self.L2_cache_size = 40 << 20
        self.is_integrated = self.is_multi_gpu_board = 0
        self.gcnArchName = gpu.name
        self.uuid = None

    def __repr__(self) -> str:
        return (
            f"_CudaDeviceProperties(name='{self.name}', major={self.major}, minor={self.minor}, "
            f"total_memory={self.total_memory >> 20}MB, multi_processor_count={self.multi_processor_count}, "
            "simulated by memprof)"
        )


class Runtime:
    """The simulated devices of this process and what `torch.cuda` may ask of them.

    Args:
        gpu: What each device is.
        count: How many there are.
        settings: Of the allocator.
    """

    def __init__(self, gpu: Gpu, count: int, settings: AllocatorSettings) -> None:
        self.history = History()
        self.observers: list[OomObserver] = []
        self.current = CurrentStreams(count)
        self.devices = [SimulatedDevice(index, gpu, settings, self.history, self.observers) for index in range(count)]
        self.gpu = gpu
        self.pinned = PinnedMemory()
        self._conf = ""
        self._sync_mode = 0

    def begin_anew(self) -> None:
        """Give each device back as if nothing had been on it."""
        for device in self.devices:
            device.begin_anew()

    # ---- answers -----------------------------------------------------------------------

    def _snapshot(self, *_: Any) -> dict[str, Any]:
        taken = [list(device.trace) for device in self.devices]
        for device in self.devices:
            device._note("snapshot", 0, device.allocator.allocated_bytes, 0, None)
        return {
            "segments": [segment for device in self.devices for segment in device.segments()],
            "device_traces": taken,
            "allocator_settings": self._settings(),
            "external_annotations": [],
            "host_segments": [],
            "host_traces": [],
        }

    def _settings(self) -> dict[str, Any]:
        settings = self.devices[0].settings
        divisions = settings.roundup_power2_divisions
        return {
            "PYTORCH_CUDA_ALLOC_CONF": self._conf,
            "max_split_size": -1 if settings.max_split_bytes == UNLIMITED else settings.max_split_bytes,
            "garbage_collection_threshold": settings.garbage_collection_threshold,
            "expandable_segments": settings.expandable_segments,
            "roundup_power2_divisions": {
                str(1 << at): value
                for at, value in enumerate((0,) * len(NO_DIVISIONS) if divisions == NO_DIVISIONS else divisions)
            },
        }

    def _record_history(
        self,
        enabled: str | None = None,
        context: str | None = None,
        stacks: str = "all",
        max_entries: int = _TORCH_ENTRIES,
        clear_history: bool = False,
        *_: Any,
        **__: Any,
    ) -> None:
        history = self.history
        history.enabled = enabled is not None
        history.keeps_trace = enabled == "all"
        history.frees_have_frames = context == "all"
        entries = min(max_entries, sys.maxsize)
        for device in self.devices:
            if clear_history or enabled is None or device.trace.maxlen != entries:
                device.clear_trace(entries)

    def _set_settings(self, text: str) -> None:
        try:
            settings = AllocatorSettings.parse(text)
        except UsageError as error:
            raise RuntimeError(str(error)) from error
        self._conf = text
        for device in self.devices:
            device.configure(settings)

    def _memory_info(self, index: int) -> tuple[int, int]:
        device = self.devices[index]
        return device.free_bytes, device.gpu.total_bytes

    def _empty_cache(self, *_: Any) -> None:
        for device in self.devices:
            device.empty_cache()

    def _clear_workspaces(self) -> None:
        for device in self.devices:
            device.release_kept("cublas")
            device.release_kept("cublaslt")

    def _sync(self, mode: int) -> None:
        self._sync_mode = mode

    # ---- stand-ins ---------------------------------------------------------------------

    def functions(self) -> dict[str, Any]:
        """Functions of `torch._C` by name."""
        devices, current = self.devices, self.current

        def stream(index: int) -> tuple[int, int, int]:
            return current.of(index), index, 1

        def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
            current.choose_device(device_index)
            current.choose(device_index, stream_id)

        found: dict[str, Callable[..., Any]] = {
            "init": lambda: None,
            "getDeviceCount": lambda: len(devices),
            "getDevice": lambda: current.device,
            "setDevice": current.choose_device,
            "exchangeDevice": current.exchange,
            "maybeExchangeDevice": current.exchange,
            "getCurrentStream": stream,
            "getDefaultStream": lambda index: (0, index, 1),
            "setStream": set_stream,
            "getCurrentRawStream": current.of,
            "synchronize": lambda: None,
            "sleep": lambda cycles: None,
            "isInBadFork": lambda: False,
            "is_in_bad_fork": lambda: False,
            "getArchFlags": lambda: f"sm_{self.gpu.compute_capability[0]}{self.gpu.compute_capability[1]}",
            "getCompiledVersion": lambda: 13000,
            "canDeviceAccessPeer": lambda index, other: index != other,
            "memoryStats": lambda index: devices[index].statistics(),
            "resetPeakMemoryStats": lambda index: devices[index].reset_peak(),
            "resetAccumulatedMemoryStats": lambda index: devices[index].reset_accumulated(),
            "memorySnapshot": self._snapshot,
            "record_memory_history": self._record_history,
            "record_memory_history_legacy": lambda enabled, *rest: self._record_history("all" if enabled else None),
            "isHistoryEnabled": lambda: self.history.enabled,
            "attach_out_of_memory_observer": self.observers.append,
            "emptyCache": self._empty_cache,
            "ipc_collect": lambda: None,
            "clearCublasWorkspaces": self._clear_workspaces,
            "setMemoryFraction": lambda fraction, index: devices[index].set_memory_fraction(fraction),
            "getMemoryFraction": lambda index: devices[index].memory_fraction,
            "getAllocatorBackend": lambda: "native",
            "cudaCachingAllocator_set_allocator_settings": self._set_settings,
            "setMemorySettings": self._set_settings,
            "hostMemoryStats": self.pinned.statistics,
            "resetPeakHostMemoryStats": lambda: None,
            "resetAccumulatedHostMemoryStats": lambda: None,
            "set_sync_debug_mode": self._sync,
            "get_sync_debug_mode": lambda: self._sync_mode,
            "isCurrentStreamCapturing": lambda: False,
            "setMemoryMetadata": lambda text: None,
            "getMemoryMetadata": lambda: "",
        }
        return {f"_cuda_{name}": function for name, function in found.items()}

    def accelerator_functions(self) -> dict[str, Any]:
        """Functions of `torch._C` behind `torch.accelerator`, by name."""
        devices, current = self.devices, self.current
        found: dict[str, Callable[..., Any]] = {
            "getAccelerator": lambda: torch.device("cuda"),
            "getDeviceIndex": lambda: current.device,
            "setDeviceIndex": current.choose_device,
            "exchangeDevice": current.exchange,
            "maybeExchangeDevice": current.exchange,
            "synchronizeDevice": lambda index: None,
            "isAllocatorInitialized": lambda: True,
            "emptyCache": self._empty_cache,
            "emptyHostCache": lambda: None,
            "getDeviceStats": lambda index: devices[index].statistics(),
            "resetPeakStats": lambda index: devices[index].reset_peak(),
            "resetAccumulatedStats": lambda index: devices[index].reset_accumulated(),
            "getMemoryInfo": self._memory_info,
            "setAllocatorSettings": self._set_settings,
            "getStream": torch.cuda.current_stream,
            "setStream": torch.cuda.set_stream,
            "getDeviceCapability": lambda index: {"supported_dtypes": set()},
        }
        return {f"_accelerator_{name}": function for name, function in found.items()}


def install(runtime: Runtime) -> Patches:
    """Let `torch.cuda` find simulated devices.

    Args:
        runtime: The devices.

    Returns:
        What puts everything back.

    Raises:
        UsageError: This process uses a real CUDA device.
    """
    if torch.cuda.is_initialized():
        raise UsageError("this process uses CUDA already; simulate a GPU before the first CUDA call, or not at all")
    patches = Patches()
    try:
        _install(runtime, patches)
    except BaseException:
        patches.undo()
        raise
    return patches


def _install(runtime: Runtime, patches: Patches) -> None:
    cuda: Any = torch.cuda
    queued = list(cuda._queued_calls)
    for name, function in (runtime.functions() | runtime.accelerator_functions() | communication_functions()).items():
        patches.put(torch._C, name, function)
    properties = [DeviceProperties(device.gpu) for device in runtime.devices]
    # Bound when torch.cuda was imported, to functions that refuse where torch was built without CUDA.
    for name in ("_exchange_device", "_maybe_exchange_device"):
        patches.put(cuda, name, runtime.current.exchange)
    patches.put(torch, "Generator", _Generator)
    patches.put(torch, "compile", _compile)
    patches.put(cuda, "_initialized", False)
    patches.put(cuda, "_queued_calls", [call for call in queued if not _checks_hardware(call)])
    patches.put(cuda, "_cached_device_count", None)
    patches.put(cuda, "_get_device_properties", properties.__getitem__)
    patches.put(cuda, "default_generators", (torch.default_generator,) * len(runtime.devices))
    patches.put(
        cuda,
        "_cudart",
        SimpleNamespace(
            cudaMemGetInfo=runtime._memory_info,
            cudaProfilerStart=lambda: 0,
            cudaProfilerStop=lambda: 0,
            cudaHostRegister=lambda *_: 0,
            cudaHostUnregister=lambda *_: 0,
            cudaError=SimpleNamespace(success=0),
            cudaGetErrorString=lambda code: "no error",
        ),
    )
    patches.put(torch.version, "cuda", torch.version.cuda or "13.0")
    classes = stream_classes(runtime.current)
    for name, replacement in classes.items():
        patches.put(cuda, name, replacement)
    patches.put(cuda.streams, "Stream", classes["Stream"])
    patches.put(cuda.streams, "Event", classes["Event"])
    patches.put(cuda.graphs, "CUDAGraph", classes["CUDAGraph"])
    for module in (cuda, cuda.graphs):
        patches.put(module, "make_graphed_callables", no_graphs)
    patches.put(cuda.nvtx, "_nvtx", QuietNvtx())
    patches.put(torch.backends.cuda, "is_built", lambda: True)


_GeneratorType: Any = type(torch._C.Generator)


class _AnyGenerator(_GeneratorType):  # type: ignore[misc]
    """Takes every generator of torch for an instance."""

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class _Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """In place of `torch.Generator`: one for CUDA is a CPU generator that says where it is said to be."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        place = torch.device(device)
        if place.type != "cuda":
            return torch._C.Generator(device)  # type: ignore[return-value]
        made = super().__new__(cls)
        made._place = place  # type: ignore[attr-defined]
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        place: torch.device = self._place  # type: ignore[attr-defined]
        return place


def _compile(model: Any = None, **_: Any) -> Any:
    """In place of `torch.compile`: the function itself, since the compiler cannot see through simulated tensors."""
    return (lambda given: given) if model is None else model


def _checks_hardware(call: Any) -> bool:
    """Whether a call that torch has queued for CUDA's start looks at real hardware."""
    return getattr(call[0], "__name__", "") in ("_check_capability", "_check_cubins")


def settings_of_environment(environ: Any) -> AllocatorSettings:
    """Allocator settings of the environment, as torch reads them when it starts.

    Args:
        environ: `os.environ`.
    """
    text = environ.get("PYTORCH_ALLOC_CONF") or environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    return AllocatorSettings.parse(text)
