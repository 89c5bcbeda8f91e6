"""Edits tried: a run with them, held against the run without.

An edit counts as verified when the run with it ends as before, computes the same, and no longer has the finding. Edits
that pass together are verified together; where a group fails it is halved until those that fail stand alone, and for
these the next recipe is tried. Whatever is verified was part of one run with all that was verified before it.
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from memprof.advise.edits import Recipe
from memprof.advise.edits.changes import CannotEdit
from memprof.advise.edits.no_grad import autograd_is_off
from memprof.advise.edits.plan import Candidate, EditedFiles, candidates_of, edit
from memprof.advise.trial import Results, SeenFinding, Trial, compare
from memprof.detect.finding import Finding, Kind

_PEAK_TOLERANCE = 0.02
_PEAK_SLACK = 256 << 10
"""Two runs of one script differ by this much in host memory that is none of tensors."""
_MENDED_SHARE = 0.5
"""A growth cut to this share or less is progress, if not the end of the matter."""
_FIXABLE = (Kind.LEAK, Kind.WASTE, Kind.ERROR)


class Status(str, enum.Enum):
    """What became of a finding."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    REJECTED = "rejected"
    NO_EDIT = "no edit"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An edit that was not offered, and why."""

    slug: str
    reason: str
    tried: bool = False
    """The script was run with it; otherwise it could not be made."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one finding."""

    finding: Finding
    status: Status
    candidate: Candidate | None = None
    results: Results | None = None
    note: str = ""
    """What there is to say about a verified edit."""
    attempts: tuple[Attempt, ...] = ()
    alone: EditedFiles = field(default_factory=EditedFiles)
    """The files with this edit only."""


@dataclass(frozen=True, slots=True)
class Fix:
    """Findings with the edits that mend them."""

    outcomes: tuple[Outcome, ...]
    edited: EditedFiles
    """With all edits that are offered."""
    before: Trial | None = None
    after: Trial | None = None
    """The run with exactly the edits in `edited`."""
    runs: int = 0

    @property
    def complete(self) -> bool:
        """Whether every finding that asks for a change of the source has an edit."""
        return all(outcome.status in (Status.VERIFIED, Status.UNVERIFIED) for outcome in self.outcomes)


def fixable(findings: Sequence[Finding], select: Sequence[str] = ()) -> list[Finding]:
    """The findings to find edits for: leaks, waste and errors.

    Args:
        findings: Of a diagnosis.
        select: Codes, or beginnings of codes; () for all.
    """
    return [
        finding
        for finding in findings
        if finding.kind in _FIXABLE and (not select or finding.code.startswith(tuple(select)))
    ]


def unverified(findings: Sequence[Finding]) -> Fix:
    """Edits made without a run to see what they do.

    Args:
        findings: What to mend.
    """
    chosen: list[Candidate] = []
    outcomes: list[Outcome] = []
    for finding in findings:
        attempts: list[Attempt] = []
        made = None
        for candidate in candidates_of(finding):
            made = _that_can_be_added(chosen, candidate, attempts)
            if made is not None:
                chosen.append(candidate)
                break
        status = Status.NO_EDIT if made is None else Status.UNVERIFIED
        alone = _alone(made) if made is not None else EditedFiles()
        outcomes.append(Outcome(finding, status, made, attempts=tuple(dict.fromkeys(attempts)), alone=alone))
    return Fix(tuple(outcomes), edit(chosen))


def _alone(candidate: Candidate) -> EditedFiles:
    """An edit by itself; nothing where it can be made only after another one."""
    try:
        return edit([candidate])
    except CannotEdit:
        return EditedFiles()


def _that_can_be_added(chosen: Sequence[Candidate], candidate: Candidate, attempts: list[Attempt]) -> Candidate | None:
    try:
        edit([*chosen, candidate])
    except CannotEdit as error:
        attempts.append(Attempt(candidate.remedy.slug, str(error)))
        return None
    return candidate


class Verifier:
    """Tries edits by running the script.

    Args:
        run: Runs the script with texts in place of files (path -> text), and says how it went.
        before: The run without edits.
    """

    def __init__(self, run: Callable[[Mapping[str, bytes]], Trial], before: Trial) -> None:
        self._run = run
        self._before = before
        self._ends = _ended(before)
        """How a run must end."""
        self._reference = before
        """What the next edits must compute the same as."""
        self._again: Trial | None = None
        self._accepted: list[Candidate] = []
        self._after: Trial | None = None
        self._results: dict[int, tuple[Results, str]] = {}
        self._attempts: dict[int, list[Attempt]] = {}
        self._rejected: dict[Recipe, dict[int, Candidate]] = {}
        """Recipes that failed when they were tried for one finding at a time."""
        self._needless: set[int] = set()
        """Findings that the edit of another one mends."""
        self._runs = 1

    def verify(self, findings: Sequence[Finding]) -> Fix:
        """Find an edit for each finding that passes.

        Args:
            findings: What to mend.
        """
        queues: dict[int, list[Candidate]] = {}
        for number, finding in enumerate(findings):
            self._attempts[number] = []
            queues[number] = list(candidates_of(finding))
        errors = [number for number, finding in enumerate(findings) if finding.kind is Kind.ERROR]
        same = [number for number in queues if number not in errors and not _changes_results(queues[number])]
        other = [number for number in queues if number not in errors and number not in same]
        for number in errors:  # first, so that what follows is compared with a run that ends well
            self._settle([number], queues)
        self._settle(same, queues)
        for number in other:
            self._settle([number], queues)
        self._retry_together()
        self._drop_needless(findings)
        outcomes = []
        for number, finding in enumerate(findings):
            accepted = next((item for item in self._accepted if item.finding is finding), None)
            attempts = tuple(dict.fromkeys(self._attempts[number]))
            if number in self._needless:
                results, note = self._results[number]
                outcomes.append(Outcome(finding, Status.VERIFIED, None, results, note, attempts))
            elif accepted is not None:
                results, note = self._results[number]
                alone = _alone(accepted)
                outcomes.append(Outcome(finding, Status.VERIFIED, accepted, results, note, attempts, alone))
            else:
                status = Status.REJECTED if any(attempt.tried for attempt in attempts) else Status.NO_EDIT
                outcomes.append(Outcome(finding, status, attempts=attempts))
        return Fix(tuple(outcomes), edit(self._accepted), self._before, self._after, self._runs)

    def _settle(self, numbers: Sequence[int], queues: dict[int, list[Candidate]]) -> None:
        """Accept of some findings' edits those that pass, all at once if they do."""
        group: dict[int, Candidate] = {}
        for number in numbers:
            while queues[number]:
                candidate = queues[number][0]
                made = _that_can_be_added([*self._accepted, *group.values()], candidate, self._attempts[number])
                if made is not None:
                    group[number] = candidate
                    break
                queues[number].pop(0)
        if not group:
            return
        verdict = self._try(group)
        if verdict is None:
            return
        if len(group) == 1:
            ((number, candidate),) = group.items()
            self._attempts[number].append(Attempt(candidate.remedy.slug, verdict, tried=True))
            self._rejected.setdefault(candidate.recipe, {})[number] = candidate
            queues[number].pop(0)
            while queues[number] and not _may_follow(candidate, queues[number][0], verdict):
                queues[number].pop(0)
            self._settle([number], queues)
            return
        half = list(group)
        self._settle(half[: len(half) // 2], queues)
        self._settle(half[len(half) // 2 :], queues)

    def _retry_together(self) -> None:
        """Try recipes that failed for several findings on all of them: some tensors must change device together."""
        for candidates in self._rejected.values():
            settled = {id(item.finding) for item in self._accepted}
            group = {number: item for number, item in candidates.items() if id(item.finding) not in settled}
            if len(group) < 2:
                continue
            try:
                edit([*self._accepted, *group.values()])
            except CannotEdit:
                continue
            self._try(group)

    def _drop_needless(self, findings: Sequence[Finding]) -> None:
        """Take back `.detach()` where another edit turns autograd off around it, if a run misses nothing."""
        edited = edit(self._accepted)
        needless = [candidate for candidate in self._accepted if _detaches_for_nothing(candidate, edited)]
        rest = [candidate for candidate in self._accepted if candidate not in needless]
        if not needless or not rest:
            return
        less = edit(rest)
        self._runs += 1
        after = self._run(less.texts)
        results, note = self._compare(after)
        if _ended(after) != self._ends or results is Results.CHANGED or _peak_above(self._before, after):
            return
        left = {id(candidate.finding): _left_over(candidate, after, less) for candidate in self._accepted}
        if any(text is not None and not text.startswith(_LESS) for text in left.values()):
            return
        self._accepted, self._after = rest, after
        for number, finding in enumerate(findings):
            if any(candidate.finding is finding for candidate in needless):
                told = "no edit of its own: autograd is turned off around it by another one"
                self._results[number] = (results, "; ".join(part for part in (told, note, left[id(finding)]) if part))
                self._needless.add(number)

    def _try(self, group: Mapping[int, Candidate]) -> str | None:
        """Run with a group on top of what was accepted; accept it, or say why not."""
        candidates = [*self._accepted, *group.values()]
        edited = edit(candidates)
        if not edited.files:
            return "the source has it already"
        if self._accepted and edited.texts == edit(self._accepted).texts:
            after = self._after  # an edit accepted before does this one's work, too
            assert after is not None
        else:
            self._runs += 1
            after = self._run(edited.texts)
        errors = any(candidate.finding.kind is Kind.ERROR for candidate in group.values())
        mended = errors and self._ends[0] != 0 and after.exit_status == 0
        if not mended and _ended(after) != self._ends:
            return f"the run fails: {after.exception or f'exit status {after.exit_status}'}"
        design = next((item.recipe.changes_results for item in group.values() if item.recipe.changes_results), "")
        results, note = self._compare(after)
        if results is Results.CHANGED and not design:
            return note
        if design and results is not Results.IDENTICAL:
            results, note = Results.CHANGED_BY_DESIGN, f"{design}: {note}" if note else design
            if not all(map(math.isfinite, after.losses)) and all(map(math.isfinite, self._before.losses)):
                return "losses are no longer finite"
        notes = {}
        for number, candidate in group.items():
            left = _left_over(candidate, after, edited)
            if left is not None and not left.startswith(_LESS):
                return left
            notes[number] = "; ".join(part for part in (note, left) if part)
        grown = None if errors else _peak_above(self._before, after)
        if grown:
            return grown
        self._accepted = candidates
        self._after = after
        if mended:
            self._ends = _ended(after)  # what follows must end well, too
        if design:
            self._reference = after
        for number in group:
            self._results[number] = (results, notes[number])
        return None

    def _compare(self, after: Trial) -> tuple[Results, str]:
        """Whether the run computes what it did; what a run of the same source changes by itself does not count."""
        results, note = compare(self._reference, after)
        if results is not Results.CHANGED or self._reference is not self._before:
            return results, note
        if self._again is None:
            self._runs += 1
            self._again = self._run({})
        return compare(self._before, after, again=self._again)


_LESS = "the growth shrinks and does not end: "


def _ended(trial: Trial) -> tuple[int, str | None]:
    return trial.exit_status, trial.exception


def _may_follow(failed: Candidate, following: Candidate, reason: str) -> bool:
    """Whether a recipe is worth a try after another one failed for a reason."""
    recipe = following.recipe
    return failed.remedy is not following.remedy or not recipe.only_after or recipe.only_after in reason


def _changes_results(candidates: Sequence[Candidate]) -> bool:
    return any(candidate.recipe.changes_results for candidate in candidates)


# ---- verdicts --------------------------------------------------------------------------------


def _detaches_for_nothing(candidate: Candidate, edited: EditedFiles) -> bool:
    """Whether an edit only cuts a graph off where there is none any more."""
    file = edited.files.get(os.path.realpath(candidate.problem.file))
    if candidate.remedy.slug != "detach" or candidate.recipe.changes_results or file is None:
        return False
    line = file.line.get(candidate.problem.line, candidate.problem.line)
    return autograd_is_off(file.edited, line) and not autograd_is_off(file.original, candidate.problem.line)


def _left_over(candidate: Candidate, after: Trial, edited: EditedFiles) -> str | None:
    """What the run with an edit still has at the place of the finding."""
    finding = candidate.finding
    where = finding.location
    assert where is not None
    path = os.path.realpath(where.file)
    same: list[SeenFinding] = []
    for seen in after.findings:
        if seen.file is None or seen.line is None or seen.kind not in _FIXABLE:
            continue
        if seen.device != finding.device and candidate.remedy.slug == "move_to_cpu":
            continue  # it is kept there now
        if os.path.realpath(seen.file) == path and edited.original_line(path, seen.line) == where.line:
            same.append(seen)
    if not same:
        return None
    growth = max((seen.bytes_per_iteration or 0.0 for seen in same), default=0.0)
    codes = ", ".join(sorted({seen.code for seen in same}))
    if finding.bytes_per_iteration and growth <= _MENDED_SHARE * finding.bytes_per_iteration:
        return f"{_LESS}{codes} is left with {growth / finding.bytes_per_iteration:.0%} of the growth"
    return f"it does not help: {codes} is still found there"


def _peak_above(before: Trial, after: Trial) -> str | None:
    if before.peak_bytes is None or after.peak_bytes is None or before.device != after.device:
        return None
    if after.peak_bytes <= before.peak_bytes * (1 + _PEAK_TOLERANCE) + _PEAK_SLACK:
        return None
    return f"the peak rises from {before.peak_bytes} to {after.peak_bytes} bytes"


__all__ = ["Attempt", "Fix", "Outcome", "Status", "Verifier", "fixable", "unverified"]
