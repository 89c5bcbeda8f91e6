"""What a remedy saves, by replaying the recorded run without what it would free.

* A remedy that names storages: the peak is worked out again from all watched lifetimes without them (`simulated`;
  `estimated` where some iterations were not watched).
* A leak that went on while nothing was watched: the peak of every iteration is lowered by what had grown before it
  (`estimated`), which is less than growth times iterations where the peak has other reasons, too.
* A smaller batch, batches without padding, checkpointing, mixed precision, an optimizer with less state, stepping in
  backward: the lifetimes are replayed with smaller activations, state or gradients (`estimated`, on the assumption
  stated at the remedy's function below).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memprof.advise.replay import Growth, LifetimeReplay, peak_without_growth
from memprof.detect.finding import Finding, Kind, Remedy
from memprof.model.memory import Category, MemoryModel, Source, Storage
from memprof.model.storages import table_of
from memprof.record.events import Location

_MATERIAL = 1.1
"""A remedy goes before another one if it saves so many times as much ..."""
_MATERIAL_BYTES = 1 << 10
"""... and this much more."""
_MENDED = (Kind.LEAK, Kind.WASTE)


@dataclass(frozen=True, slots=True)
class Combined:
    """What the first remedies of all leaks and wastes on a device save together; nothing counts twice."""

    device: str
    remedies: tuple[tuple[str, str, Location | None], ...]
    """Code, slug and line of each."""
    saves_bytes: int
    """Off the peak."""
    source: Source
    growth_removed_bytes: float | None
    """Per iteration; None where nothing grows."""


class Savings:
    """Works out what remedies save.

    Args:
        model: The run.
    """

    def __init__(self, model: MemoryModel) -> None:
        self._model = model
        self._replays: dict[str, LifetimeReplay] = {}
        loops = [iteration for iteration in model.iterations if iteration.kind != "other"]
        self._all_watched = all(iteration.tracked for iteration in loops)
        # What is true of the watched iterations is taken to be true of the others.
        self._source = Source.SIMULATED if self._all_watched else Source.ESTIMATED

    def valued(self, finding: Finding) -> Finding:
        """Fill in what each remedy of a finding saves, and put what saves more before what saves less.

        Args:
            finding: As a rule made it.

        Returns:
            The finding with `saves_bytes` and `source` set where they can be known. A remedy whose saving is
            unknown keeps its place; one that moves tensors to where they are comes last.
        """
        remedies = ranked([self._remedy(finding, remedy) for remedy in finding.remedies])
        idle = [remedy for remedy in remedies if _moves_nowhere(finding, remedy)]
        others = [remedy for remedy in remedies if remedy not in idle]
        told = [replace(remedy, text=f"on a GPU, {remedy.text}") for remedy in idle]
        return replace(finding, remedies=(*others, *told))

    def combined(self, findings: Sequence[Finding]) -> Combined | None:
        """What the first remedies of all leaks and wastes save together.

        Args:
            findings: As `valued` has made them.

        Returns:
            The saving on the device where they save most; None where no first remedy has a known saving.
        """
        devices = dict.fromkeys(finding.device for finding in findings)
        found = [saving for device in devices if (saving := self._combined_on(device, findings)) is not None]
        return max(found, key=lambda saving: saving.saves_bytes, default=None)

    def _replay(self, device: str) -> LifetimeReplay:
        known = self._replays.get(device)
        if known is None:
            known = self._replays[device] = LifetimeReplay(self._model, device)
        return known

    # ---- one remedy ------------------------------------------------------------------------

    def _remedy(self, finding: Finding, remedy: Remedy) -> Remedy:
        estimate = _WITH_SMALLER.get(remedy.slug)
        if finding.kind is Kind.PRESSURE and estimate is not None:
            saved = estimate(self._replay(finding.device))
            return replace(remedy, saves_bytes=saved, source=Source.ESTIMATED) if saved else remedy
        if remedy.slug in _WITHOUT_PADDING:
            saved = _without_padding(self._replay(finding.device), finding)
            return replace(remedy, saves_bytes=saved, source=Source.ESTIMATED)
        if _moves_nowhere(finding, remedy):
            return remedy  # how much a GPU would be spared, this run does not tell
        if _is_leak(finding):
            if _saves_nothing_alone(finding, remedy):
                return remedy
            removed = _growth_removed(self._model, finding, remedy)
            return replace(self._of_leak(finding, remedy, removed), growth_removed_bytes=removed)
        if remedy.frees:
            replay = self._replay(finding.device)
            saved = replay.peak_bytes - replay.peak_without(remedy.frees)
            return replace(remedy, saves_bytes=saved, source=self._source)
        return remedy

    def _of_leak(self, finding: Finding, remedy: Remedy, removed: float) -> Remedy:
        if remedy.frees and self._all_watched:
            replay = self._replay(finding.device)
            saved = replay.peak_bytes - replay.peak_without(_later_too(self._model, remedy))
            return replace(remedy, saves_bytes=saved, source=Source.SIMULATED)
        peaks = peak_without_growth(self._model, finding.device, [_growth(self._model, finding, remedy, removed)])
        if peaks is None:
            return remedy
        before, after = peaks
        return replace(remedy, saves_bytes=before - after, source=Source.ESTIMATED)

    # ---- all of them -----------------------------------------------------------------------

    def _combined_on(self, device: str, findings: Sequence[Finding]) -> Combined | None:
        chosen = [
            (finding, finding.remedies[0])
            for finding in findings
            if finding.device == device
            and finding.kind in _MENDED
            and finding.remedies
            and finding.remedies[0].saves_bytes is not None
        ]
        if not chosen:
            return None
        freed_by_leaks: set[int] = set()
        freed: set[int] = set()
        growths: list[Growth] = []
        for finding, remedy in chosen:
            storages = _later_too(self._model, remedy) if _is_leak(finding) else set(remedy.frees)
            freed |= storages
            if _is_leak(finding):
                freed_by_leaks |= storages
                if not (remedy.frees and self._all_watched):
                    growths.append(_growth(self._model, finding, remedy, remedy.growth_removed_bytes or 0.0))
        replay = self._replay(device)
        saved, source = replay.peak_bytes - replay.peak_without(freed), self._source
        if growths:
            source = Source.ESTIMATED
            peaks = peak_without_growth(self._model, device, growths)
            beyond = replay.peak_without(freed_by_leaks) - replay.peak_without(freed)
            if peaks is not None:
                saved = max(saved, min(peaks[0] - peaks[1] + beyond, peaks[0]))
        grown = sum(remedy.growth_removed_bytes or 0.0 for _, remedy in chosen)
        return Combined(
            device=device,
            remedies=tuple((finding.code, remedy.slug, finding.location) for finding, remedy in chosen),
            saves_bytes=saved,
            source=source,
            growth_removed_bytes=grown or None,
        )


def ranked(remedies: Sequence[Remedy]) -> tuple[Remedy, ...]:
    """Put remedies that save materially more first; those of unknown saving keep their places.

    Args:
        remedies: In the order of the rule, which stands where savings are about the same.
    """
    known = [remedy for remedy in remedies if remedy.saves_bytes is not None]
    ordered: list[Remedy] = []
    for remedy in known:
        place = len(ordered)
        while place and _saves_more(remedy, ordered[place - 1]):
            place -= 1
        ordered.insert(place, remedy)
    following = iter(ordered)
    return tuple(remedy if remedy.saves_bytes is None else next(following) for remedy in remedies)


def _saves_more(remedy: Remedy, other: Remedy) -> bool:
    pairs = (
        (remedy.saves_bytes or 0, other.saves_bytes or 0),
        (remedy.growth_removed_bytes or 0.0, other.growth_removed_bytes or 0.0),
    )
    for ours, theirs in pairs:
        if ours > _MATERIAL * theirs and ours >= theirs + _MATERIAL_BYTES:
            return True
        if theirs > _MATERIAL * ours and theirs >= ours + _MATERIAL_BYTES:
            return False
    return False


# ---- leaks -----------------------------------------------------------------------------------


def _is_leak(finding: Finding) -> bool:
    return finding.kind is Kind.LEAK and bool(finding.bytes_per_iteration)


def _moves_nowhere(finding: Finding, remedy: Remedy) -> bool:
    """Whether a remedy moves tensors to the host that are there already."""
    return remedy.slug == "move_to_cpu" and finding.device == "cpu"


def _saves_nothing_alone(finding: Finding, remedy: Remedy) -> bool:
    """Whether a remedy needs another one beside it, or leaves as much as before."""
    if remedy.slug == "remove_retain_graph":
        return finding.code == "MP104"  # the state must be detached as well
    return remedy.slug == "detach" and finding.evidence.get("graph_bytes") == 0


def _growth_removed(model: MemoryModel, finding: Finding, remedy: Remedy) -> float:
    """The part of a growth that a remedy ends: by the bytes it frees of those that any remedy does."""
    grows = finding.bytes_per_iteration or 0.0
    most = max((_nbytes(model, other.frees) for other in finding.remedies), default=0)
    if not remedy.frees or not most:
        return grows
    return grows * _nbytes(model, remedy.frees) / most


def _nbytes(model: MemoryModel, storages: Sequence[int]) -> int:
    return sum(storage.nbytes for storage in table_of(model.storages).known(set(storages)))


def _growth(model: MemoryModel, finding: Finding, remedy: Remedy, bytes_per_iteration: float) -> Growth:
    """What a leak adds, in the iterations in which it was seen to."""
    made = next((item.location for item in finding.related if item.role == "allocated"), None)
    table = table_of(model.storages)
    codes = [code for code, location in enumerate(table.lifetimes.locations) if location == made]
    born = np.unique(table.birth_iteration[np.isin(table.lifetimes.location, codes)])
    kinds = {model.iterations[index].kind for index in born[born >= 0].tolist()}
    return Growth(bytes_per_iteration, frozenset(kinds or {"train"}), _kept_for(model, remedy))


def _kept_for(model: MemoryModel, remedy: Remedy) -> int | None:
    """After how many iterations most of the storages a remedy names were freed again; None where they were not."""
    named = table_of(model.storages).known(remedy.frees)
    ages = [
        storage.death_iteration - storage.birth_iteration + 1
        for storage in named
        if storage.death_iteration is not None and storage.birth_iteration is not None
    ]
    return max(ages) if named and 2 * len(ages) > len(named) else None


def _later_too(model: MemoryModel, remedy: Remedy) -> set[int]:
    """The storages a remedy names and those that the same lines made after the last census, as long-lived."""
    table = table_of(model.storages)
    lives = table.lifetimes
    named = np.flatnonzero(np.isin(lives.id, np.fromiter(remedy.frees, np.int64, len(remedy.frees))))
    line = lives.location.astype(np.int64) * len(lives.ops) + lives.op
    dies_in = np.where(table.death_iteration < 0, len(model.iterations) + 1, table.death_iteration)
    later = (
        (lives.birth_tick > int(lives.birth_tick[named].max(initial=0)))
        & np.isin(line, line[named])
        & (table.birth_iteration >= 0)
        & (dies_in > table.birth_iteration + 1)
    )
    later[named] = True
    return set(lives.id[later].tolist())


# ---- smaller activations, state and gradients ------------------------------------------------


def _half_batch(replay: LifetimeReplay) -> int:
    """Activations half as large, taken to be proportional to the batch."""
    return replay.peak_bytes - replay.peak_with(Category.ACTIVATION, 0.5)


def _half_precision(replay: LifetimeReplay) -> int:
    """32-bit floating-point activations half as large, taken to be saved in 16 bits under autocast."""
    return replay.peak_bytes - replay.peak_with(Category.ACTIVATION, 0.5, dtype="float32")


def _checkpointed(replay: LifetimeReplay) -> int | None:
    """What checkpointing each repeated block saves.

    Blocks are the numbered children of a container (`layers.0`, `layers.1`). Each keeps its last
    output; what it saves inside is recomputed, one block at a time, so the largest stays.
    """
    inside: dict[str, list[Storage]] = {}
    for storage in replay.at_peak(Category.ACTIVATION):
        parts = storage.module.path.split(".") if storage.module is not None else []
        number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if number is not None and len(parts) > number + 1:
            inside.setdefault(".".join(parts[: number + 1]), []).append(storage)
    if len(inside) < 3:
        return None
    freed = {name: sum(storage.nbytes for storage in block[:-1]) for name, block in inside.items()}
    recomputed = replay.made_like([storage for block in inside.values() for storage in block[:-1]])
    return max(replay.peak_bytes - (replay.peak_without(recomputed) + max(freed.values())), 0)


def _eight_bits(replay: LifetimeReplay) -> int:
    """32-bit floating-point optimizer state a quarter as large, taken to be kept in 8 bits."""
    return replay.peak_bytes - replay.peak_with(Category.OPTIMIZER_STATE, 0.25, dtype="float32")


def _one_gradient(replay: LifetimeReplay) -> int:
    """No gradients but the largest, taken to be freed as soon as their parameter has stepped."""
    largest = max((storage.nbytes for storage in replay.at_peak(Category.GRADIENT)), default=0)
    return max(replay.peak_bytes - (replay.peak_with(Category.GRADIENT, 0.0) + largest), 0)


def _without_padding(replay: LifetimeReplay, finding: Finding) -> int:
    """Activations that grow with the length of a batch smaller by the share of it that is padding.

    Batches are taken to hold a number of tokens, not of sequences: of the longest sequences as many as before would
    make a batch as large as before.
    """
    removed = 1.0
    for fact in ("padding_share", "activations_that_scale"):
        share = finding.evidence.get(fact)
        removed *= share if isinstance(share, float) else 0.0
    return max(replay.peak_bytes - replay.peak_with(Category.ACTIVATION, 1.0 - removed), 0)


_WITHOUT_PADDING = frozenset({"bucket_by_length", "pack_sequences"})
_WITH_SMALLER: dict[str, Callable[[LifetimeReplay], int | None]] = {
    "smaller_batch": _half_batch,
    "mixed_precision": _half_precision,
    "checkpointing": _checkpointed,
    "lean_optimizer": _eight_bits,
    "step_in_backward": _one_gradient,
}


__all__ = ["Combined", "Savings", "ranked"]
