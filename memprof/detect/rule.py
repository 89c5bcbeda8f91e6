"""What a rule is: a class whose docstring is its page.

The page has fixed headings; a rule without one of them, or with a code already taken, fails when its
module is imported. `memprof explain CODE` and `docs/rules/` show the same text.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location

HEADINGS = (
    "What it detects",
    "Why it costs memory",
    "Evidence",
    "Remedy",
    "Example",
    "Use instead",
    "Not a problem when",
)

_codes: dict[str, str] = {}


class Rule(ABC):
    """Base of all rules.

    Attributes:
        code: `MP` and three digits: 1xx retention, 2xx waste, 3xx pressure, 4xx errors.
        kind: The family its findings belong to.
        needs_cuda: Its evidence, and so its example, exists only where CUDA is.
        needs_storages: It decides on storages watched one by one, as levels `auto` and `tensors` do.
        on_snapshots: It decides on a PyTorch snapshot too, which shows no iterations.
    """

    code: ClassVar[str]
    kind: ClassVar[Kind]
    needs_cuda: ClassVar[bool] = False
    needs_storages: ClassVar[bool] = False
    on_snapshots: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not re.fullmatch(r"MP[0-9]{3}", getattr(cls, "code", "")):
            raise TypeError(f"{cls.__name__} needs a code of the form MP101")
        if _codes.setdefault(cls.code, cls.__qualname__) != cls.__qualname__:
            raise TypeError(f"{cls.__name__} takes code {cls.code}, which belongs to {_codes[cls.code]}")
        missing = [heading for heading in HEADINGS if heading not in cls.sections()]
        if missing:
            raise TypeError(f"{cls.__name__} has no section {missing[0]!r} in its docstring")

    @abstractmethod
    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        """Look for the problem.

        Args:
            model: The run.

        Returns:
            What was found, or why the rule cannot tell.
        """

    def finding(
        self,
        *,
        severity: Severity,
        location: Location | None,
        device: str,
        bytes: int | None,
        source: Source,
        message: str,
        holder: str | None,
        remedies: tuple[Remedy, ...],
        kind: Kind | None = None,
        bytes_per_iteration: float | None = None,
        related: tuple[RelatedLocation, ...] = (),
        evidence: Mapping[str, object] | None = None,
    ) -> Finding:
        """A finding of this rule; see `Finding`.

        Args:
            severity: How bad it is.
            location: Where the user would make the change.
            device: Whose memory it is about.
            bytes: How much; None is unknown.
            source: Where `bytes` comes from.
            message: What, how much, where, who holds it and the next step.
            holder: Who holds it.
            remedies: The most fitting first.
            kind: Its family, where that is not the rule's.
            bytes_per_iteration: Growth, where something grows.
            related: Other places that belong to the story.
            evidence: Facts the rule decided on.
        """
        return Finding(
            code=self.code,
            name=self.name(),
            kind=kind or self.kind,
            severity=severity,
            location=location,
            device=device,
            bytes=bytes,
            bytes_per_iteration=bytes_per_iteration,
            source=source,
            message=message,
            holder=holder,
            remedies=remedies,
            related=related,
            evidence=evidence or {},
        )

    @classmethod
    def name(cls) -> str:
        """The class name in kebab case: `graph-grows-across-iterations`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def summary(cls) -> str:
        """First line of the page."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]

    @classmethod
    def sections(cls) -> dict[str, str]:
        """Heading -> text of each section of the page."""
        parts = re.split(r"^## (.+)$", inspect.cleandoc(cls.__doc__ or ""), flags=re.MULTILINE)
        return {heading.strip(): text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}

    @classmethod
    def code_block(cls, heading: str) -> str:
        """The program shown in a section, such as `Example`."""
        found = re.search(r"```python\n(.*?)```", cls.sections()[heading], flags=re.DOTALL)
        if found is None:
            raise TypeError(f"{cls.__name__}: section {heading!r} shows no program")
        return found.group(1)

    @classmethod
    def page(cls) -> str:
        """The rule's page as Markdown."""
        return f"# {cls.code} {cls.name()}\n\n*{cls.kind.value}*\n\n{inspect.cleandoc(cls.__doc__ or '')}\n"
