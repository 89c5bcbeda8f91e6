"""Between the profiler and the user's run: a failure of the one is told, and never reaches the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from memprof._exceptions import message_of
from memprof.capture.compilation import uncompiled
from memprof.record.run_info import RunInfo

_MOST_NOTES = 64
"""Sentences that quote an error may differ each time."""


class Guard:
    """Runs pieces of the profiler in the midst of the user's code.

    Args:
        run: Takes what goes wrong as notes.
    """

    def __init__(self, run: RunInfo) -> None:
        self._run = run
        self._warned: set[str] = set()
        self.busy = 0
        """Above zero while a root module, a backward or an own call is running."""
        self.settle: Callable[[], None] = lambda: None
        """Called before each piece, so that it finds the books as they should be."""

    @uncompiled
    def run(self, action: Callable[..., None], *args: Any) -> None:
        """Run a piece of the profiler; its failure becomes a warning.

        Args:
            action: The piece.
            args: Its arguments: passed on, so that no function has to be made for a call.
        """
        self.busy += 1
        try:
            self.settle()
            action(*args)
        except Exception as error:  # the user's run comes first
            self._failed(error)
        finally:
            self.busy -= 1

    @uncompiled
    def run_beside(self, action: Callable[..., None], *args: Any) -> None:
        """The same on any thread: `busy` is of the one that trains, which may be changing it right now.

        Args:
            action: The piece.
            args: Its arguments.
        """
        try:
            self.settle()
            action(*args)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {message_of(error)}"
        self.warn(f"memprof met a problem of its own and goes on without it: {said}")

    def note(self, sentence: str) -> None:
        """Add a sentence to the notes of the report, each once."""
        if len(self._run.notes) < _MOST_NOTES and sentence not in self._run.notes:
            self._run.notes = (*self._run.notes, sentence)

    def warn(self, sentence: str) -> None:
        """Note a sentence and show it, each once."""
        self.note(sentence)
        if len(self._warned) < _MOST_NOTES and sentence not in self._warned:
            self._warned.add(sentence)
            try:
                warnings.warn(sentence, RuntimeWarning, stacklevel=5)
            except RuntimeWarning:  # warnings are errors here; the note in the report says it as well
                pass
