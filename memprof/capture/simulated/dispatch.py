"""Runs each operator of simulated tensors on the CPU, and books what it would have allocated on the GPU."""

from __future__ import annotations

import re
import threading
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof._errors import MemprofError, UsageError
from memprof.capture.simulated.arguments import Arguments
from memprof.capture.simulated.attention import ONLY_LAST
from memprof.capture.simulated.bindings import Runtime
from memprof.capture.simulated.convolution import BETWEEN, CUBLAS
from memprof.capture.simulated.devices import SimulatedDevice
from memprof.capture.simulated.dry import DryRun
from memprof.capture.simulated.handles import HandlePool
from memprof.capture.simulated.heirs import Heirs
from memprof.capture.simulated.kernels import KERNELS, Kernel, cublas_workspace_bytes
from memprof.capture.simulated.placement import Placement
from memprof.capture.simulated.tensors import OnHost, SimulatedTensor

_aten = torch.ops.aten
_Tensor = torch.Tensor
_CPU = torch.device("cpu")
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
        "_use_miopen_ctc_loss",
        "_ctc_loss_backward",
    )
}
"""Ops that CUDA runs on tensors of several devices."""


class Dispatcher:
    """What happens with an op while a simulation runs.

    Args:
        runtime: The simulated devices.
        placement: Which storage is where.
        dry: Runs ops without their arithmetic; None computes.
    """

    def __init__(self, runtime: Runtime, placement: Placement, dry: DryRun | None = None) -> None:
        self._runtime = runtime
        self._dry = dry
        self._host = _CPU if dry is None else dry.meta
        """Where tensors of the simulated devices really are."""
        self._placement = placement
        self._special = {
            _aten._to_copy.default: self._to_copy,
            _aten.is_pinned.default: self._is_pinned,
            _aten._pin_memory.default: self._pin_memory,
        }
        if dry is not None:
            self._special[_aten._local_scalar_dense.default] = dry.scalar
            self._special[_aten.equal.default] = dry.equal
            self._special[_aten.copy_.default] = self._copy
        self.heirs = Heirs()
        self._handles = HandlePool()
        self._kinds: dict[Any, tuple[bool, bool, Kernel | None]] = {}
        """Op -> it may mix devices, it writes to arguments, what CUDA does differently."""

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
            done = special(func, args, kwargs)
            if done is not NotImplemented:
                return done
        call = Arguments()
        plain_args = tuple(call.unwrap(args))
        plain_kwargs = call.unwrap_named(kwargs) if kwargs else kwargs
        wanted = kwargs.get("device") if kwargs else None
        if wanted is not None and wanted.type == "cuda":
            place = self._resolve(wanted)
            plain_kwargs = {**plain_kwargs, "device": self._host}
        elif wanted is not None or call.place is None:
            if plain_kwargs.get("pin_memory"):
                return self._pin(func(*plain_args, **{**plain_kwargs, "pin_memory": False}))
            if self._dry is not None and self._dry.skips(func, plain_args):
                return plain_args[0]
            return func(*plain_args, **plain_kwargs)
        else:
            place = call.place
        kind = self._kinds.get(func)
        if kind is None:
            schema = func._schema
            kind = self._kinds[func] = (schema.name in _MAY_MIX, schema.is_mutable, KERNELS.get(schema.name))
        may_mix, writes, kernel = kind
        if (call.other is not None or call.on_cpu) and not may_mix and call.place is not None:
            call.refuse()
        index = place.index
        device = self._placement.devices[index]
        heir = self.heirs.heir_of(args) if func is _ADD else self.heirs.in_place(func, args)
        needed: list[int] = []
        if kernel is not None and kernel.before is not None:
            stream = self._runtime.current.of(index)
            needed = [device.allocate(nbytes, stream) for nbytes in kernel.before(device.gpu, plain_args, plain_kwargs)]
        # A tensor made from nothing may be too big for this machine too: its block comes first.
        reserved = None if wanted is None or call.outer else self._reserve(func, args, kwargs, device)
        try:
            own = None if kernel is None else kernel.run
            if self._dry is not None:
                output = self._dry.compute(func, own, plain_args, plain_kwargs)
            elif own is None:
                output = func(*plain_args, **plain_kwargs)
            else:
                output = own(plain_args, plain_kwargs)
        except (RuntimeError, MemprofError) as error:
            for address in (*needed, *(reserved or ())[:1]):
                device.free(address)
            self._explain(error, device)
            raise
        if reserved is not None:
            self._placement.adopt(output.untyped_storage(), index, *reserved)
        elif heir is not None:
            self._placement.hand_over(heir.untyped_storage(), output.untyped_storage())
        if kernel is not None and kernel.order is not None:
            for at in kernel.order(plain_args):
                if at == BETWEEN and kernel.between is not None:
                    stream = self._runtime.current.of(index)
                    self._take(kernel.between(plain_args), device, stream, needed)
                elif at >= 0 and isinstance(output[at], _Tensor):
                    self._placement.place(output[at].untyped_storage(), index)
        wrapped = self._wrap(output, index, place, call)
        if kernel is not None:
            self._take_scratch(kernel, device, plain_args, plain_kwargs, output)
            for address in needed:
                device.free(address)
            if kernel.unknown is not None:
                device.may_need(kernel.unknown(plain_args, output))
            if kernel.remark is not None:
                device.remarks.add(kernel.remark())
        if writes:
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
            self._take((CUBLAS,), device, stream, [])
        if kernel.scratch is not None:
            taken: list[int] = []
            try:
                self._take(kernel.scratch(device.gpu, args, kwargs, output), device, stream, taken)
            finally:
                while taken:
                    device.free(taken.pop())

    def _take(self, sizes: tuple[int, ...], device: SimulatedDevice, stream: int, taken: list[int]) -> None:
        """Take blocks of these sizes one after another and add their addresses."""
        for nbytes in sizes:
            if nbytes == CUBLAS:
                device.keep(f"cublas {self._handles.of(device.index)}", cublas_workspace_bytes(device.gpu), stream)
            elif nbytes != ONLY_LAST:
                taken.append(device.allocate(nbytes, stream))
            else:
                while len(taken) > 1:
                    device.free(taken.pop(-2))

    def _explain(self, error: Exception, device: SimulatedDevice) -> None:
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

    def _wrap(self, output: Any, index: int, place: torch.device, call: Arguments) -> Any:
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

    def _written(self, call: Arguments, index: int) -> None:
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
        if self._dry is None or (place is None and not isinstance(source, SimulatedTensor)):
            output = func(values, **plain)
        elif place is None:
            output = self._dry.to_host(values, plain)
        elif isinstance(source, SimulatedTensor):
            output = self._dry.compute(func, None, (values,), plain)
        else:
            output = self._dry.from_host(values, plain)
        if place is None:
            return self._pin(output) if kwargs.get("pin_memory") else output
        self._placement.place(output.untyped_storage(), place.index)
        return SimulatedTensor(output, place)

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`copy_` of a dry run into host memory."""
        target, source = args[:2]
        if self._dry is None or isinstance(target, SimulatedTensor) or not isinstance(source, SimulatedTensor):
            return NotImplemented
        self._dry.onto(target, source.host)
        return target

    def _is_pinned(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        tensor = args[0]
        return not isinstance(tensor, SimulatedTensor) and tensor.untyped_storage() in self._runtime.pinned

    def _pin_memory(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        if isinstance(tensor, SimulatedTensor):
            raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")
        return self._pin(tensor.clone(memory_format=torch.contiguous_format))

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a CPU tensor's storage as pinned; its pages are ordinary ones."""
        self._runtime.pinned.pin(tensor.untyped_storage())
        return tensor


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
