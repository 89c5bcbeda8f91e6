"""What reporters of text have in common: the content of the file is the text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis


class TextReporter(ABC):
    """A reporter whose report is text."""

    @abstractmethod
    def to_text(self, diagnosis: Diagnosis) -> str:
        """Give the report as text.

        Args:
            diagnosis: What to report.
        """

    def render(self, diagnosis: Diagnosis) -> bytes:
        """Give the report as the content of a file.

        Args:
            diagnosis: What to report.

        Returns:
            What `to_text` gives, as UTF-8.
        """
        return self.to_text(diagnosis).encode("utf-8")
