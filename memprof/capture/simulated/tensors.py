"""Tensors that say they are on a CUDA device and have their values in host memory.

torch treats them as it treats CUDA tensors: autograd, autocast, composite operators and optimizers choose what they
choose for CUDA. Only the kernels are others: `__torch_dispatch__` runs the CPU's on the values.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch._C import TensorBase

Execute = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_base_data: Any = TensorBase.__dict__.get("data", TensorBase.data)
execute: list[Execute] = []
"""Runs an op of simulated tensors; the running simulation's, or nothing."""
record_stream: list[Callable[[torch.Tensor, Any], None]] = []
truth: list[Callable[[Any], None]] = []
"""Asked before a tensor is taken for true or false; a dry run's."""
position: list[Callable[[Any], None]] = []
"""Asked before a tensor is taken for an index or a size; a dry run's."""
_prim_device = torch.ops.prim.device.default


class SimulatedTensor(torch.Tensor):
    """A tensor on a simulated device.

    Args:
        values: The same tensor in host memory; both share one storage.
        device: Where it is said to be.
    """

    host: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, values: torch.Tensor, device: torch.device) -> SimulatedTensor:
        """Share the storage of `values`."""
        made: SimulatedTensor = torch.Tensor._make_subclass(
            cls, values, False, dispatch_device=True, device_for_backend_keys=device
        )
        made.host = values
        made.place = device
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it is said to be."""
        return self.place

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is _prim_device:
            return args[0].place
        return execute[-1](func, args, kwargs or {}) if execute else _after_the_end(func)

    def numpy(self, *, force: bool = False) -> Any:
        """Values as an array; a CUDA tensor gives none unless forced to."""
        if force:
            return self.detach().cpu().resolve_conj().resolve_neg().numpy()
        raise TypeError(
            f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )

    def tolist(self) -> Any:
        """Values as nested lists."""
        return self.detach().cpu().tolist()

    def record_stream(self, stream: Any) -> None:
        """Note that a stream uses it."""
        if record_stream:
            record_stream[-1](self.host, stream)

    def __bool__(self) -> bool:
        if truth:
            truth[-1](self)
        return super().__bool__()

    def __index__(self) -> int:
        if position:
            position[-1](self)
        return super().__index__()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        text = repr(self.host).replace("device='meta', ", "")
        at = text.rfind(", dtype=")
        data, rest = (text[:-1], "") if at < 0 else (text[:at], text[at:-1])
        graph = ""
        if self.grad_fn is not None:
            graph = f", grad_fn=<{type(self.grad_fn).__name__}>"
        elif self.requires_grad:
            graph = ", requires_grad=True"
        text = f"{data}, device='{self.place}'{rest}{graph})"
        return f"Parameter containing:\n{text}" if is_parameter(self) else text

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.dim() == 0 else object.__format__(self, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
                "moment."
            )
        if id(self) in memo:
            return memo[id(self)]
        with torch.no_grad():
            made = self.detach().clone()
        made.requires_grad_(self.requires_grad)
        for name, value in self.__dict__.items():
            if name not in ("host", "place"):
                made.__dict__[name] = copy.deepcopy(value, memo)
        memo[id(self)] = made
        if self.grad is not None:
            made.grad = copy.deepcopy(self.grad, memo)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        if is_parameter(self):
            return torch._utils._rebuild_parameter, (self.host, self.requires_grad, OrderedDict())
        return self.host.__reduce_ex__(protocol)


class OnHost:
    """An output that CUDA's operator leaves in host memory.

    Args:
        tensor: The output.
    """

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def is_parameter(tensor: torch.Tensor) -> bool:
    """Whether `isinstance(tensor, torch.nn.Parameter)` says yes; also for a simulated one."""
    return bool(getattr(tensor, "_is_param", False)) or type(tensor) is torch.nn.Parameter


def _after_the_end(func: Any) -> Any:
    raise RuntimeError(
        f"{func} on a tensor of a simulated GPU after the simulation ended; use it inside, or `.cpu()` it"
    )


def data_property() -> Any:
    """A property for `torch.Tensor.data` that lets a CPU tensor become a simulated one, and back.

    That is how `Module.cuda()` moves parameters: `param.data = param.data.cuda()`. A CUDA tensor in a CPU tensor's
    place shares no class with it here, so the object changes its class too.
    """

    def get(self: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _base_data.__get__(self))

    def put(self: torch.Tensor, value: torch.Tensor) -> None:
        here, there = isinstance(self, SimulatedTensor), isinstance(value, SimulatedTensor)
        if not here and not there:
            _base_data.__set__(self, value)
        elif here and there:
            _base_data.__set__(self, value)
            _carry(self, cast(SimulatedTensor, value).host, value.device)
        else:
            _become(self, value)

    return property(get, put, doc=_base_data.__doc__)


def _carry(tensor: torch.Tensor, values: torch.Tensor, place: torch.device) -> None:
    tensor.__dict__["host"] = values
    tensor.__dict__["place"] = place


def _become(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Let a tensor object be what `value` is, on the other kind of device."""
    parameter = is_parameter(tensor)
    requires_grad, grad = tensor.requires_grad, tensor.grad
    with torch.no_grad():
        fresh = value.detach()
        if not isinstance(value, SimulatedTensor):
            fresh = torch.Tensor._make_subclass(torch.Tensor, value, False)
    tensor.grad = None
    fresh.requires_grad_(requires_grad)
    torch._C._swap_tensor_impl(tensor, fresh)
    if isinstance(value, SimulatedTensor):
        tensor.__class__ = SimulatedTensor
        _carry(tensor, value.host, value.place)
        if parameter:
            tensor._is_param = True
    else:
        for name in ("host", "place", "_is_param"):
            tensor.__dict__.pop(name, None)
        tensor.__class__ = torch.nn.Parameter if parameter else torch.Tensor
    if grad is not None:
        grad.data = grad.data.to(tensor.device)
        tensor.grad = grad
