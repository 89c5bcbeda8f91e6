"""Simulated CUDA devices put under a run, and taken away again."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from memprof._errors import UsageError
from memprof.capture.simulated import _active, tensors
from memprof.capture.simulated.attention import attention_function
from memprof.capture.simulated.bindings import Patches, Runtime, install, settings_of_environment
from memprof.capture.simulated.convolution import pretend_cudnn
from memprof.capture.simulated.dispatch import Dispatcher, SimulationMode, in_threads
from memprof.capture.simulated.dry import DryRun
from memprof.capture.simulated.guard import ensure_guard, see_accelerator
from memprof.capture.simulated.legacy_types import cuda_tensor_types, type_method
from memprof.capture.simulated.losses import ctc_with_lists
from memprof.capture.simulated.placement import Placement
from memprof.units import format_bytes

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu
    from memprof.simulate.settings import AllocatorSettings

MOST_DEVICES = 8
"""`kFakeGuardImplMaxDevices`, c10/core/impl/FakeGuardImpl.h, torch 2.14.1: what the device guard can tell apart."""


class SimulatedCuda:
    """Simulated CUDA devices; a context manager that installs them.

    Args:
        gpu: The GPU to simulate.
        count: How many of it; at most `MOST_DEVICES`.
        settings: Of the caching allocator; None is what the environment says, as for CUDA.
        dry: Compute nothing: tensors there have no values.

    Raises:
        UsageError: This process uses CUDA already, or runs under a simulation; or there are too many devices.
    """

    def __init__(
        self, gpu: Gpu, *, count: int = 1, settings: AllocatorSettings | None = None, dry: bool = False
    ) -> None:
        if not 1 <= count <= MOST_DEVICES:
            raise UsageError(f"{count} GPUs cannot be simulated: 1 to {MOST_DEVICES} can, as in one machine")
        self.gpu = gpu
        self.count = count
        self.dry = DryRun() if dry else None
        self.settings = settings_of_environment(os.environ) if settings is None else settings
        self.runtime: Runtime | None = None
        self.placement: Placement | None = None
        self._stack: ExitStack | None = None

    def __enter__(self) -> SimulatedCuda:
        if _active:
            raise UsageError("a simulated GPU is in place already; one simulation at a time")
        runtime = Runtime(self.gpu, self.count, self.settings)
        placement = Placement(runtime.devices, runtime.current.of)
        dispatcher = Dispatcher(runtime, placement, self.dry)
        with ExitStack() as stack:
            stack.callback(ensure_guard())
            stack.callback(see_accelerator(lambda: _backward_runs(self.gpu, self.settings)))
            patches = install(runtime)
            stack.callback(patches.undo)
            patches.put(torch.Tensor, "data", tensors.data_property())
            patches.put(torch.Tensor, "type", type_method(torch.Tensor.type))
            for name, stand_in in cuda_tensor_types():
                patches.put(torch.cuda, name, stand_in)
            patches.put(threading.Thread, "start", in_threads(dispatcher))
            self._attention(patches)
            patches.put(torch, "ctc_loss", ctc_with_lists(torch.ctc_loss))
            patches.put(torch, "load", _load_to_simulated(torch.load))
            self._optimizers(stack)
            if self.dry is not None:
                self._compute_nothing(self.dry, stack, patches)
            stack.callback(_lift_only_cpu_tensors())
            # cuDNN's operators have no counterpart on the CPU; torch's own stand in for them.
            stack.callback(torch._C._set_cudnn_enabled, torch._C._get_cudnn_enabled())
            wanted = torch._C._get_cudnn_enabled()
            torch._C._set_cudnn_enabled(False)
            pretend_cudnn(patches, wanted)
            tensors.execute.append(dispatcher.run)
            stack.callback(tensors.execute.pop)
            tensors.record_stream.append(
                lambda values, stream: placement.record_stream(values.untyped_storage(), stream.cuda_stream)
            )
            stack.callback(tensors.record_stream.pop)
            stack.enter_context(SimulationMode(dispatcher))
            # C++ asks for this once in a process, when the first tensor is made on the device.
            torch.cuda.init()
            dispatcher.heirs.learn()
            runtime.begin_anew()
            self._stack = stack.pop_all()
        self.runtime, self.placement = runtime, placement
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stack is not None:
            _active.remove(self)
            self._stack.close()
            self._stack = None

    def _attention(self, patches: Patches) -> None:
        """Choose among CUDA's implementations of attention; in a build without CUDA, C++ finds none of them."""
        functional: Any = torch.nn.functional
        chosen = attention_function(functional.scaled_dot_product_attention, self.gpu)
        patches.put(functional, "scaled_dot_product_attention", chosen)
        patches.put(torch._C._nn, "scaled_dot_product_attention", chosen)

    def _optimizers(self, stack: ExitStack) -> None:
        """Let optimizers choose for simulated tensors what they choose for CUDA's."""
        supported: list[Any] = sys.modules["torch.optim.optimizer"]._foreach_supported_types
        supported.append(tensors.SimulatedTensor)
        stack.callback(supported.remove, tensors.SimulatedTensor)

    def _compute_nothing(self, dry: DryRun, stack: ExitStack, patches: Patches) -> None:
        """Let a dry run have a say where Python asks for values."""
        tensors.truth.append(dry.truth)
        stack.callback(tensors.truth.pop)
        tensors.position.append(dry.position)
        stack.callback(tensors.position.pop)
        patches.put(torch, "save", dry.saving(torch.save))
        for owner, name, function in dry.initialisers():
            patches.put(owner, name, function)

    # ---- what a session asks -----------------------------------------------------------

    @property
    def name(self) -> str:
        """The GPU, and how many there are."""
        return self.gpu.name if self.count == 1 else f"{self.count}x{self.gpu.name}"

    dispatch_modes = 1
    """How many modes of ours lie at the bottom of torch's stack of dispatch modes."""
    tensor_type = tensors.SimulatedTensor

    def placed(self, storage: torch.UntypedStorage) -> tuple[torch.device, int]:
        """Device and address of a storage; -1 as the address of one in host memory."""
        place = None if self.placement is None else self.placement.where(storage)
        return (storage.device, -1) if place is None else (place.device, place.address)

    def notes(self) -> tuple[str, ...]:
        """What a report must say of the simulation, in sentences."""
        found = [] if self.dry is None else list(self.dry.notes())
        for device in () if self.runtime is None else self.runtime.devices:
            certain, possible = device.peak_allocated_bytes, device.possible_peak_allocated_bytes
            if possible > certain:
                found.append(
                    f"cuda:{device.index}: the peak of allocated memory is {format_bytes(certain)} (simulated) to "
                    f"{format_bytes(possible)} (estimated): what workspaces cuDNN takes for convolutions is not known"
                )
            found += [f"cuda:{device.index}: {remark}" for remark in sorted(device.remarks) if remark]
        return tuple(found)

    def process_bytes(self, index: int) -> int:
        """What this process takes of a device: context and reserved memory."""
        assert self.runtime is not None
        return self.runtime.devices[index].process_bytes


def _load_to_simulated(original: Callable[..., Any]) -> Callable[..., Any]:
    """A `torch.load` that reads into host memory first where `map_location` names a simulated device."""

    @functools.wraps(original)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(map_location, (str, torch.device)) and torch.device(map_location).type == "cuda":
            return _moved(original(f, "cpu", *args, **kwargs), torch.device(map_location))
        return original(f, map_location, *args, **kwargs)

    return load


def _moved(loaded: Any, device: torch.device) -> Any:
    """Tensors and modules in what was loaded, on a device."""
    if isinstance(loaded, torch.nn.Module):
        return loaded.to(device)
    if isinstance(loaded, torch.Tensor):
        return loaded.detach().to(device).requires_grad_(loaded.requires_grad)
    if isinstance(loaded, dict):
        for key, value in loaded.items():
            loaded[key] = _moved(value, device)
        return loaded
    if type(loaded) in (list, tuple):
        return type(loaded)(_moved(item, device) for item in loaded)
    return loaded


def _backward_runs(gpu: Gpu, settings: AllocatorSettings) -> bool:
    """Whether autograd works for simulated tensors, tried on a device of its own."""
    runtime = Runtime(gpu, 1, settings)
    tensors.execute.append(Dispatcher(runtime, Placement(runtime.devices, runtime.current.of)).run)
    try:
        leaf = tensors.SimulatedTensor(torch.ones(()), torch.device("cuda", 0)).requires_grad_()
        (leaf * 1).backward()
    except RuntimeError:
        return False
    finally:
        tensors.execute.pop()
    return True


def _lift_only_cpu_tensors() -> Callable[[], None]:
    """Have `torch.tensor(..., device="cuda")` make a CPU tensor first and move it where modes see it."""
    switch: Any = getattr(torch._C, "_set_only_lift_cpu_tensors", None)
    if switch is None:
        return lambda: None
    before = torch._C._only_lift_cpu_tensors()
    switch(True)
    return lambda: switch(before)
