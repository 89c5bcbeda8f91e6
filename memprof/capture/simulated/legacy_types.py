"""`torch.cuda.FloatTensor` and the like, which older programs still make tensors with and convert them to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

_DTYPES = {
    "FloatTensor": torch.float32,
    "DoubleTensor": torch.float64,
    "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16,
    "LongTensor": torch.int64,
    "IntTensor": torch.int32,
    "ShortTensor": torch.int16,
    "CharTensor": torch.int8,
    "ByteTensor": torch.uint8,
    "BoolTensor": torch.bool,
}


class _CudaTensorType(type):
    """The type of a type: `isinstance` and calls are those of torch's `tensortype`."""

    dtype: torch.dtype
    is_cuda = True

    def __call__(cls, *args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs.pop("device", None)
        made: torch.Tensor = getattr(torch, cls.__name__)(*args, **kwargs)
        return made.cuda()

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch.Tensor) and instance.is_cuda and instance.dtype == cls.dtype


def cuda_tensor_types() -> Iterator[tuple[str, type]]:
    """Name in `torch.cuda` and stand-in of each legacy type there is."""
    for name, dtype in _DTYPES.items():
        if hasattr(torch.cuda, name):
            yield name, _CudaTensorType(name, (), {"dtype": dtype, "__module__": "torch.cuda"})


def type_method(original: Callable[..., Any]) -> Callable[..., Any]:
    """A `torch.Tensor.type` that knows the stand-ins, by class and by name.

    Args:
        original: Torch's own.
    """

    @functools.wraps(original)
    def convert(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
        if isinstance(dtype, str) and dtype.startswith("torch.cuda."):
            wanted = _DTYPES.get(dtype.removeprefix("torch.cuda."))
        else:
            wanted = dtype.dtype if isinstance(dtype, _CudaTensorType) else None
        if wanted is not None:
            return self.to("cuda" if not self.is_cuda else self.device, wanted, non_blocking=non_blocking)
        if dtype is not None and not isinstance(dtype, torch.dtype) and self.is_cuda:
            name = dtype if isinstance(dtype, str) else f"{dtype.__module__}.{dtype.__name__}"
            of_host = _DTYPES.get(name.removeprefix("torch."))
            if of_host is not None:
                return self.to("cpu", of_host, non_blocking=non_blocking)
        return original(self) if dtype is None else original(self, dtype, non_blocking, **kwargs)

    return convert
