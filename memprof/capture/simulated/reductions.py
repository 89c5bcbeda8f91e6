"""Scratch memory of CUDA's reductions over many values for few outputs: partial results of several blocks.

Source:
    `setReduceConfig`, `ReduceConfig` and `get_output_vec_size` of aten/src/ATen/native/cuda/Reduce.cuh, torch 2.14.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

_MAX_THREADS = 512
_WARP = 32
_VECTOR = 4
"""Values that a thread loads at once."""
_MIN_VALUES, _MAX_VALUES = 16, 256
"""Of one thread."""
_HALVES = (torch.float16, torch.bfloat16)


def reduction_scratch(gpu: Gpu, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[int, ...]:
    """Bytes of partial results, and of the counters that tell which block is last.

    Args:
        gpu: The GPU; its number of multiprocessors decides over how many blocks the work is spread.
        args: Arguments of the operator; the first is the input.
        kwargs: Keyword arguments.
        output: What the operator returned.

    Returns:
        Two sizes; nothing where one block does each output.
    """
    given: torch.Tensor = args[0]
    if not isinstance(output, torch.Tensor) or not given.numel() or not output.numel():
        return ()
    if given.numel() == output.numel():
        return ()
    itemsize = given.element_size()
    accumulated = 4 if given.dtype in _HALVES else max(output.element_size(), itemsize)
    shape, strides, reduced = _reduction_dims(given, _dims(given, args, kwargs))
    outputs, inputs = output.numel(), given.numel() // output.numel()
    fast = reduced == len(shape) or strides[0] < strides[reduced]
    across, along = (inputs, outputs) if fast else (outputs, inputs)
    vector = 1
    if strides[0 if fast else reduced] == 1:
        if fast and across > 128 and len(shape) == 1:
            across //= _VECTOR
        elif not fast:
            vector = _output_vector(given, shape, strides, reduced)
            across //= vector
    most = _MAX_THREADS // vector
    across_power, along_power = _power_below(across, most), _power_below(along, most)
    width = min(across_power, _WARP)
    height = min(along_power, most // width)
    width = min(across_power, most // height)
    step_input = step_output = 1
    if fast:
        step_input *= width
    else:
        step_output *= width
    values = -(-inputs // step_input)
    if values < min(height * 16, _MAX_VALUES):
        return ()
    step_input *= height
    values = -(-inputs // step_input)
    grid = -(-(outputs // vector) // step_output)
    target = gpu.multi_processors * (gpu.threads_per_multi_processor // (width * height))
    if values < _MAX_VALUES or grid > target:
        return ()
    blocks = max(min(-(-target // grid), -(-values // _MIN_VALUES)), -(-values // _MAX_VALUES))
    if blocks <= 1:
        return ()
    nbytes = accumulated * outputs * blocks
    if not fast:
        nbytes *= width * vector
    return nbytes, 4 * grid


def _dims(given: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Dimensions that are reduced; all of them where none is named."""
    named = kwargs.get("dim")
    if named is None:
        # linalg_vector_norm has its order before the dimensions.
        lists = [item for item in args[1:] if isinstance(item, (list, tuple))]
        numbers = [item for item in args[1:2] if isinstance(item, int) and not isinstance(item, bool)]
        named = lists[0] if lists else numbers or None
    if isinstance(named, int):
        named = [named]
    if not named:
        return set(range(given.dim()))
    return {dim % max(given.dim(), 1) for dim in named}


def _reduction_dims(given: torch.Tensor, dims: set[int]) -> tuple[list[int], list[int], int]:
    """Shape and strides as TensorIterator orders and merges them: reduced dimensions first, fastest first.

    Returns:
        Sizes, strides in values, and how many of them are reduced.
    """
    found: list[tuple[bool, int, int]] = []
    order = sorted(
        (dim for dim in range(given.dim()) if given.shape[dim] != 1),
        key=lambda dim: (dim not in dims, given.stride(dim), -dim),
    )
    for dim in order:
        kept, size, stride = dim not in dims, given.shape[dim], given.stride(dim)
        if found and found[-1][0] == kept and found[-1][1] * found[-1][2] == stride:
            found[-1] = (kept, found[-1][1] * size, found[-1][2])
        else:
            found.append((kept, size, stride))
    reduced = sum(not kept for kept, _, _ in found)
    return [size for _, size, _ in found], [stride for _, _, stride in found], reduced


def _output_vector(given: torch.Tensor, shape: list[int], strides: list[int], reduced: int) -> int:
    """Outputs that a thread computes at once."""
    vector = _VECTOR
    numbers = [given.storage_offset(), shape[reduced]]
    numbers += [stride for at, stride in enumerate(strides) if at != reduced]
    for number in numbers:
        while number % vector:
            vector //= 2
    return vector


def _power_below(number: int, most: int) -> int:
    """The last power of two up to a number, and up to `most`."""
    return most if number >= most else 1 << max(number, 1).bit_length() - 1
