"""The JSON report: a contract, described field by field in `schema.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from enum import Enum
from importlib.resources import files
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

from memprof.model.simulated import source_of
from memprof.report.safe_json import dump, safe_text
from memprof.report.text_reporter import TextReporter
from memprof.report.wording import known_devices, main_device

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.advise.savings import Combined
    from memprof.detect.finding import Finding, Remedy, Skipped
    from memprof.model.memory import Account, DeviceIteration, IterationMemory, MemoryModel, Peak, Trend
    from memprof.model.snapshot import SnapshotTotals
    from memprof.record.events import Location, OutOfMemory

SCHEMA_ID = "memprof.report/1"
"""Value of the report's `schema` field; the number changes when a field changes its meaning or goes."""

JsonObject = dict[str, Any]
"""A JSON object, its keys in the order they are written."""


@dataclass(frozen=True, slots=True)
class JsonOptions:
    """How the JSON is laid out."""

    indent: int | None = 2
    """Spaces a level; None writes one line."""


class JsonReporter(TextReporter):
    """Writes a diagnosis as JSON that `schema.json` describes."""

    name: ClassVar[str] = "json"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def __init__(self, options: JsonOptions | None = None) -> None:
        self.options = options or JsonOptions()

    def to_text(self, diagnosis: Diagnosis) -> str:
        r"""Give the report as text.

        Args:
            diagnosis: What to report.

        Returns:
            JSON in ASCII, ending in a newline. `</` is written `<\/`, which is the same JSON, so
            that the text can stand inside an HTML `<script>`.
        """
        return dump(report_document(diagnosis), indent=self.options.indent) + "\n"


def report_schema() -> JsonObject:
    """Load the JSON Schema (draft 2020-12) of the report.

    Returns:
        The schema.
    """
    text = files("memprof.report").joinpath("schema.json").read_text(encoding="utf-8")
    schema: JsonObject = json.loads(text)
    return schema


def report_document(diagnosis: Diagnosis) -> JsonObject:
    """Put a diagnosis into the shape of the JSON report.

    Args:
        diagnosis: What to report.

    Returns:
        JSON values only; an unknown figure is None, never 0.
    """
    model = diagnosis.model
    main = main_device(model)
    document = {
        "schema": SCHEMA_ID,
        "run": _run(model, main),
        "peak": [_peak(peak) for peak in model.peaks.values()],
        "trend": [_trend(device, trend) for device, trend in model.trends.items()],
        "accounts": [_account(model, account) for accounts in model.accounts.values() for account in accounts],
        "ooms": [_oom(model, oom) for oom in model.ooms],
        "snapshot": [_snapshot(totals) for totals in model.snapshot],
        "iterations": [_iteration(iteration, main) for iteration in model.iterations],
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "skipped": [_skipped(skipped) for skipped in diagnosis.skipped],
        "combined": None if diagnosis.combined is None else _combined(diagnosis.combined),
    }
    return {key: _plain(value) for key, value in document.items()}


def _run(model: MemoryModel, main: str | None) -> JsonObject:
    run = model.run
    return {
        "script": run.script,
        "argv": list(run.argv),
        "python": run.python or None,
        "torch": run.torch or None,
        "memprof": run.memprof or None,
        "platform": run.platform or None,
        "level": run.level or None,
        "devices": list(known_devices(model)),
        "main_device": main,
        "counter": dict(run.counter),
        "simulated_gpu": run.simulated_gpu or None,
        "dry": run.dry,
        "iterations": len(model.iterations),
        "started_unix_ns": run.started_unix_ns or None,
        "finished": run.finished,
        "exit_status": run.exit_status,
        "exception": run.exception,
        "notes": list(run.notes),
    }


def _peak(peak: Peak) -> JsonObject:
    return {
        "device": peak.device,
        "allocated_bytes": peak.allocated_bytes,
        "reserved_bytes": peak.reserved_bytes,
        "source": peak.source,
        "iteration": peak.iteration,
        "phase": None if peak.phase is None else peak.phase.label,
        "by_category": None if peak.by_category is None else dict(peak.by_category),
        "lines": [
            {
                "location": _location(line.location),
                "bytes": line.nbytes,
                "count": line.count,
                "category": line.category,
                "module": None if line.module is None else line.module.path,
            }
            for line in peak.lines
        ],
    }


def _trend(device: str, trend: Trend) -> JsonObject:
    return {
        "device": device,
        "bytes_per_iteration": trend.bytes_per_iteration,
        "first_iteration": trend.first_iteration,
        "last_iteration": trend.last_iteration,
        "points": trend.points,
        "rising_share": trend.rising_share,
        "source": trend.source,
    }


def _account(model: MemoryModel, account: Account) -> JsonObject:
    state = account.state
    return {
        "device": state.device,
        "iteration": account.iteration,
        "driver_total_bytes": state.driver_total_bytes,
        "driver_used_bytes": account.driver_used_bytes,
        "process_bytes": state.process_bytes,
        "reserved_bytes": state.reserved_bytes,
        "allocated_bytes": state.allocated_bytes,
        "active_bytes": state.active_bytes,
        "requested_bytes": state.requested_bytes,
        "inactive_split_bytes": state.inactive_split_bytes,
        "releasable_bytes": account.releasable_bytes,
        "private_pool_bytes": state.private_pool_bytes,
        "outside_allocator_bytes": account.outside_allocator_bytes,
        "other_processes_bytes": account.other_processes_bytes,
        "pinned_host_bytes": state.host_reserved_bytes,
        "alloc_retries": state.alloc_retries,
        "ooms": state.ooms,
        "device_allocs": state.device_allocs,
        "device_frees": state.device_frees,
        "source": source_of(model, state.device),
    }


def _snapshot(totals: SnapshotTotals) -> JsonObject:
    return {field.name: getattr(totals, field.name) for field in fields(totals)}


def _oom(model: MemoryModel, oom: OutOfMemory) -> JsonObject:
    return {
        "device": oom.device,
        "tick": oom.tick,
        "phase": oom.phase.label,
        "requested_bytes": oom.requested_bytes,
        "segment_bytes": oom.segment_bytes,
        "total_bytes": oom.total_bytes,
        "free_bytes": oom.free_bytes,
        "allocated_bytes": oom.allocated_bytes,
        "reserved_bytes": oom.reserved_bytes,
        "largest_hole_bytes": oom.largest_hole_bytes,
        "stranded_bytes": oom.stranded_bytes,
        "location": _location(oom.location),
        "source": source_of(model, oom.device),
    }


def _iteration(iteration: IterationMemory, main: str | None) -> JsonObject:
    devices = {name: _device_iteration(memory) for name, memory in iteration.devices.items()}
    flat = devices.get(main, {}) if main is not None else {}
    return {
        "index": iteration.index,
        "kind": iteration.kind,
        "allocated_bytes_start": flat.get("allocated_bytes_start"),
        "allocated_bytes_end": flat.get("allocated_bytes_end"),
        "peak_allocated_bytes": flat.get("peak_allocated_bytes"),
        "peak_phase": flat.get("peak_phase"),
        "duration_ns": iteration.duration_ns,
        "tracked": iteration.tracked,
        "complete": iteration.complete,
        "epoch": iteration.epoch,
        "source": flat.get("source"),
        "peak_source": flat.get("peak_source"),
        "devices": devices,
    }


def _device_iteration(memory: DeviceIteration) -> JsonObject:
    return {
        "allocated_bytes_start": memory.allocated_bytes_start,
        "allocated_bytes_end": memory.allocated_bytes_end,
        "peak_allocated_bytes": memory.peak_allocated_bytes,
        "peak_phase": None if memory.peak_phase is None else memory.peak_phase.label,
        "phase_peaks": {phase.label: nbytes for phase, nbytes in memory.phase_peaks.items()},
        "reserved_bytes_end": memory.reserved_bytes_end,
        "source": memory.source,
        "peak_source": memory.peak_source or memory.source,
    }


def finding_object(finding: Finding) -> JsonObject:
    """A finding as it stands in the JSON report.

    Args:
        finding: What a rule found.

    Returns:
        JSON values only.
    """
    plain: JsonObject = _plain(_finding(finding))
    return plain


def _finding(finding: Finding) -> JsonObject:
    return {
        "code": finding.code,
        "name": finding.name,
        "kind": finding.kind,
        "severity": finding.severity,
        "location": _location(finding.location),
        "related": [{"role": r.role, **(_location(r.location) or {})} for r in finding.related],
        "device": finding.device,
        "bytes": finding.bytes,
        "bytes_per_iteration": finding.bytes_per_iteration,
        "source": finding.source,
        "message": finding.message,
        "holder": finding.holder,
        "evidence": dict(finding.evidence),
        "remedies": [_remedy(remedy) for remedy in finding.remedies],
    }


def _remedy(remedy: Remedy) -> JsonObject:
    return {
        "slug": remedy.slug,
        "text": remedy.text,
        "saves_bytes": remedy.saves_bytes,
        "source": remedy.source,
        "growth_removed_bytes": remedy.growth_removed_bytes,
    }


def _combined(combined: Combined) -> JsonObject:
    return {
        "device": combined.device,
        "remedies": [
            {"code": code, "slug": slug, "location": _location(location)} for code, slug, location in combined.remedies
        ],
        "saves_bytes": combined.saves_bytes,
        "source": combined.source,
        "growth_removed_bytes": combined.growth_removed_bytes,
    }


def _skipped(skipped: Skipped) -> JsonObject:
    return {"code": skipped.code, "reason": skipped.reason}


def _location(location: Location | None) -> JsonObject | None:
    if location is None:
        return None
    return {"file": location.file, "line": location.line, "function": location.function}


def _plain(value: object) -> Any:
    """Reduce a value to JSON: no NaN, no lone surrogates, no types of other packages."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return _plain(str(value))
