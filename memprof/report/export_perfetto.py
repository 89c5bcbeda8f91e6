"""A run as Trace Event JSON, which ui.perfetto.dev and chrome://tracing open.

Source:
    "Trace Event Format", Chromium project: duration (`X`), counter (`C`), instant (`i`) and metadata (`M`)
    events; times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from memprof.report.run_marks import Stretch, first_moment_ns, iteration_stretches, phase_stretches
from memprof.report.safe_json import dump, safe_text
from memprof.report.wording import known_devices

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.detect.finding import Finding
    from memprof.model.memory import MemoryModel

Event = dict[str, Any]

_RUN_PID = 1
_ITERATIONS_TID, _PHASES_TID, _FINDINGS_TID = 1, 2, 3
_FIRST_DEVICE_PID = 2
_THREADS = ((_ITERATIONS_TID, "iterations"), (_PHASES_TID, "phases"), (_FINDINGS_TID, "findings"))


class PerfettoReporter:
    """Writes a timeline: iterations, phases, memory by category, and findings."""

    name: ClassVar[str] = "perfetto"
    suffixes: ClassVar[tuple[str, ...]] = (".perfetto.json",)

    def render(self, diagnosis: Diagnosis) -> bytes:
        """Give the trace as the content of a file.

        Args:
            diagnosis: What to export.

        Returns:
            JSON in ASCII, ending in a newline.
        """
        return (dump(trace_document(diagnosis)) + "\n").encode("ascii")


def trace_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Put a diagnosis into the shape of a trace.

    Args:
        diagnosis: What to export.

    Returns:
        JSON values only. Metadata comes first, then events by time; what happens at one time keeps the
        order iterations, phases, counters, findings.
    """
    model = diagnosis.model
    first_ns = first_moment_ns(model)
    timed = [
        *_slices(iteration_stretches(model), _ITERATIONS_TID, first_ns),
        *_slices(phase_stretches(model), _PHASES_TID, first_ns),
        *_counters(model, first_ns),
        *_instants(diagnosis, first_ns),
    ]
    timed.sort(key=lambda event: event["ts"])
    return {
        "traceEvents": [*_names(model), *timed],
        "displayTimeUnit": "ms",
        "otherData": {
            "memprof": safe_text(model.run.memprof),
            "torch": safe_text(model.run.torch),
            "script": safe_text(model.run.script or ""),
            "started_unix_ns": str(model.run.started_unix_ns),
        },
    }


def _us(time_ns: int, first_ns: int) -> float:
    return max(0, time_ns - first_ns) / 1000


def _names(model: MemoryModel) -> Iterator[Event]:
    def metadata(kind: str, pid: int, tid: int, **args: object) -> Event:
        return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": args}

    yield metadata("process_name", _RUN_PID, 0, name=safe_text(f"run {model.run.script or ''}".rstrip()))
    yield metadata("process_sort_index", _RUN_PID, 0, sort_index=0)
    for tid, name in _THREADS:
        yield metadata("thread_name", _RUN_PID, tid, name=name)
        yield metadata("thread_sort_index", _RUN_PID, tid, sort_index=tid)
    for pid, device in enumerate(known_devices(model), start=_FIRST_DEVICE_PID):
        yield metadata("process_name", pid, 0, name=safe_text(f"memory of {device}"))
        yield metadata("process_sort_index", pid, 0, sort_index=pid)


def _slices(stretches: Iterable[Stretch], tid: int, first_ns: int) -> Iterator[Event]:
    """Stretches that begin before the one before them has ended are shortened: slices of a thread must nest."""
    end_ns = first_ns
    for stretch in stretches:
        start_ns = max(stretch.start_ns, end_ns)
        end_ns = max(stretch.end_ns, start_ns)
        yield {
            "name": stretch.name,
            "cat": "memprof",
            "ph": "X",
            "ts": _us(start_ns, first_ns),
            "dur": (end_ns - start_ns) / 1000,
            "pid": _RUN_PID,
            "tid": tid,
        }


def _counters(model: MemoryModel, first_ns: int) -> Iterator[Event]:
    """Unknown figures have no event; a counter then keeps what it last was."""
    for pid, device in enumerate(known_devices(model), start=_FIRST_DEVICE_PID):
        for point in model.composition.get(device, ()):
            yield _counter("by category", pid, _us(point.time_ns, first_ns), dict(point.by_category))
        for iteration in model.iterations:
            memory = iteration.devices.get(device)
            if memory is None:
                continue
            start, end = _us(iteration.start_ns, first_ns), _us(iteration.end_ns, first_ns)
            suffix = "" if memory.source.value == "measured" else f" ({memory.source.value})"
            for name, ts, nbytes in (
                (f"allocated{suffix}", start, memory.allocated_bytes_start),
                (f"allocated{suffix}", end, memory.allocated_bytes_end),
                (f"reserved{suffix}", end, memory.reserved_bytes_end),
            ):
                if nbytes is not None:
                    yield _counter(name, pid, ts, {"bytes": nbytes})
            peak_source = (memory.peak_source or memory.source).value
            if memory.peak_allocated_bytes is not None:
                name = "peak of iteration" + ("" if peak_source == "measured" else f" ({peak_source})")
                yield _counter(name, pid, start, {"bytes": memory.peak_allocated_bytes})


def _counter(name: str, pid: int, ts: float, series: dict[str, int]) -> Event:
    return {"name": name, "cat": "memprof", "ph": "C", "ts": ts, "pid": pid, "tid": 0, "args": series}


def _instants(diagnosis: Diagnosis, first_ns: int) -> Iterator[Event]:
    """A finding is about a whole run; it stands where its device had its peak, else at the end."""
    model = diagnosis.model
    last_ns = max((iteration.end_ns for iteration in model.iterations), default=first_ns)
    for finding in diagnosis.findings:
        peak = model.peaks.get(finding.device)
        time_ns = last_ns if peak is None or peak.time_ns is None else peak.time_ns
        yield {
            "name": safe_text(f"{finding.code} {finding.name}"),
            "cat": "memprof",
            "ph": "i",
            "s": "p",
            "ts": _us(time_ns, first_ns),
            "pid": _RUN_PID,
            "tid": _FINDINGS_TID,
            "args": _finding(finding),
        }
    for oom in model.ooms:
        yield {
            "name": "out of memory",
            "cat": "memprof",
            "ph": "i",
            "s": "g",
            "ts": _us(oom.time_ns, first_ns),
            "pid": _RUN_PID,
            "tid": _FINDINGS_TID,
            "args": {"device": safe_text(oom.device), "requested_bytes": oom.requested_bytes},
        }


def _finding(finding: Finding) -> dict[str, Any]:
    place = finding.location
    facts = {
        "message": safe_text(finding.message),
        "severity": finding.severity.value,
        "device": safe_text(finding.device),
        "place": None if place is None else safe_text(f"{place.file}:{place.line} in {place.function}"),
        "bytes": finding.bytes,
        "source": finding.source.value,
    }
    return {key: value for key, value in facts.items() if value is not None}
