"""Writes a pickle of plain values piece by piece, tables of equal entries as a whole.

A run has millions of storages, and pickling a dictionary for each of their events takes long and gigabytes. Entries
that differ only in numbers and references have bytes of equal length, so numpy writes all of them at once.

Source:
    Opcodes of `Lib/pickletools.py`, protocol 4, without frames; of those, what the viewer knows (`unpickle` in
    `torch/utils/viz/MemoryViz.js`, torch 2.13.0).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

_PROTOCOL = b"\x80\x04"
_BATCH = 1000
"""Items appended at once: the viewer passes each batch as arguments of one call.

Source:
    `_BATCHSIZE` in `Lib/pickle.py`.
"""
_FIRST_LONG_PLACE = 256


@dataclass(frozen=True, slots=True)
class Reference:
    """Stands in a value for what has a place in the memo."""

    place: int


class PickleStream:
    """One pickle that is being written."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._out.write(_PROTOCOL)
        self._places: dict[str, int] = {}
        self._memoized = 0

    def finish(self) -> bytes:
        """End the pickle and give its bytes."""
        self._out.write(b".")
        return self._out.getvalue()

    def raw(self, opcodes: bytes) -> None:
        """Write opcodes as they are."""
        self._out.write(opcodes)

    def memoize(self) -> int:
        """Give what was written last a place in the memo, and tell which."""
        self._out.write(b"\x94")
        self._memoized += 1
        return self._memoized - 1

    def get(self, place: int) -> None:
        """Write a reference to what has a place in the memo."""
        self._out.write(_reference(place))

    def value(self, value: Any) -> None:
        """Write a value of plain types.

        Args:
            value: None, a number, text, or a mapping, list or tuple of such. The same text is written once.

        Raises:
            TypeError: It is none of these.
        """
        if value is None:
            self._out.write(b"N")
        elif isinstance(value, Reference):
            self.get(value.place)
        elif isinstance(value, bool):
            self._out.write(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            self._out.write(_integer(value))
        elif isinstance(value, float):
            self._out.write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, Mapping):
            self._out.write(b"}")
            if value:
                self._out.write(b"(")
                for key, item in value.items():
                    self.value(key)
                    self.value(item)
                self._out.write(b"u")
        elif isinstance(value, tuple) and len(value) == 2:
            self.value(value[0])
            self.value(value[1])
            self._out.write(b"\x86")
        elif isinstance(value, (list, tuple)):
            self._out.write(b"]")
            for first in range(0, len(value), _BATCH):
                self._out.write(b"(")
                for item in value[first : first + _BATCH]:
                    self.value(item)
                self._out.write(b"e")
        else:
            raise TypeError(f"{type(value).__name__} is no plain type")

    def text(self, text: str) -> int:
        """Write text, or a reference to it where it was written before.

        Returns:
            Its place in the memo.
        """
        place = self._places.get(text)
        if place is not None:
            self.get(place)
            return place
        data = text.encode("utf-8", "surrogatepass")
        head = bytes((0x8C, len(data))) if len(data) < _FIRST_LONG_PLACE else b"X" + len(data).to_bytes(4, "little")
        self._out.write(head + data)
        place = self._places[text] = self.memoize()
        return place

    def entries(self, columns: Mapping[str, IntArray], references: Mapping[str, IntArray]) -> None:
        """Append dictionaries with the same keys to the list that was written last.

        Args:
            columns: Key -> a number for each entry, not negative.
            references: Key -> a place in the memo for each entry. All keys have been written as text before.
        """
        parts: list[tuple[bytes, IntArray, int]] = []
        for key, numbers in columns.items():
            nbytes = int(numbers.max(initial=0)).bit_length() // 8 + 1
            parts.append((self._key(key) + bytes((0x8A, nbytes)), numbers, nbytes))
        for key, places in references.items():
            short = int(places.max(initial=0)) < _FIRST_LONG_PLACE
            parts.append((self._key(key) + (b"h" if short else b"j"), places, 1 if short else 4))
        width = 2 + sum(len(head) + nbytes for head, _, nbytes in parts) + 1
        count = len(next(iter((*columns.values(), *references.values()))))
        for first in range(0, count, _BATCH):
            last = min(first + _BATCH, count)
            table = np.empty((last - first, width), np.uint8)
            at = 0
            for head, values, nbytes in ((b"}(", None, 0), *parts, (b"u", None, 0)):
                table[:, at : at + len(head)] = np.frombuffer(head, np.uint8)
                at += len(head)
                if values is not None:
                    little = values[first:last].astype("<i8").view(np.uint8).reshape(-1, 8)
                    table[:, at : at + nbytes] = little[:, :nbytes]
                    at += nbytes
            self._out.write(b"(")
            self._out.write(table.data)
            self._out.write(b"e")

    def _key(self, key: str) -> bytes:
        return _reference(self._places[key])


def _reference(place: int) -> bytes:
    return bytes((ord("h"), place)) if place < _FIRST_LONG_PLACE else b"j" + place.to_bytes(4, "little")


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return bytes((ord("K"), value))
    if 0 <= value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(data) >= _FIRST_LONG_PLACE:
        raise TypeError("a number of more than 255 bytes")
    return bytes((0x8A, len(data))) + data


def places_of(stream: PickleStream, values: Sequence[Any]) -> IntArray:
    """Write a list of values, and tell the place of each in the memo."""
    stream.raw(b"]")
    places = np.zeros(len(values), np.int64)
    for number, value in enumerate(values):
        stream.value(value)
        places[number] = stream.memoize()
        stream.raw(b"a")
    return places
