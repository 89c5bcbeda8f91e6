"""Attributes of torch's classes and modules that are replaced for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Replacements:
    """Replaces attributes, and puts back what was there."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def put(self, owner: Any, name: str, replacement: Any) -> None:
        """Set an attribute.

        Args:
            owner: Whose it is.
            name: Which; it may be one that `owner` only inherits.
            replacement: What it is from now on. It gets an attribute `retired` where `undo` comes too late: somebody
                has wrapped it meanwhile and goes on calling it.
        """
        own = name in vars(owner)
        original = vars(owner).get(name)
        setattr(owner, name, replacement)

        def undo() -> None:
            if vars(owner).get(name) is not replacement:
                replacement.retired = True
            elif own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

        self._undo.append(undo)

    def undo(self) -> None:
        """Put back what was there, newest first."""
        while self._undo:
            self._undo.pop()()
