"""What an edit is to mend: a finding, seen from the source."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from memprof.detect.finding import Finding
from memprof.detect.source import names_assigned_at

_QUOTED = re.compile(r"`([^`]+)`")
_DELETED = re.compile(r"`del ([^`]+)`")


@dataclass(frozen=True, slots=True)
class Problem:
    """What the recipes of edits need to know of a finding.

    Attributes:
        code: Code of the rule.
        slug: The remedy to carry out.
        file: File of the line to change.
        line: The line; it moves with edits that are made before.
        made: Names that the line assigns which made the tensors.
        made_line: That line, where it is in the same file.
        holder: The holder's name, `history['loss']` or `self.hidden`, or ''.
        tuple_held: The holder is an item of a tuple or a tuple itself.
        names: Names that the remedy's text says to delete.
        text: That text.
        graph: Tensors are kept with their autograd graph.
        device: Where they are.
    """

    code: str
    slug: str
    file: str
    line: int
    made: frozenset[str] = frozenset()
    made_line: int | None = None
    holder: str = ""
    tuple_held: bool = False
    names: tuple[str, ...] = ()
    text: str = ""
    graph: bool = True
    device: str = ""

    def moved(self, line: dict[int, int]) -> Problem:
        """The problem after earlier edits of its file."""
        made = None if self.made_line is None else line.get(self.made_line)
        return replace(self, line=line.get(self.line, self.line), made_line=made)


def problems_of(finding: Finding) -> tuple[Problem, ...]:
    """One problem for each remedy of a finding, in its order; () where the finding names no line."""
    where = finding.location
    if where is None or not where.line:
        return ()
    made = next((item.location for item in finding.related if item.role == "allocated"), None)
    names = names_assigned_at(made)
    quoted = _QUOTED.search(finding.holder or "")
    holder = quoted.group(1) if quoted is not None else ""
    found = []
    for remedy in finding.remedies:
        deleted = _DELETED.search(remedy.text)
        found.append(
            Problem(
                code=finding.code,
                slug=remedy.slug,
                file=where.file,
                line=where.line,
                made=frozenset(names),
                made_line=made.line if made is not None and made.file == where.file else None,
                holder=holder,
                tuple_held=(finding.holder or "").startswith("tuple") or bool(re.search(r"\[\d+\]$", holder)),
                names=tuple(name.strip() for name in deleted.group(1).split(",")) if deleted is not None else (),
                text=remedy.text,
                graph=finding.code != "MP103",
                device=finding.device,
            )
        )
    return tuple(found)
