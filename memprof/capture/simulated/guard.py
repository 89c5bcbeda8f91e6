"""Lets a build of torch without CUDA handle tensors that say they are on a CUDA device.

Autograd asks the *device guard* of a tensor's device for its stream. A build without CUDA has none, so one that does
nothing is put in its place; torch has such a guard for fake tensors (`torch._C._ensureCUDADeviceGuardSet`) but uses
it only where it finds a CUDA build without a GPU. For the moment of that call, it is shown one.

Source:
    c10/core/impl/DeviceGuardImplInterface.h and .cpp, torch 2.13.0.
"""

from __future__ import annotations

import ctypes
import glob
import os
from collections.abc import Callable
from typing import Any

import torch

from memprof._errors import UsageError

_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_CUDA = 1
"""`c10::DeviceType::CUDA`."""


def ensure_guard() -> Callable[[], None]:
    """Make sure that there is a device guard for CUDA.

    Returns:
        What undoes it.

    Raises:
        UsageError: This build of torch offers no way to do so.
    """
    ensure: Any = getattr(torch._C, "_ensureCUDADeviceGuardSet", None)
    if ensure is None:
        raise UsageError(f"torch {torch.__version__} cannot be given a simulated GPU; use torch 2.6 or newer")
    registry = _registry()
    before = registry[_CUDA]
    if before:
        ensure()
    else:
        # An object whose every method, `deviceCount` among them, returns 0: a CUDA build that sees no GPU.
        zero = ctypes.CFUNCTYPE(ctypes.c_int64)(lambda: 0)
        methods = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
        stand_in = (ctypes.c_void_p * 1)(ctypes.addressof(methods))
        registry[_CUDA] = ctypes.addressof(stand_in)
        try:
            ensure()
        finally:
            if registry[_CUDA] == ctypes.addressof(stand_in):
                registry[_CUDA] = None
        if not registry[_CUDA]:
            raise UsageError(f"torch {torch.__version__} does not take a device guard for a simulated GPU")

    def undo() -> None:
        registry[_CUDA] = before

    return undo


def _registry() -> Any:
    """Torch's array of device guards, by device type."""
    for path in _libraries("libc10"):
        try:
            return (ctypes.c_void_p * 20).in_dll(ctypes.CDLL(path), _REGISTRY)
        except (OSError, ValueError):
            continue
    raise UsageError(
        "simulated GPUs need a build of torch whose libc10 exports its device guards (Linux and macOS wheels do); "
        "this one does not"
    )


def see_accelerator(backward_runs: Callable[[], bool]) -> Callable[[], None]:
    """Let torch's C++ code take CUDA for the accelerator of this process, which the autograd engine asks for.

    It asks an object for that, whose answer in a build without CUDA is no, and an error where there is no GPU. That
    answer is
    replaced, in a copy of the object's table of methods, and the one to whether CUDA's context is there. Which methods
    give them is found by trying.

    Args:
        backward_runs: Tries a backward of a tensor on a simulated device.

    Returns:
        What undoes it.

    Raises:
        UsageError: This build of torch offers no way to do so.
    """
    asked: Any = getattr(torch._C, "_accelerator_getAccelerator", None)
    if asked is None:
        raise UsageError(_NO_HOOKS)
    if asked() is not None and backward_runs():
        return lambda: None
    try:
        library = ctypes.CDLL(_libraries("libtorch_cpu")[0])
        get: Any = library[_GET_HOOKS]
        methods = (ctypes.c_void_p * _METHODS).in_dll(library, _BASE_METHODS)
    except (AttributeError, IndexError, ValueError) as error:
        raise UsageError(_NO_HOOKS) from error
    get.restype = ctypes.c_void_p
    pointer = ctypes.c_void_p.from_address(get())
    before = pointer.value
    assert before is not None
    table = (ctypes.c_void_p * _METHODS)(*(ctypes.c_void_p * _METHODS).from_address(before - 16))
    pointer.value = ctypes.addressof(table) + 16
    _kept.append(table)
    yes = ctypes.cast(_yes, ctypes.c_void_p).value

    def answer_yes(slots: list[int], enough: Callable[[], bool]) -> bool:
        """Replace one of the methods so that something works that did not."""
        for slot in slots:
            original, table[slot] = table[slot], yes
            if enough():
                return True
            table[slot] = original
        return False

    says_no = [slot for slot in range(4, _METHODS) if _says_no(methods[slot])]  # 2 and 3 destroy the object
    others = [slot for slot in range(4, _METHODS) if slot not in says_no]
    if asked() is None and not answer_yes(says_no, lambda: asked() is not None):
        pointer.value = before
        raise UsageError(_NO_HOOKS)
    if not (backward_runs() or answer_yes(others, backward_runs)):
        pointer.value = before
        raise UsageError(_TOO_LATE)

    def undo() -> None:
        pointer.value = before

    return undo


_METHODS = 48
"""Places of the table that are looked at; the first two are not methods."""
_GET_HOOKS = "_ZN2at6detail12getCUDAHooksEv"
_BASE_METHODS = "_ZTVN2at18CUDAHooksInterfaceE"
_RETURN_FALSE = (
    bytes.fromhex("31c0c3"),  # x86-64: xor eax, eax; ret
    bytes.fromhex("f30f1efa31c0c3"),  # the same, a target of indirect jumps
    bytes.fromhex("00008052c0035fd6"),  # AArch64: mov w0, #0; ret
)
_NO_HOOKS = f"torch {torch.__version__} cannot be given a simulated GPU: it does not let CUDA be its accelerator"
_TOO_LATE = (
    "autograd cannot run on the simulated GPU: most likely this process has run a backward already, which settled the "
    "devices that torch's autograd engine knows; simulate the GPU before the first backward, or in a new process"
)
_yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda _: True)
_kept: list[Any] = []
"""Tables of methods that a thread may still be using."""


def _says_no(method: int | None) -> bool:
    """Whether a method's code does nothing but return false."""
    if not method:
        return False
    code = ctypes.string_at(method, 8)
    return code.startswith(_RETURN_FALSE)


def _libraries(name: str) -> list[str]:
    """Files of one of torch's libraries."""
    return sorted(glob.glob(os.path.join(os.path.dirname(torch.__file__), "lib", f"{name}.*")))
