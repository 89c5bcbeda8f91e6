"""What a rule says when it fires."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from memprof.model.memory import Source
from memprof.record.events import Location


class Kind(str, enum.Enum):
    """The family of a problem."""

    LEAK = "leak"
    WASTE = "waste"
    PRESSURE = "pressure"
    ERROR = "error"


class Severity(str, enum.Enum):
    """How bad a problem is, from its measured bytes. Ordered: info < warning < error."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)


REMEDY_SLUGS = frozenset(
    "item detach del no_grad zero_grad smaller_batch truncate_bptt remove_retain_graph bound_container "
    "move_to_cpu break_cycle save_for_backward checkpointing freeze fix_shape register_module gc "
    "mixed_precision allocator_settings optimizer_foreach_off ddp map_location set_device "
    "remove_hook remove_create_graph build_once "
    "lean_optimizer step_in_backward sparse_gradients chunk to_device split_evenly loss_in_forward "
    "anomaly_off drop_module reduce_per_batch bucket_by_length pack_sequences share_tensor".split()
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to do about a finding; only `memprof.advise` fills in what it saves."""

    slug: str
    text: str
    saves_bytes: int | None = None
    source: Source | None = None
    """Where `saves_bytes` comes from; None with it."""
    growth_removed_bytes: float | None = None
    """Of the growth per iteration, what the remedy ends; None where nothing grows or it is not known."""
    frees: tuple[int, ...] = ()
    """Ids of the storages the remedy would free, for the replay that works out the saving."""

    def __post_init__(self) -> None:
        if self.slug not in REMEDY_SLUGS:
            raise ValueError(f"unknown remedy slug {self.slug!r}; known: {', '.join(sorted(REMEDY_SLUGS))}")


@dataclass(frozen=True, slots=True)
class RelatedLocation:
    """Another place that belongs to the story; `role` is `allocated`, `held`, `grown`, `raised` or `called`."""

    role: str
    location: Location


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, with the evidence for it."""

    code: str
    name: str
    kind: Kind
    severity: Severity
    location: Location | None
    """Where the user would make the change."""
    device: str
    bytes: int | None
    bytes_per_iteration: float | None
    source: Source
    message: str
    """What, how much, where, who holds it and the next step, in one breath."""
    holder: str | None
    remedies: tuple[Remedy, ...]
    related: tuple[RelatedLocation, ...] = ()
    evidence: Mapping[str, object] = field(default_factory=dict)
    """Facts the rule decided on; JSON values only."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rule that could not decide, and why."""

    code: str
    reason: str
