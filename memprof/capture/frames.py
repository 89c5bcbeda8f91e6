"""Python frames: which belong to the user, where they stand, what their locals hold."""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from types import CodeType, FrameType

from memprof.record.events import Location

_OWN_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_CO_OPTIMIZED = 0x1
_STACK_KEY_DEPTH = 12
_MANY = 4096
"""After so many new code objects it is looked which are gone."""


def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib") if key in paths}
    roots |= {os.path.realpath(root) for root in roots}
    return tuple(os.path.join(root, "") for root in roots)


class UserCode:
    """Tells the user's code from libraries.

    A frame is the user's when its file lies neither in the standard library nor in an installed
    package nor in memprof. Code without a file (`<stdin>`, a notebook cell) is the user's.

    Args:
        also: Folders that are the user's although they are installed (the package run with `-m`).
    """

    def __init__(self, also: tuple[str, ...] = ()) -> None:
        self._also = tuple(os.path.join(os.path.realpath(folder), "") for folder in also)
        self._libraries = _library_roots()
        self.known: dict[int, bool] = {}
        """`id` of a code object -> whether it is the user's. Hashing the object itself reads all of it."""
        self._kept: list[CodeType] = []
        """The code objects in `known`, so that their ids stay theirs."""
        self._most = _MANY
        self._locations: dict[tuple[int, int], Location] = {}
        self.lines: dict[tuple[int, int], tuple[int, Location]] = {}
        """For whoever numbers locations: `id` of a code object and line -> number and location."""

    def owns(self, code: CodeType) -> bool:
        """Whether a code object is the user's."""
        mine = self.known.get(id(code))
        if mine is None:
            if len(self._kept) >= self._most:
                self._let_go()
            self._kept.append(code)
            mine = self.known[id(code)] = self._decide(code.co_filename)
        return mine

    def _let_go(self) -> None:
        """Forget the code objects that nobody else has any more: some programs make code while they run."""
        ours_alone = 3  # the list, the variable, the argument of getrefcount
        self._kept = [code for code in self._kept if sys.getrefcount(code) > ours_alone]
        ids = set(map(id, self._kept))
        for key in self.known.keys() - ids:
            del self.known[key]
        self._locations.clear()
        self.lines.clear()
        self._most = len(self._kept) + _MANY

    def owns_file(self, filename: str) -> bool:
        """Whether a source file is the user's."""
        return self._decide(filename)

    def _decide(self, filename: str) -> bool:
        if filename.startswith("<"):
            return not filename.startswith(("<frozen", "<__array_function__", "<eval_with_key>", "<attrs generated"))
        path = os.path.realpath(filename)
        if path.startswith(_OWN_ROOT):
            return False
        if self._also and path.startswith(self._also):
            return True
        return not path.startswith(self._libraries) and f"{os.sep}site-packages{os.sep}" not in path

    def innermost(self, frame: FrameType | None) -> FrameType | None:
        """The innermost frame of the user at or above `frame`, or None."""
        known = self.known
        while frame is not None:
            code = frame.f_code
            mine = known.get(id(code))
            if mine is None:
                mine = self.owns(code)
            if mine:
                break
            frame = frame.f_back
        return frame

    def location(self, frame: FrameType) -> Location:
        """The line a frame stands at; made once for each line."""
        line = (id(frame.f_code), frame.f_lineno)
        found = self._locations.get(line)
        if found is None:
            found = self._locations[line] = location_of(frame)
        return found

    def live_frames(self) -> Iterator[tuple[int, FrameType]]:
        """Frames of the user that are running, innermost first, each with the `ident` of its thread."""
        for ident, frame in _callers().items():
            while frame is not None:
                if self.owns(frame.f_code):
                    yield ident, frame
                frame = frame.f_back


def is_running(frame: FrameType) -> bool:
    """Whether a frame's function has not ended; that of the function that asks does not count."""
    for current in _callers().values():
        while current is not None:
            if current is frame:
                return True
            current = current.f_back
    return False


def _callers() -> dict[int, FrameType | None]:
    """The frame in which each thread runs, by its `ident`; of this one, that which called the caller.

    A variable that holds the frame it belongs to is a cycle: it would keep that frame, all frames below it and what
    their variables held when it ended, until the collector runs.
    """
    tops: dict[int, FrameType | None] = dict(sys._current_frames())
    tops[threading.get_ident()] = sys._getframe(2)
    return tops


def function_name(code: CodeType) -> str:
    """Qualified name of a function where Python knows it (3.11 and later), else its plain name."""
    name = str(getattr(code, "co_qualname", code.co_name))
    return name.replace(".<locals>", "")


def location_of(frame: FrameType) -> Location:
    """The line a frame stands at."""
    return Location(frame.f_code.co_filename, frame.f_lineno, function_name(frame.f_code))


def stack_key(frame: FrameType | None) -> int:
    """A number for the call position, equal when the same line of the same loop body calls again.

    Hashes the code object and instruction of the innermost frames. Two calls in one loop body differ;
    the same call in the next turn of the loop does not.
    """
    key = 0
    depth = 0
    while frame is not None and depth < _STACK_KEY_DEPTH:
        key = hash((key, id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
        depth += 1
    return key


def frame_locals(frame: FrameType) -> list[tuple[str, object]]:
    """Names and values of a frame's variables, leaving no reference to them in the frame.

    Up to Python 3.12 reading `f_locals` of a function fills a dictionary that the frame keeps, and
    with it every value, until the function returns. It is emptied again unless somebody else (a user
    who called `locals()`) holds it as well.
    """
    namespace = frame.f_locals
    items = list(namespace.items())
    if sys.version_info < (3, 13) and frame.f_code.co_flags & _CO_OPTIMIZED and type(namespace) is dict:
        ours_alone = 3  # this variable, the frame, the argument of getrefcount
        if sys.getrefcount(namespace) <= ours_alone and sys.gettrace() is None:
            namespace.clear()
    return items


def module_globals() -> dict[int, str]:
    """`id` of each module's namespace -> name of the module."""
    modules = list(sys.modules.items())
    names = {id(vars(module)): name for name, module in modules if hasattr(module, "__dict__")}
    main = sys.modules.get("__main__")  # multiprocessing knows it by a second name
    return names if main is None else {**names, id(vars(main)): "__main__"}


def tracked_objects() -> list[object]:
    """Every object the garbage collector knows."""
    return gc.get_objects()
