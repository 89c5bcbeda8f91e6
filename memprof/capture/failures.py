"""What is known of an exception that ended the run because shapes or devices of tensors did not fit.

The frames of its traceback are read while they are there; what is kept are names and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

import torch

from memprof._exceptions import message_of, with_those_behind
from memprof.capture.frames import UserCode, frame_locals
from memprof.record.events import ModuleRef
from memprof.record.run_info import Failure, TensorFact

_SHAPE = re.compile(
    r"shapes cannot be multiplied \(\d+x\d+ and \d+x\d+\)"
    r"|size mismatch, got input \(\d+\), mat \(\d+x\d+\), vec \(\d+\)"
    r"|shape '\[[-\d, ]+\]' is invalid for input of size \d+"
    r"|to have \d+ channels, but got \d+ channels instead"
    r"|Expected input batch_size \(\d+\) to match target batch_size \(\d+\)"
)
_DEVICE = re.compile(
    r"[Ee]xpected all tensors to be on the same device"
    r"|Tensor on device \S+ is not on the expected device \S+"
    r"|indices should be either on \S+ or on the same device as the indexed tensor"
    r"|Input type \((?:torch\.cuda\.\w+\) and weight type \(torch\.\w+Tensor|torch\.\w+Tensor\) and weight type "
    r"\(torch\.cuda\.\w+)\) should be the same"
)
"""What torch says where devices differ.

Source:
    c10/core/TensorImpl.cpp, aten/src/ATen/native/Convolution.cpp, torch/_subclasses/fake_tensor.py, torch 2.13.0.
"""

_RESHAPES = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"})
_MOST_NODES = 400
_MOST_TENSORS = 32


def describe(error: BaseException, code: UserCode, *, input_shape: tuple[int, ...] = ()) -> Failure | None:
    """Read what an exception's frames tell.

    Args:
        error: It, with its traceback.
        code: Finds the user's lines.
        input_shape: Shape of the first argument of the root module's last call.

    Returns:
        The facts, or None where the exception is about something else.
    """
    for item in with_those_behind(error, contexts=False):
        message = message_of(item)
        found = _SHAPE.search(message) or _DEVICE.search(message)
        if found is not None and isinstance(item, (RuntimeError, ValueError)):
            return _described(item, message, found, code, input_shape)
    return None


def _described(
    error: BaseException, message: str, found: re.Match[str], code: UserCode, input_shape: tuple[int, ...]
) -> Failure:
    frames = list(_frames(error.__traceback__))
    user = [frame for frame, _ in frames if code.owns(frame.f_code)]
    running = [(place, module) for place, (frame, _) in enumerate(frames) if (module := _module_of(frame)) is not None]
    lines = {id(frame): line for frame, line in frames}

    def location(frame: FrameType | None) -> Any:
        return None if frame is None else code.location(frame)._replace(line=lines[id(frame)])

    root = running[0][1] if running else None
    inner = running[-1][1] if running else None
    caller = [frame for frame, _ in frames[: running[0][0]] if code.owns(frame.f_code)] if running else []
    path = _path(root, inner)
    # The last frame of all may be one of a dispatch mode.
    at_module = frames[running[-1][0]][0] if running else None
    source = _flattened(frames, at_module, user[-1] if user else None, message)
    return Failure(
        kind="shape" if found.re is _SHAPE else "device",
        message=next(line for line in message.splitlines() if found[0].partition("\n")[0] in line).strip(),
        location=location(user[-1] if user else None),
        call=location(caller[-1] if caller else None),
        root="" if root is None else type(root).__name__,
        module=None if inner is None else ModuleRef(path or "", type(inner).__name__),
        inside=inner is None or path is not None,
        features=_features(inner),
        before=source,
        input_shape=input_shape if running else (),
        tensors=tuple(_facts(frames, running, user))[:_MOST_TENSORS],
    )


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    """The frames from the outermost to the one that raised, each with its line."""
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _module_of(frame: FrameType) -> torch.nn.Module | None:
    """The module whose method runs in a frame, apart from torch's own way to it."""
    code = frame.f_code
    if not code.co_argcount or code.co_name in ("_call_impl", "_wrapped_call_impl", "call", "__call__"):
        return None
    first = dict(frame_locals(frame)).get(code.co_varnames[0])
    if not isinstance(first, torch.nn.Module):
        return None
    # A function that takes a module as its first argument is no method of it.
    method = getattr(type(first), code.co_name, None)
    return first if code.co_varnames[0] == "self" or getattr(method, "__code__", None) is code else None


def _path(root: torch.nn.Module | None, inner: torch.nn.Module | None) -> str | None:
    if root is None or inner is None:
        return None
    return next((name for name, module in root.named_modules() if module is inner), None)


def _features(inner: torch.nn.Module | None) -> tuple[int, int] | None:
    if isinstance(inner, torch.nn.Linear):
        return inner.in_features, inner.out_features
    if isinstance(inner, torch.nn.modules.conv._ConvNd):
        return inner.in_channels, inner.out_channels
    return None


# ---- shapes --------------------------------------------------------------------------------------


def _flattened(
    frames: list[tuple[FrameType, int]], at_module: FrameType | None, at_user: FrameType | None, message: str
) -> tuple[int, ...]:
    """Shape of the tensor of three or more dimensions that was flattened into the one that did not fit."""
    wanted = re.search(r"invalid for input of size (\d+)", message)
    if wanted is not None:
        tensors = _tensors(at_user) if at_user is not None else []
        sizes = (tuple(tensor.shape) for _, tensor in tensors if tensor.numel() == int(wanted[1]))
        return next((size for size in sizes if len(size) > 2), ())
    places = [frame for frame, _ in reversed(frames)] if at_module is None else [at_module]
    tensor = next((value for frame in places for name, value in _tensors(frame) if name == "input"), None)
    if tensor is None:
        return ()
    if tensor.dim() > 2:
        return tuple(tensor.shape)
    target = re.search(r"to match target batch_size \((\d+)\)", message)
    found = _reshaped_from(tensor, batch=int(target[1]) if target is not None else None)
    if found or target is not None:
        return found
    # Without a graph: a variable of a frame above that is the same data in its own shape.
    for above, _ in reversed(frames):
        for _, other in _tensors(above):
            if other.dim() > 2 and other.numel() == tensor.numel():
                return tuple(other.shape)
    return ()


def _reshaped_from(tensor: torch.Tensor, *, batch: int | None) -> tuple[int, ...]:
    """Follow the graph back to the last reshape of a tensor of three or more dimensions.

    Args:
        tensor: Where to begin.
        batch: The first size that it must have had; None: it has as many elements as `tensor`.
    """
    queue, seen = [tensor.grad_fn], 0
    while queue and seen < _MOST_NODES:
        node = queue.pop(0)
        seen += 1
        if node is None:
            continue
        sizes = tuple(getattr(node, "_saved_self_sym_sizes", ())) if node.name() in _RESHAPES else ()
        if len(sizes) > 2 and (sizes[0] == batch if batch is not None else _product(sizes) == tensor.numel()):
            return tuple(int(size) for size in sizes)
        queue.extend(following for following, _ in node.next_functions)
    return ()


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


# ---- tensors -------------------------------------------------------------------------------------


def _facts(
    frames: list[tuple[FrameType, int]], running: list[tuple[int, torch.nn.Module]], user: list[FrameType]
) -> Iterator[TensorFact]:
    if running:
        place, inner = running[-1]
        yield from _named(_arguments(frames[place][0]), "argument")
        yield from _named(list(inner.named_parameters(recurse=False)), "parameter")
        yield from _named(list(inner.named_buffers(recurse=False)), "parameter")
    if user:
        yield from _named(_tensors(user[-1]), "local")
    if running:
        place, root = running[0]
        yield from _named(_arguments(frames[place][0]), "root argument")
        yield from _named(list(root.named_parameters())[:1], "root parameter")


def _named(tensors: Sequence[tuple[str, torch.Tensor]], role: str) -> Iterator[TensorFact]:
    for name, tensor in tensors[:_MOST_TENSORS]:
        yield TensorFact(name, tuple(map(int, tensor.shape)), str(tensor.device), role)


def _tensors(frame: FrameType) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in frame_locals(frame) if isinstance(value, torch.Tensor)]


def _arguments(frame: FrameType) -> list[tuple[str, torch.Tensor]]:
    count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
    names = frame.f_code.co_varnames[1:count]
    return [(name, value) for name, value in _tensors(frame) if name in names]
