"""Runs each operator of simulated tensors on the CPU, and books what it would have allocated on the GPU."""

from __future__ import annotations

import re
import sys
import threading
import weakref
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof._errors import UsageError
from memprof.capture.simulated.attention import OnHost
from memprof.capture.simulated.bindings import Runtime
from memprof.capture.simulated.devices import SimulatedDevice
from memprof.capture.simulated.kernels import KERNELS, Kernel, cublas_workspace_bytes, in_backward
from memprof.capture.simulated.placement import Placement
from memprof.capture.simulated.tensors import SimulatedTensor

_aten = torch.ops.aten
_Tensor = torch.Tensor
_CPU = torch.device("cpu")
_Counts = tuple[int, int, int]
_prim_device = torch.ops.prim.device.default
_ADD = _aten.add.Tensor
_HOST_IS_FULL = re.compile(r"DefaultCPUAllocator: .* you tried to allocate (\d+) bytes")

_MAY_MIX = {
    f"aten::{name}"
    for name in (
        "_to_copy",
        "copy_",
        "index",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "_unsafe_index",
        "_unsafe_index_put",
        "set_",
        "lift_fresh",
        "lift",
        "_foreach_copy_",
        "_amp_foreach_non_finite_check_and_unscale_",
        "_has_compatible_shallow_copy_type",
        "resize_as_",
        "_pack_padded_sequence",
        "_pack_padded_sequence_backward",
        "_pad_packed_sequence",
        "_ctc_loss",
        "_use_cudnn_ctc_loss",
        "_ctc_loss_backward",
    )
}
"""Ops that CUDA runs on tensors of several devices."""


class Dispatcher:
    """What happens with an op while a simulation runs.

    Args:
        runtime: The simulated devices.
        placement: Which storage is where.
    """

    def __init__(self, runtime: Runtime, placement: Placement) -> None:
        self._runtime = runtime
        self._placement = placement
        self._pinned: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._special = {
            _aten._to_copy.default: self._to_copy,
            _aten.is_pinned.default: self._is_pinned,
            _aten._pin_memory.default: self._pin_memory,
            _aten.record_stream.default: self._record_stream,
        }
        self.heirs = _Heirs()
        self._kinds: dict[Any, tuple[bool, bool]] = {}
        """Op -> it may mix devices, it writes to arguments."""

    # ---- the way of an op --------------------------------------------------------------

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an op.

        Args:
            func: An `OpOverload`.
            args: Its arguments, some of them perhaps simulated tensors.
            kwargs: Its keyword arguments.

        Returns:
            Its output; simulated tensors where CUDA's would be on the GPU.

        Raises:
            torch.OutOfMemoryError: The GPU would have no room.
            RuntimeError: As torch does, where arguments are on different devices.
        """
        if func is _prim_device:
            return args[0].place
        special = self._special.get(func)
        if special is not None:
            return special(func, args, kwargs)
        call = _Call()
        plain_args = tuple(call.unwrap(args))
        plain_kwargs = call.unwrap_named(kwargs) if kwargs else kwargs
        wanted = kwargs.get("device") if kwargs else None
        if wanted is not None and wanted.type == "cuda":
            place = self._resolve(wanted)
            plain_kwargs = {**plain_kwargs, "device": _CPU}
        elif wanted is not None or call.place is None:
            if plain_kwargs.get("pin_memory"):
                return self._pin(func(*plain_args, **{**plain_kwargs, "pin_memory": False}))
            return func(*plain_args, **plain_kwargs)
        else:
            place = call.place
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = (func._schema.name in _MAY_MIX, func._schema.is_mutable)
        if (call.other is not None or call.on_cpu) and not kind[0] and call.place is not None:
            call.refuse()
        index = place.index
        device = self._placement.devices[index]
        kernel = KERNELS.get(func._schema.name)
        heir = self.heirs.heir_of(args) if func is _ADD else None
        # A tensor made from nothing may be too big for this machine too: its block comes first.
        reserved = None if wanted is None or call.outer else self._reserve(func, args, kwargs, device)
        try:
            if kernel is None or kernel.run is None:
                output = func(*plain_args, **plain_kwargs)
            else:
                output = kernel.run(plain_args, plain_kwargs)
        except RuntimeError as error:
            if reserved is not None:
                device.free(reserved[0])
            self._explain(error, device)
            raise
        if reserved is not None:
            self._placement.adopt(output.untyped_storage(), index, *reserved)
        elif heir is not None:
            self._placement.hand_over(heir.untyped_storage(), output.untyped_storage())
        wrapped = self._wrap(output, index, place, call)
        if kernel is not None:
            self._take_scratch(kernel, device, plain_args, plain_kwargs, output)
        if kind[1]:
            self._written(call, index)
        return wrapped

    def _reserve(self, func: Any, args: Any, kwargs: Any, device: SimulatedDevice) -> tuple[int, int] | None:
        """Take the block of a factory's output before the output is there: address and bytes."""
        meta = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "generator")}
        try:
            planned = func(*args, **{**meta, "device": "meta"})
            nbytes = planned.untyped_storage().nbytes()
        except (RuntimeError, NotImplementedError, TypeError, AttributeError):
            return None  # its shape depends on its values
        return device.allocate(nbytes, self._runtime.current.of(device.index)), nbytes

    def _take_scratch(self, kernel: Kernel, device: SimulatedDevice, args: Any, kwargs: Any, output: Any) -> None:
        """Take and free what a kernel needs besides its outputs."""
        stream = self._runtime.current.of(device.index)
        if kernel.uses_cublas:
            # The engine's threads have handles of their own.
            name = "cublas, backward" if in_backward() else "cublas"
            device.keep(name, cublas_workspace_bytes(device.gpu), stream)
        if kernel.scratch is not None:
            with ExitStack() as taken:
                for nbytes in kernel.scratch(device.gpu, args, kwargs, output):
                    taken.callback(device.free, device.allocate(nbytes, stream))

    def _explain(self, error: RuntimeError, device: SimulatedDevice) -> None:
        """Raise what fits better where this machine's own memory was too small."""
        found = _HOST_IS_FULL.search(str(error))
        if found is not None:
            nbytes = int(found.group(1))
            device.free(device.allocate(nbytes))  # raises where the GPU would have no room either
            raise UsageError(
                f"this machine has no {nbytes:,} bytes for a tensor that the simulated {device.gpu.name} has room for; "
                "simulate a smaller model or batch, or use a machine with more memory"
            ) from error

    def _resolve(self, device: torch.device) -> torch.device:
        index: int | None = device.index
        if index is None:
            index = self._runtime.current.device
        if not 0 <= index < len(self._placement.devices):
            raise RuntimeError(
                f"CUDA error: invalid device ordinal: cuda:{index} was asked for, and {len(self._placement.devices)} "
                "GPU(s) are simulated"
            )
        return self._placement.torch_devices[index]

    def _wrap(self, output: Any, index: int, place: torch.device, call: _Call) -> Any:
        """Make simulated tensors of an op's output, each new storage with its block."""
        if isinstance(output, _Tensor):
            known = call.outer.get(id(output))
            if known is not None:
                return known
            if output.layout is not torch.strided:
                raise NotImplementedError(
                    f"a GPU simulated by memprof holds no tensors of layout {output.layout}; for this run, use dense "
                    "ones (`sparse=False`)"
                )
            self._placement.place(output.untyped_storage(), index)
            return SimulatedTensor(output, place)
        if isinstance(output, OnHost):
            return output.tensor
        if isinstance(output, (list, tuple)):
            made = [self._wrap(item, index, place, call) for item in output]
            return type(output)(made) if type(output) in (list, tuple) else type(output)(*made)
        return output

    def _written(self, call: _Call, index: int) -> None:
        """Let the outer tensors of arguments that were written to have their new shape and storage."""
        for outer in call.outer.values():
            values = outer.host
            self._placement.resized(values.untyped_storage(), index)
            if (
                outer.shape != values.shape
                or outer.stride() != values.stride()
                or outer.storage_offset() != values.storage_offset()
                or outer.untyped_storage()._cdata != values.untyped_storage()._cdata
            ):
                outer.data = SimulatedTensor(values, outer.place)

    # ---- ops of their own --------------------------------------------------------------

    def _to_copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source = args[0]
        values = source.host if isinstance(source, SimulatedTensor) else source
        wanted = kwargs.get("device")
        place: torch.device | None
        if wanted is None:
            place = source.place if isinstance(source, SimulatedTensor) else None
        else:
            place = self._resolve(wanted) if wanted.type == "cuda" else None
        plain = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
        output = func(values, **plain)
        if place is None:
            return self._pin(output) if kwargs.get("pin_memory") else output
        self._placement.place(output.untyped_storage(), place.index)
        return SimulatedTensor(output, place)

    def _record_stream(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensor, stream = args
        self._placement.record_stream(tensor.host.untyped_storage(), stream.stream_id)

    def _is_pinned(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        tensor = args[0]
        return not isinstance(tensor, SimulatedTensor) and tensor.untyped_storage() in self._pinned

    def _pin_memory(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        if isinstance(tensor, SimulatedTensor):
            raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")
        return self._pin(tensor.clone(memory_format=torch.contiguous_format))

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a CPU tensor's storage as pinned; its pages are ordinary ones."""
        storage = tensor.untyped_storage()
        nbytes = 1 << max(storage.nbytes() - 1, 0).bit_length() if storage.nbytes() else 0
        self._pinned[storage] = nbytes
        self._runtime.pinned(nbytes)
        weakref.finalize(storage, self._runtime.pinned_freed, nbytes)
        return tensor


class _Heirs:
    """Tells where CUDA would add into the first summand, because nobody but torch's C++ code holds it.

    The autograd engine sums gradients, and `linear` adds its bias, in place; not under a dispatch mode, where they make
    a new tensor (`isTensorSubclassLike`; torch/csrc/autograd/input_buffer.cpp and aten/src/ATen/native/Linear.cpp,
    torch 2.14.1). What counts of references such a tensor has depends on Python, torch and the modes above ours, so
    it is found out by example.
    """

    def __init__(self) -> None:
        self._learning = False
        self._counts: dict[int, _Counts] = {}
        """How many other modes passed the op on -> references to the tensor object, its tensor and its storage."""

    def learn(self) -> None:
        """Call `linear` where it adds its bias to a result of its own; the simulation must be running."""
        rows = torch.zeros(2, 2, 2, device="cuda").transpose(0, 1)
        weight, bias = torch.zeros(2, 2, device="cuda"), torch.zeros(2, device="cuda")
        self._learning = True
        try:
            torch._C._nn.linear(rows, weight, bias)
            with _PassOn():
                torch._C._nn.linear(rows, weight, bias)
        finally:
            self._learning = False

    def heir_of(self, args: tuple[Any, ...]) -> torch.Tensor | None:
        """The values of the first summand where the sum would take over its block, or those of the second.

        Args:
            args: Of `aten::add.Tensor`.
        """
        if len(args) > 2:
            return None
        depth = _modes_above()
        first, second = args
        if self._learning:
            self._counts[depth] = _references(first)
        known = self._counts.get(depth)
        if known is None or not isinstance(first, SimulatedTensor) or not isinstance(second, SimulatedTensor):
            return None
        if first.dtype != second.dtype or first.shape != second.shape:
            return first.host if self._learning or (_is_bias(second) and _references(first) == known) else None
        if _references(first) == known:
            return first.host
        # The engine adds into the second gradient where the first one is still used.
        return second.host if in_backward() and _references(second) == known else None


def _references(tensor: Any) -> _Counts:
    """Of a simulated tensor's object, of the tensor behind it, and of its storage."""
    storage = tensor.host.untyped_storage()
    return sys.getrefcount(tensor), tensor._use_count(), torch._C._storage_Use_Count(storage._cdata)


def _is_bias(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 1


class _PassOn(TorchDispatchMode):
    """A mode that changes nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _modes_above() -> int:
    """How many dispatch modes passed on the op that is being run."""
    frame: FrameType | None = sys._getframe(3)  # _modes_above, heir_of, run
    found = 0
    while frame is not None and (frame.f_code.co_name == "__torch_dispatch__" or frame.f_code is _CALL_OP):
        found += frame.f_code is not _CALL_OP
        frame = frame.f_back
    return found


_CALL_OP = torch._ops.OpOverload.__call__.__code__


class _Call:
    """The arguments of one op, taken out of simulated tensors."""

    __slots__ = ("on_cpu", "other", "outer", "place")

    def __init__(self) -> None:
        self.outer: dict[int, SimulatedTensor] = {}
        """`id` of a tensor in host memory -> the simulated tensor it came from."""
        self.place: torch.device | None = None
        self.other: torch.device | None = None
        """A second device."""
        self.on_cpu = False
        """A tensor with dimensions is in host memory."""

    def unwrap(self, args: Any) -> list[Any]:
        """Host tensors in place of simulated ones."""
        found = []
        for item in args:
            if isinstance(item, _Tensor):
                values = item.__dict__.get("host") if type(item) is not _Tensor else None
                if values is not None:
                    self.outer[id(values)] = item  # type: ignore[assignment]
                    place = item.__dict__["place"]
                    if self.place is None:
                        self.place = place
                    elif place is not self.place and place != self.place:
                        self.other = place
                    item = values
                elif item.dim():
                    self.on_cpu = True
            elif isinstance(item, (list, tuple)) and type(item) in (list, tuple):
                item = self.unwrap(item)
            found.append(item)
        return found

    def unwrap_named(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The same for keyword arguments."""
        return dict(zip(kwargs, self.unwrap(kwargs.values()), strict=True))

    def refuse(self) -> None:
        """Raise torch's error for tensors on several devices."""
        other = self.other or _CPU
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {self.place} and {other}!"
        )


class SimulationMode(TorchDispatchMode):
    """Passes each op to the dispatcher, factories and CPU tensors among them.

    Args:
        dispatcher: Of the running simulation.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._run = dispatcher.run

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._run(func, args, kwargs or {})


def in_threads(dispatcher: Dispatcher) -> Any:
    """A `threading.Thread.start` whose thread runs under the simulation too; modes are a thread's own.

    Args:
        dispatcher: Of the running simulation.
    """
    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        run = self.run

        def simulated() -> None:
            self.__dict__.pop("run", None)
            with SimulationMode(dispatcher):
                run()

        self.run = simulated  # type: ignore[method-assign]
        original(self)

    return start
