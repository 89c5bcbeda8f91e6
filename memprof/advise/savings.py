"""What a remedy saves, by replaying the recorded lifetimes without what it would free.

* A remedy that names storages: the peak is worked out again from all watched lifetimes without them
  (`simulated`). That is exact for the watched part of a run.
* A leak that went on while nothing was watched: its growth times the iterations it went on (`estimated`).
* A smaller batch, checkpointing, mixed precision: from the activations at the peak (`estimated`), on
  the assumption stated in the remedy's function below.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from memprof.detect.finding import Finding, Kind, Remedy
from memprof.model.memory import Category, MemoryModel, Source, Storage


def with_savings(model: MemoryModel, finding: Finding) -> Finding:
    """Fill in what each remedy of a finding saves.

    Args:
        model: The run.
        finding: As a rule made it.

    Returns:
        The finding with `saves_bytes` and `source` set where they can be known.
    """
    return replace(finding, remedies=tuple(_valued(model, finding, remedy) for remedy in finding.remedies))


def _valued(model: MemoryModel, finding: Finding, remedy: Remedy) -> Remedy:
    estimate = _FROM_ACTIVATIONS.get(remedy.slug)
    if finding.kind is Kind.PRESSURE and estimate is not None:
        saved = estimate(activations_at_peak(model, finding.device))
        return replace(remedy, saves_bytes=saved, source=Source.ESTIMATED) if saved else remedy
    if finding.kind is Kind.LEAK and finding.bytes_per_iteration:
        if remedy.slug == "remove_retain_graph":
            return remedy  # saves nothing by itself: the state must be detached as well
        if remedy.slug == "detach" and finding.evidence.get("graph_bytes") == 0:
            return remedy  # without a graph behind it a detached tensor takes as much as before
        return _leak_saving(model, finding, remedy)
    if remedy.frees:
        saved = peak_bytes(model, finding.device) - peak_bytes(model, finding.device, without=set(remedy.frees))
        return replace(remedy, saves_bytes=saved, source=Source.SIMULATED)
    return remedy


def _leak_saving(model: MemoryModel, finding: Finding, remedy: Remedy) -> Remedy:
    """Growth removed by the end of the run."""
    loops = [iteration for iteration in model.iterations if iteration.kind != "other"]
    if remedy.frees and all(iteration.tracked for iteration in loops):
        saved = peak_bytes(model, finding.device) - peak_bytes(model, finding.device, without=_later_too(model, remedy))
        return replace(remedy, saves_bytes=saved, source=Source.SIMULATED)
    growing = _iterations_growing(model, finding)
    if not growing:
        return remedy
    return replace(remedy, saves_bytes=round((finding.bytes_per_iteration or 0) * growing), source=Source.ESTIMATED)


def _later_too(model: MemoryModel, remedy: Remedy) -> set[int]:
    """The storages a remedy names and those that the same lines made after the last census, as long-lived."""
    named = [model.storages[identity] for identity in remedy.frees if identity in model.storages]
    lines = {(storage.location, storage.op) for storage in named}
    last = max((storage.birth_tick for storage in named), default=0)
    later = (
        storage.id
        for storage in model.storages.values()
        if storage.birth_tick > last and (storage.location, storage.op) in lines and _outlives_iteration(storage)
    )
    return {storage.id for storage in named} | set(later)


def _outlives_iteration(storage: Storage) -> bool:
    born = storage.birth_iteration
    return born is not None and (storage.death_iteration is None or storage.death_iteration > born + 1)


def _iterations_growing(model: MemoryModel, finding: Finding) -> int:
    """Iterations of the kind in which the growth was seen."""
    made = next((item.location for item in finding.related if item.role == "allocated"), None)
    kinds = {
        model.iterations[storage.birth_iteration].kind
        for storage in model.storages.values()
        if storage.location == made and storage.birth_iteration is not None
    }
    return sum(iteration.kind in (kinds or {"train"}) for iteration in model.iterations)


# ---- replay ----------------------------------------------------------------------------------


def peak_bytes(model: MemoryModel, device: str, *, without: Collection[int] = ()) -> int:
    """Peak of the watched storages of a device, leaving some of them out.

    Args:
        model: The run.
        device: For example `cuda:0`.
        without: Ids of storages to leave out.

    Returns:
        The peak in bytes.
    """
    events: list[tuple[int, int]] = []
    for storage in model.storages.values():
        if storage.device == device and storage.id not in without:
            events.append((storage.birth_ns, storage.nbytes))
            if storage.death_ns is not None:
                events.append((storage.death_ns, -storage.nbytes))
    events.sort()
    level = highest = 0
    for _, change in events:
        level += change
        highest = max(highest, level)
    return highest


def activations_at_peak(model: MemoryModel, device: str) -> list[Storage]:
    """The activations alive when a device's watched storages were at their peak."""
    alive = [storage for storage in model.storages.values() if storage.device == device]
    events = sorted(
        [(storage.birth_ns, storage.nbytes) for storage in alive]
        + [(storage.death_ns, -storage.nbytes) for storage in alive if storage.death_ns is not None]
    )
    level = highest = moment = 0
    for time_ns, change in events:
        level += change
        if level > highest:
            highest, moment = level, time_ns
    return [
        storage
        for storage in alive
        if storage.category is Category.ACTIVATION
        and storage.birth_ns <= moment
        and (storage.death_ns is None or storage.death_ns > moment)
    ]


def _half_batch(activations: list[Storage]) -> int:
    """Half the activations, taken to be proportional to the batch."""
    return sum(storage.nbytes for storage in activations) // 2


def _half_precision(activations: list[Storage]) -> int:
    """Half of the 32-bit floating-point activations, taken to be saved in 16 bits under autocast."""
    return sum(storage.nbytes for storage in activations if storage.dtype == "float32") // 2


def _checkpointed(activations: list[Storage]) -> int | None:
    """What checkpointing each repeated block saves.

    Blocks are the numbered children of a container (`layers.0`, `layers.1`). Each keeps its last
    output; what it saves inside is recomputed, one block at a time, so the largest stays.
    """
    inside: dict[str, list[Storage]] = {}
    for storage in activations:
        parts = storage.module.path.split(".") if storage.module is not None else []
        number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if number is not None and len(parts) > number + 1:
            inside.setdefault(".".join(parts[: number + 1]), []).append(storage)
    if len(inside) < 3:
        return None
    freed = {name: sum(storage.nbytes for storage in block[:-1]) for name, block in inside.items()}
    return max(sum(freed.values()) - max(freed.values()), 0)


_FROM_ACTIVATIONS: dict[str, Callable[[list[Storage]], int | None]] = {
    "smaller_batch": _half_batch,
    "mixed_precision": _half_precision,
    "checkpointing": _checkpointed,
}
