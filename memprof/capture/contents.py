"""Which storages have the same content, because one was copied from the other and neither was written since.

Contents are told apart by where they come from: the copy of a whole storage has the content of what it is a copy of,
until somebody writes to one of them. Nothing on a device is read. Writes that no op tells of (kernels of an extension,
compiled code, everything while nothing is watched) raise the version of a tensor, which is compared at growing
distances. What goes past both, as NumPy does, is caught on the CPU by a sample of the bytes.
"""

from __future__ import annotations

import ctypes
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import torch

from memprof.capture.frames import tracked_objects
from memprof.capture.live import LiveStorage, gradient_of, storage_key, version_of
from memprof.capture.storages import StorageTracker
from memprof.record.run_info import EqualSpan

FROM_BYTES = 64 * 1024
"""Smaller storages are left out."""
_WORTH_A_CHECK_BYTES = 1 << 20
_MOST_SPANS = 4096
_SAMPLES, _SAMPLE_BYTES = 64, 64
_COPIES = ("aten::clone", "aten::_to_copy", "aten::copy_")
_LEAVES_CONTENT = ("aten::set_", "aten::record_stream")
"""Ops that write by their schema, and yet leave what a storage holds alone."""


@dataclass(slots=True)
class _Content:
    """What is in some storages."""

    holders: int = 0
    """Storages that have it now."""
    spans: list[EqualSpan] = field(default_factory=list)
    """Those that had it up to their end."""


@dataclass(slots=True)
class _Member:
    """A storage that has a content."""

    key: int
    storage: int
    device: str
    nbytes: int
    since_ns: int
    content: _Content
    known_ns: int
    """When it was last certain that nobody had written to it."""


class ContentBooks:
    """Follows copies, writes and deaths of storages.

    Args:
        tracker: The books of storages.
        optimizers: The optimizers there are: who steps a parameter writes to it, by whatever kernel.
    """

    def __init__(self, tracker: StorageTracker, optimizers: Callable[[], Iterable[torch.optim.Optimizer]]) -> None:
        self._tracker = tracker
        self._optimizers = optimizers
        self._watching = False
        self._members: dict[int, _Member] = {}
        """By address of the StorageImpl."""
        self._facts: dict[Any, tuple[tuple[int | str, ...], int | None]] = {}
        """Which arguments an op writes to, and which one it gives a copy of."""
        self._versions: dict[int, tuple[int, int]] = {}
        """`id` of a tensor -> its storage and its version when it was met."""
        self._equal: list[tuple[EqualSpan, ...]] = []
        self._count = 0
        tracker.on_death = self.freed

    # ---- ops ---------------------------------------------------------------------------

    def after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, output: Any) -> None:
        """Take note of what an op wrote and copied.

        Args:
            func: It. It has run, and its output is in the books.
            args: Its arguments.
            kwargs: Those given by name, if any.
            output: What it gave.
        """
        try:
            written, copied = self._facts[func]
        except KeyError:
            written, copied = self._facts[func] = _written_arguments(func), _copied_argument(func)
        if self._members:
            for place in written:
                if isinstance(place, str):
                    self._written((kwargs or {}).get(place))
                elif place < len(args):
                    self._written(args[place])
        if copied is not None and copied < len(args):
            self._copied(args[copied], output)

    def _written(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._forget(storage_key(value))
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._written(item)

    def _copied(self, source: torch.Tensor, copy: torch.Tensor) -> None:
        live = self._tracker.live
        original, made = live.get(storage_key(source)), live.get(storage_key(copy))
        if original is None or made is None or original is made or made.nbytes < FROM_BYTES:
            return
        if not (_is_whole(source, original) and _is_whole(copy, made)):
            return
        if source.dtype != copy.dtype or source.stride() != copy.stride():
            return
        now = perf_counter_ns()
        known = self._members.get(original.key)
        if known is None or known.storage != original.id:
            known = self._begin(_Content(), original, source, now)
        self._begin(known.content, made, copy, now)

    def _begin(self, content: _Content, live: LiveStorage, tensor: torch.Tensor, now: int) -> _Member:
        self._forget(live.key)
        content.holders += 1
        member = _Member(live.key, live.id, str(tensor.device), live.nbytes, now, content, now)
        self._members[live.key] = member
        return member

    # ---- ends --------------------------------------------------------------------------

    def freed(self, live: LiveStorage) -> None:
        """A storage is gone."""
        member = self._members.get(live.key)
        if member is not None and member.storage == live.id:
            self._end(member, perf_counter_ns() if self._watching else member.known_ns)

    def _forget(self, key: int) -> None:
        """A storage has another content from now on."""
        member = self._members.get(key)
        if member is not None:
            self._end(member, None)

    def _end(self, member: _Member, until_ns: int | None) -> None:
        del self._members[member.key]
        content = member.content
        content.holders -= 1
        if until_ns is not None and self._count < _MOST_SPANS:
            content.spans.append(EqualSpan(member.storage, member.device, member.since_ns, until_ns))
            self._count += 1
        if not content.holders:
            spans = _overlapping(content.spans)
            self._count -= len(content.spans) - len(spans)
            if spans:
                self._equal.append(tuple(spans))

    def finish(self) -> tuple[tuple[EqualSpan, ...], ...]:
        """Storages that had the same content at the same time on the same device, a tuple for each content.

        Those are left out that were written to later.
        """
        self._tracker.bury()
        now = perf_counter_ns()
        for member in list(self._members.values()):
            self._end(member, now if self._watching else member.known_ns)
        return tuple(self._equal)

    # ---- writes that no op told of -----------------------------------------------------

    def watch(self, watching: bool) -> None:
        """Every op is told from now on, or none is."""
        if watching != self._watching:
            self.check()
            self._watching = watching

    def abandon(self) -> None:
        """Forget everything, and look at nothing any more."""
        self._members.clear()

    def check(self) -> None:
        """Forget the contents of storages that somebody has written to in secret."""
        self._tracker.bury()
        if self._watching:
            self._certain_up_to_now()
        if not self._worth_a_check():
            return
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if gradient_of(parameter) is not None or parameter in optimizer.state:
                        self._written(parameter)
        found = self._tensors()
        for key in list(self._members):
            tensors = found.get(key, [])
            unchanged = [self._versions.setdefault(id(item), (key, version_of(item))) for item in tensors]
            if not tensors or unchanged != [(key, version_of(item)) for item in tensors]:
                self._forget(key)
        self._compare_samples(found)
        self._certain_up_to_now()
        self._versions = {id(item): (key, version_of(item)) for key in self._members for item in found[key]}

    def _certain_up_to_now(self) -> None:
        now = perf_counter_ns()
        for member in self._members.values():
            member.known_ns = now

    def _worth_a_check(self) -> bool:
        """Whether enough memory of one device holds what is there already."""
        seen: set[tuple[int, str]] = set()
        nbytes = 0
        for member in list(self._members.values()):
            place = id(member.content), member.device
            nbytes += member.nbytes if place in seen else 0
            seen.add(place)
        return nbytes >= _WORTH_A_CHECK_BYTES

    def _tensors(self) -> dict[int, list[torch.Tensor]]:
        """The tensors of each storage."""
        found: dict[int, list[torch.Tensor]] = defaultdict(list)
        kinds = self._tracker.plain
        for item in tracked_objects():
            if type(item) in kinds and isinstance(item, torch.Tensor):
                key = storage_key(item)
                if key in self._members:
                    found[key].append(item)
        return found

    def _compare_samples(self, found: dict[int, list[torch.Tensor]]) -> None:
        samples: dict[int, set[int]] = defaultdict(set)
        for key, member in self._members.items():
            if member.device == "cpu":
                samples[id(member.content)].add(_sample(found[key][0]))
        for key, member in list(self._members.items()):
            if len(samples[id(member.content)]) > 1:
                self._forget(key)


def _written_arguments(func: Any) -> tuple[int | str, ...]:
    """Which arguments an op writes to: their positions, or the names of those given by name."""
    schema = getattr(func, "_schema", None)
    if schema is None or schema.name in _LEAVES_CONTENT:
        return ()
    return tuple(
        argument.name if argument.kwarg_only else place
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _copied_argument(func: Any) -> int | None:
    """Position of what an op gives a copy of."""
    schema = getattr(func, "_schema", None)
    if schema is None or schema.name not in _COPIES or schema.overload_name:
        return None
    return 1 if schema.name == "aten::copy_" else 0


def _is_whole(tensor: torch.Tensor, live: LiveStorage) -> bool:
    """Whether a tensor is all of its storage, each element once."""
    if tensor.numel() * tensor.element_size() != live.nbytes:
        return False
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _sample(tensor: torch.Tensor) -> int:
    """Checksum of some bytes of a storage in host memory."""
    storage = tensor.untyped_storage()
    first, nbytes = storage.data_ptr(), storage.nbytes()
    if not first or nbytes < _SAMPLE_BYTES:
        return 0
    step = max((nbytes - _SAMPLE_BYTES) // (_SAMPLES - 1), 1)
    places = range(0, nbytes - _SAMPLE_BYTES + 1, step)
    return zlib.crc32(b"".join(ctypes.string_at(first + place, _SAMPLE_BYTES) for place in places))


def _overlapping(spans: list[EqualSpan]) -> list[EqualSpan]:
    """Those of some spans of one content during which another storage of the device had it as well."""
    return [
        span
        for span in spans
        if any(
            other is not span
            and other.device == span.device
            and other.since_ns < span.until_ns
            and span.since_ns < other.until_ns
            for other in spans
        )
    ]


__all__ = ["FROM_BYTES", "ContentBooks"]
