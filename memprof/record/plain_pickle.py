"""Reads pickles of plain values, and only those: nothing in a pickle can be imported, called or looked up.

The unpickler of the standard library refuses code where it is told to, but a pickle of a megabyte can still end the
process (a tuple nested a million times, hashed) or name sizes that are never read. This one knows only the opcodes that
make dictionaries, lists, flat tuples, text and numbers. It goes through the file piece by piece, so that what a
subclass takes out of the stream need not fit into memory.

Source:
    `Lib/pickletools.py` and `Lib/pickle.py`, CPython 3.14.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, ClassVar

_MARGIN = 1 << 10
"""Bytes that are at hand before each opcode; longer arguments ask for theirs."""
_FIRST_WINDOW = 1 << 18
_SCALARS = (str, int, float, type(None))
_CONTAINERS_PER_BYTE = 0.25
"""A snapshot has far fewer dictionaries, lists and open ones than this; a pickle of nothing else would fill memory."""
_FEW_CONTAINERS = 1 << 16
_LONGEST_LINE = 1 << 16


class RefusedError(Exception):
    """The pickle asks for something to be imported, called or looked up."""


class PlainUnpickler:
    """Builds dictionaries, lists, tuples of numbers and text, text and numbers; any protocol.

    Args:
        file: The pickle, at its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._base = 0
        """Where in the file `_data` begins."""
        self._data = b""
        self._at = 0
        """Where in `_data` the next opcode is."""
        self._ends = False
        """`_data` reaches to the end of the file."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        """What was on the stack below each open mark."""
        self._memo: list[Any] = []
        self._put: dict[int, Any] = {}
        """What was put into the memo by number, out of turn."""
        self._containers = 0
        self._most_containers = _FEW_CONTAINERS + int(self._size * _CONTAINERS_PER_BYTE)

    def load(self) -> Any:
        """Read the pickle.

        Returns:
            Its value.

        Raises:
            RefusedError: It asks for more than plain values.
            ValueError: It is damaged, or no pickle. LookupError, OverflowError, struct.error and TypeError may come of
                damage too.
        """
        self._window(0, _FIRST_WINDOW)
        known = [self._OPCODES.get(code) for code in range(256)]
        while True:
            if self._at + _MARGIN > len(self._data) and not self._ends:
                self._window(self._at, _FIRST_WINDOW)
            if self._at >= len(self._data):
                raise ValueError("the file ends too early")
            code = self._data[self._at]
            self._at += 1
            action = known[code]
            if action is None:
                self._refuse(code)
            elif code == _STOP:
                return self._pop()
            else:
                action(self)

    # ---- the file --------------------------------------------------------------------

    def _window(self, at: int, nbytes: int) -> None:
        """Let `_data` begin at a place in itself, and reach so many bytes further if the file does."""
        self._base += at
        self._file.seek(self._base)
        self._data = self._file.read(nbytes)
        self._at = 0
        self._ends = len(self._data) < nbytes

    def _take(self, nbytes: int) -> bytes:
        """The next bytes of the argument of an opcode."""
        end = self._at + nbytes
        if end > len(self._data):
            if nbytes > self._size - self._base - self._at:
                raise ValueError("the file ends too early")
            self._window(self._at, nbytes + _FIRST_WINDOW)
            end = nbytes
        taken = self._data[self._at : end]
        if len(taken) < nbytes:
            raise ValueError("the file ends too early")
        self._at = end
        return taken

    def _line(self) -> bytes:
        """The rest of the line, for opcodes of protocol 0."""
        end = self._data.find(b"\n", self._at, self._at + _LONGEST_LINE)
        if end < 0 and not self._ends:
            self._window(self._at, _FIRST_WINDOW)
            end = self._data.find(b"\n", 0, _LONGEST_LINE)
        if end < 0:
            raise ValueError("a line does not end")
        found = self._data[self._at : end]
        self._at = end + 1
        return found

    # ---- the stack and the memo -------------------------------------------------------

    def _pop(self) -> Any:
        if not self._stack:
            raise ValueError("an opcode lacks its values")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise ValueError("an opcode lacks its values")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        if not self._marked:
            raise ValueError("an opcode lacks its mark")
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def _count(self) -> None:
        self._containers += 1
        if self._containers > self._most_containers:
            raise ValueError("it holds more dictionaries and lists than a snapshot of its size")

    def _remember(self, number: int) -> None:
        if number == len(self._memo):
            self._memo.append(self._top())
        elif 0 <= number < len(self._memo):
            self._memo[number] = self._top()
        else:
            self._count()
            self._put[number] = self._top()

    def _recall(self, number: int) -> Any:
        if 0 <= number < len(self._memo):
            return self._memo[number]
        return self._put[number]

    def _get(self, number: int) -> None:
        self._stack.append(self._recall(number))

    # ---- opcodes that make something ---------------------------------------------------

    def _mark(self) -> None:
        self._count()
        self._marked.append(self._stack)
        self._stack = []

    def _empty_dict(self) -> None:
        self._count()
        self._stack.append({})

    def _empty_list(self) -> None:
        self._count()
        self._stack.append([])

    def _set_items(self, items: Sequence[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            raise TypeError("items are set of something that is no dictionary")
        for key in items[::2]:
            if not isinstance(key, _SCALARS):
                raise TypeError("a key is neither text nor a number")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise TypeError("items are appended to something that is no list")
        target.extend(items)

    def _tuple_of(self, items: Sequence[Any]) -> None:
        if not all(isinstance(item, _SCALARS) for item in items):
            raise TypeError("a tuple holds more than text and numbers")
        self._stack.append(tuple(items))

    def _last(self, count: int) -> None:
        if len(self._stack) < count:
            raise ValueError("an opcode lacks its values")
        items = self._stack[-count:]
        del self._stack[-count:]
        self._tuple_of(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items((key, value))

    def _append(self) -> None:
        self._extend([self._pop()])

    def _text(self, nbytes: int) -> None:
        self._stack.append(self._take(nbytes).decode("utf-8", "surrogatepass"))

    def _integer(self, nbytes: int, *, signed: bool = False) -> None:
        self._stack.append(int.from_bytes(self._take(nbytes), "little", signed=signed))

    def _size_of(self, nbytes: int) -> int:
        """A size in front of an argument."""
        return int.from_bytes(self._take(nbytes), "little")

    def _decimal(self) -> None:
        line = self._line()
        self._stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def _double(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def _dict_of(self, items: list[Any]) -> None:
        self._empty_dict()
        self._set_items(items)

    def _list_of(self, items: list[Any]) -> None:
        self._empty_list()
        self._extend(items)

    def _discard(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    # ---- opcodes that are refused ------------------------------------------------------

    def _refuse(self, code: int) -> None:
        """Say what a pickle asked for.

        Raises:
            RefusedError: It is code.
            ValueError: It is no opcode of a snapshot.
        """
        if code in (_GLOBAL, _INST):
            module, name = self._line(), self._line()
            raise RefusedError(f"{_readable(module)}.{_readable(name)}")
        if code == _STACK_GLOBAL:
            name, module = self._pop(), self._pop()
            raise RefusedError(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "an object")
        what = _CODE.get(code)
        if what is not None:
            raise RefusedError(what)
        raise ValueError(f"byte {code:#04x} at {self._base + self._at - 1} is no opcode of a snapshot")

    _OPCODES: ClassVar[dict[int, Callable[[Any], None]]] = {
        ord("("): lambda self: self._mark(),
        ord("."): lambda self: None,  # noqa: ARG005 - the loop knows it
        ord("0"): _discard,
        ord("1"): lambda self: self._pop_mark() and None,
        ord("2"): lambda self: self._stack.append(self._top()),
        ord("F"): lambda self: self._stack.append(float(self._line())),
        ord("I"): _decimal,
        ord("J"): lambda self: self._integer(4, signed=True),
        ord("K"): lambda self: self._integer(1),
        ord("L"): lambda self: self._stack.append(int(self._line().rstrip(b"L"))),
        ord("M"): lambda self: self._integer(2),
        ord("N"): lambda self: self._stack.append(None),
        ord("V"): lambda self: self._stack.append(self._line().decode("raw-unicode-escape")),
        ord("X"): lambda self: self._text(self._size_of(4)),
        ord("a"): _append,
        ord("d"): lambda self: self._dict_of(self._pop_mark()),
        ord("e"): lambda self: self._extend(self._pop_mark()),
        ord("g"): lambda self: self._get(int(self._line())),
        ord("h"): lambda self: self._get(self._size_of(1)),
        ord("j"): lambda self: self._get(self._size_of(4)),
        ord("l"): lambda self: self._list_of(self._pop_mark()),
        ord("p"): lambda self: self._remember(int(self._line())),
        ord("q"): lambda self: self._remember(self._size_of(1)),
        ord("r"): lambda self: self._remember(self._size_of(4)),
        ord("s"): _set_item,
        ord("t"): lambda self: self._tuple_of(self._pop_mark()),
        ord(")"): lambda self: self._stack.append(()),
        ord("]"): lambda self: self._empty_list(),
        ord("u"): lambda self: self._set_items(self._pop_mark()),
        ord("}"): lambda self: self._empty_dict(),
        ord("G"): _double,
        0x80: lambda self: self._take(1) and None,  # PROTO
        0x85: lambda self: self._last(1),
        0x86: lambda self: self._last(2),
        0x87: lambda self: self._last(3),
        0x88: lambda self: self._stack.append(True),
        0x89: lambda self: self._stack.append(False),
        0x8A: lambda self: self._integer(self._size_of(1), signed=True),
        0x8B: lambda self: self._integer(self._size_of(4), signed=True),
        0x8C: lambda self: self._text(self._size_of(1)),
        0x8D: lambda self: self._text(self._size_of(8)),
        0x94: lambda self: self._remember(len(self._memo) + len(self._put)),
        0x95: lambda self: self._take(8) and None,  # FRAME: how much a reader may fetch at once
    }


_STOP = ord(".")
_GLOBAL, _INST, _STACK_GLOBAL = ord("c"), ord("i"), 0x93
_CODE = {
    ord("o"): "an object",
    ord("R"): "a call",
    ord("b"): "an object's state",
    ord("P"): "a persistent object",
    ord("Q"): "a persistent object",
    0x81: "an object",
    0x92: "an object",
    0x82: "a registered extension",
    0x83: "a registered extension",
    0x84: "a registered extension",
    0x97: "a buffer from outside",
    0x98: "a buffer from outside",
}


def _readable(name: bytes) -> str:
    return ascii(name.decode("utf-8", "replace"))[1:-1]
