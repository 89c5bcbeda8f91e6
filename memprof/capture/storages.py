"""The books of storages: who made each, what it is for, and a weak reference that sees it freed."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from types import FrameType
from typing import Any

import torch

from memprof.capture.forward_places import ForwardPlaces
from memprof.capture.frames import UserCode, function_name
from memprof.capture.live import LiveStorage, Reference, spanned_bytes, storage_address, storage_key
from memprof.capture.nested import dense_parts
from memprof.capture.recent import RecentTensors
from memprof.capture.storage_log import StorageLog
from memprof.record.events import Location, ModuleRef, Phase, Role, RoleFact
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

_Tensor = torch.Tensor
_NO_MEMORY = ("meta", "lazy")
FORWARD, BACKWARD, OPTIMIZER = int(Phase.FORWARD), int(Phase.BACKWARD), int(Phase.OPTIMIZER)
"""The phases as plain integers: each op compares one."""
_MODULE_STATE = Role.PARAMETER | Role.BUFFER


class StorageTracker:
    """Books of all storages seen, by `StorageImpl` address.

    Args:
        writer: Interns names, locations and modules.
        code: Finds the user's line.
        note: Takes a sentence about what could not be watched; called once for each.
        placed: Device and address of a storage, where neither is what torch says (a simulated GPU).
        simulated: Type of the tensors there.
    """

    def __init__(
        self,
        writer: RecordingWriter,
        code: UserCode,
        note: Callable[[str], None],
        placed: Callable[[torch.UntypedStorage], tuple[torch.device, int]] | None = None,
        simulated: type[torch.Tensor] | None = None,
    ) -> None:
        self._writer = writer
        self._placed = placed
        self.dense: tuple[type, ...] = (_Tensor,) if simulated is None else (_Tensor, simulated)
        """Types of tensors that have one storage and that operators give."""
        self.plain: tuple[type, ...] = (torch.nn.Parameter, *self.dense)
        """The same, and what a module keeps them as."""
        self._code = code
        self._note = note
        self.spares_gradients = False
        """What backward makes is watched through its tensors until backward ends.

        A storage that Python has an object for counts as shared, and autograd adds no gradient into it in place
        (`can_accumulate_inplace`, torch/csrc/autograd/input_buffer.cpp, torch 2.14.1), which would move the peak.
        """
        self._spared: dict[int, LiveStorage] = {}
        """Those that are watched through tensors."""
        self.live: dict[int, LiveStorage] = {}
        self._live_bytes = 0
        self.tick = 0
        self.phase = int(Phase.OTHER)
        self.in_forward = False
        """A root module is running."""
        self.module_id = NONE
        self.backward_line: Location | None = None
        """The user's line that called backward last."""
        self.recent = RecentTensors()
        """Tensors made outside backward and optimizer, for the census."""
        self.log = StorageLog(writer)
        self._dead: deque[Reference] = deque()
        """References whose storage or tensor is gone. They come here without Python code: what a signal's handler
        raises in the callback of a reference, `KeyboardInterrupt` before all, is lost."""
        self._died = self._dead.append
        self.on_death: Callable[[LiveStorage], None] | None = None
        """Told of each storage that is freed."""
        self.next_id = 0
        """Id that the next storage gets; ids rise with time."""
        self._known = code.known
        self._lines = code.lines
        self._op_ids: dict[Any, tuple[int, str]] = {}
        self._ids: dict[Any, int] = {}
        self._cuda_ids: set[int] = set()
        """Ids of devices whose storages lie in blocks of a caching allocator."""
        self._forward = ForwardPlaces(note)

    # ---- births ------------------------------------------------------------------------

    def made(self, func: Any, output: torch.Tensor) -> None:
        """Book the storage of an op's output unless it is known."""
        key = storage_address(output)
        known_live = self.live.get(key)
        if known_live is not None:
            if known_live.spared:
                known_live.watch(output, self._died)
            return
        try:
            op_id, op = self._op_ids[func]
        except KeyError:
            op = str(func)
            op_id = self._writer.name_id(op)
            self._op_ids[func] = (op_id, op)
        frame: FrameType | None
        try:
            frame = sys._getframe(4)
        except ValueError:  # a thread of the autograd engine has no Python frames of its own
            frame = None
        known = self._known
        while frame is not None:  # `UserCode.innermost`, without the call
            code = frame.f_code
            mine = known.get(id(code))
            if mine is None:
                mine = self._code.owns(code)
            if mine:
                break
            frame = frame.f_back
        location_id, location = NONE, None
        if frame is not None:
            line = (id(frame.f_code), frame.f_lineno)
            try:
                location_id, location = self._lines[line]
            except KeyError:
                location = Location(frame.f_code.co_filename, frame.f_lineno, function_name(frame.f_code))
                location_id = self._writer.location_id(location)
                self._lines[line] = (location_id, location)
        elif self.phase == BACKWARD and self.backward_line is not None:
            location = self.backward_line
            location_id = self._writer.location_id(location)
        module_id = self.module_id
        forward_id = NONE
        if self._forward.known:
            if self.phase == BACKWARD:
                forward_id, module_id = self._forward.of_gradient(module_id)
            elif self.phase == FORWARD:
                self._forward.mark(location_id, module_id)
        self._book(key, output, op_id, op, location_id, location, forward_id, module_id)

    def _book(
        self,
        key: int,
        tensor: torch.Tensor,
        op_id: int,
        op: str,
        location_id: int,
        location: Location | None,
        forward_id: int,
        module_id: int,
    ) -> LiveStorage | None:
        ids = self._ids
        spared = self.spares_gradients and self.phase == BACKWARD and not torch.is_grad_enabled()
        storage = None if spared else tensor.untyped_storage()
        address = NONE
        if self._placed is None or storage is None:
            device = tensor.device
        else:
            device, address = self._placed(storage)
        try:
            device_id = ids[device]
        except KeyError:
            device_id = ids[device] = NONE if device.type in _NO_MEMORY else self._writer.name_id(str(device))
            if device.type == "cuda":
                self._cuda_ids.add(device_id)
        if device_id == NONE:
            return None
        dtype = tensor.dtype
        try:
            dtype_id = ids[dtype]
        except KeyError:
            dtype_id = ids[dtype] = self._writer.name_id(str(dtype).removeprefix("torch."))
        on_cuda = self._placed is None and device_id in self._cuda_ids
        if storage is None:
            nbytes = spanned_bytes(tensor)
            if on_cuda:
                address = tensor.data_ptr() - int(tensor.storage_offset()) * tensor.element_size()
        else:
            nbytes = storage.nbytes()
            if on_cuda:
                address = storage.data_ptr()
        identity = self.next_id
        self.next_id = identity + 1
        live = LiveStorage()
        live.id = identity
        live.key = key
        live.spared = spared
        live.references = []
        if storage is None:
            self._spared[key] = live
            live.watch(tensor, self._died)
        else:
            live.watch(storage, self._died)
        live.nbytes = nbytes
        live.dtype_id = dtype_id
        live.device_id = device_id
        live.birth_tick = self.tick
        live.location = location
        live.op = op
        live.role = 0
        live.in_forward = self.in_forward
        live.optimizer = self.phase == OPTIMIZER
        live.written_at = None
        live.used_ns = perf_counter_ns()
        self.live[key] = live
        self._live_bytes += nbytes
        self.log.born(
            (
                identity,
                live.used_ns,
                self.tick,
                self.phase,
                nbytes,
                dtype_id,
                device_id,
                op_id,
                location_id,
                forward_id,
                module_id,
                address,
            )
        )
        return live

    @property
    def live_bytes(self) -> int:
        """Bytes of the storages that are alive."""
        self.bury()
        return self._live_bytes

    def bury(self) -> None:
        """Book what has died; to be called before anything else is booked or read."""
        dead = self._dead
        while dead:
            try:
                reference = dead.popleft()
            except IndexError:  # another thread was quicker
                return
            references = reference.live.references
            if reference in references:
                references.remove(reference)
                if not references:
                    self._gone(reference.live)

    def _gone(self, live: LiveStorage) -> None:
        live.references = []
        if self.live.get(live.key) is live:
            self.live.pop(live.key, None)
            self._live_bytes -= live.nbytes
        if live.spared:
            self._spared.pop(live.key, None)
        self.log.deaths.extend((live.id, perf_counter_ns(), self.tick, self.phase))
        if self.log.last_used(live) and self.on_death is not None:
            self.on_death(live)

    def shares(self, tensor: torch.Tensor) -> None:
        """Note a view of what backward made: it keeps the storage as well."""
        live = self.live.get(storage_key(tensor))
        if live is not None and live.spared:
            live.watch(tensor, self._died)

    def _settle(self, live: LiveStorage, tensor: torch.Tensor) -> LiveStorage | None:
        """Watch through its storage what was watched through tensors."""
        self._spared.pop(live.key, None)
        storage = tensor.untyped_storage()
        live.spared = False
        live.references = []
        live.watch(storage, self._died)
        if storage.nbytes() == live.nbytes:
            return live
        return self._rebook(live, storage)  # a part of a larger one had been seen

    def used(self, arguments: Iterable[Any], now: int) -> None:
        """Note that an op was given tensors; who steps parameters reads them all, which tells nothing."""
        live, plain = self.live, self.plain
        for item in arguments:
            if type(item) in plain:
                known = live.get(storage_key(item))
                if known is not None:
                    known.used_ns = now
            elif type(item) in (list, tuple):
                self.used(item, now)

    def resized(self, func: Any, tensor: torch.Tensor) -> None:
        """Book a storage that an op put under a tensor, or anew one whose size it changed in place."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self.live.get(key)
        if known is None:
            self.made(func, tensor)
        elif known.spared:
            self._settle(known, tensor)
        else:
            self.storage_resized(storage)

    def storage_resized(self, storage: torch.UntypedStorage) -> None:
        """Book a storage anew, if it is known, whose size may have changed."""
        known = self.live.get(storage._cdata)
        if known is not None and known.nbytes != storage.nbytes():
            self._rebook(known, storage)

    def _rebook(self, live: LiveStorage, storage: torch.UntypedStorage) -> LiveStorage:
        """Book a storage anew with another size: what it was made for, and what it is to the program, stay."""
        self._gone(live)
        renewed = LiveStorage()
        for name in LiveStorage.__slots__:
            setattr(renewed, name, getattr(live, name))
        renewed.id, self.next_id = self.next_id, self.next_id + 1
        renewed.nbytes = storage.nbytes()
        renewed.spared = False
        renewed.references = []
        renewed.watch(storage, self._died)
        self.live[renewed.key] = renewed
        self._live_bytes += renewed.nbytes
        address = NONE
        if self._placed is not None:
            _, address = self._placed(storage)
        elif renewed.device_id in self._cuda_ids:
            address = storage.data_ptr()
        self.log.born(
            (
                renewed.id,
                perf_counter_ns(),
                self.tick,
                self.phase,
                renewed.nbytes,
                renewed.dtype_id,
                renewed.device_id,
                self._writer.name_id(renewed.op),
                NONE if renewed.location is None else self._writer.location_id(renewed.location),
                NONE,
                self.module_id,
                address,
            )
        )
        if renewed.role:
            self.log.roles.append(RoleFact(renewed.id, Role(renewed.role), ""))
            renewed.role &= ~Role.PARAMETER  # found again after each backward, with its name
        return renewed

    def gave_up(self, func: Any, error: Exception) -> None:
        """Note that what an op made could not be booked."""
        self._note(f"what `{func}` made could not be watched ({type(error).__name__}: {error})")

    # ---- roles -------------------------------------------------------------------------

    def found(self, tensor: torch.Tensor, role: Role, name: str = "", op: str = "existing") -> None:
        """Give a tensor's storage a role; book it first where nothing saw it made."""
        if type(tensor) not in self.plain:
            parts = dense_parts(tensor)
            if len(parts) != 1 or parts[0] is not tensor:  # fake, or made of others
                for part in parts:
                    self.found(part, role, name, op)
                return
        key = storage_key(tensor)
        if not key:
            return
        live = self.live.get(key)
        if live is None:
            op_id = self._writer.name_id(op)
            try:
                live = self._book(key, tensor, op_id, op, NONE, None, NONE, NONE)
            except ValueError:
                return  # a parameter of a lazy layer that has not seen its input yet
        elif live.spared:
            live = self._settle(live, tensor)
        # As plain integers: this is done for each gradient and each state in each iteration.
        if live is not None and not int.__and__(live.role, role):
            live.role = int.__or__(live.role, role)
            self.log.roles.append(RoleFact(live.id, role, name))

    def written(self, tensor: torch.Tensor) -> None:
        """Note that a tensor was changed in place outside forward, backward and optimizer step."""
        live = self.live.get(storage_key(tensor))
        if live is None:
            return
        frame = self._code.innermost(sys._getframe(1))
        live.written_at = None if frame is None else self._code.location(frame)
        if live.role & _MODULE_STATE and not live.role & Role.WRITTEN:
            live.role |= Role.WRITTEN
            self.log.roles.append(RoleFact(live.id, Role.WRITTEN, ""))

    def found_existing(self, tensors: Iterable[torch.Tensor]) -> None:
        """Book tensors that were there before watching began."""
        for tensor in tensors:
            if type(tensor) in self.plain:
                self.found(tensor, Role(0))

    # ---- ticks -------------------------------------------------------------------------

    def enter_phase(self, phase: Phase) -> None:
        """Book for another phase from here on."""
        self.phase = phase
        while self._spared and phase != BACKWARD:
            _, live = self._spared.popitem()
            tensor = next((tensor for reference in live.references if (tensor := reference()) is not None), None)
            if tensor is not None:
                self._settle(live, tensor)

    def begin_tick(self, index: int) -> None:
        """Start booking for the next tick."""
        self.tick = index
        self._forward.trim()

    def module(self, ref: ModuleRef) -> int:
        """Id of a module path."""
        return self._writer.module_id(ref)

    def odd_output(self, func: Any, output: Any) -> None:
        """Book what is not a plain dense tensor, as far as it has storages."""
        for part in dense_parts(output):
            try:
                self.made(func, part)
            except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
                self._note(f"storages of {type(part).__name__} cannot be watched ({type(error).__name__})")
