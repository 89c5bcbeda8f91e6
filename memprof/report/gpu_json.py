"""The state of GPUs as JSON: a contract, described field by field in `status_schema.json`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from memprof.report.safe_json import dump, safe_text

if TYPE_CHECKING:
    from memprof.capture.gpus import Gpu, GpuProcess, GpuReport, MigDevice

STATUS_SCHEMA_ID = "memprof.status/1"
"""Value of the `schema` field; the number changes when a field changes its meaning or goes."""


def status_schema() -> dict[str, Any]:
    """Load the JSON Schema (draft 2020-12) of the status.

    Returns:
        The schema.
    """
    text = files("memprof.report").joinpath("status_schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def status_text(report: GpuReport, *, indent: int | None = 2) -> str:
    """Give the state of GPUs as JSON text.

    Args:
        report: What was read.
        indent: Spaces a level; None writes one line.

    Returns:
        JSON in ASCII, ending in a newline.
    """
    return dump(status_document(report), indent=indent) + "\n"


def status_document(report: GpuReport) -> dict[str, Any]:
    """Put the state of GPUs into the shape of the JSON status.

    Args:
        report: What was read.

    Returns:
        JSON values only; an unknown figure is None, never 0.
    """
    return {
        "schema": STATUS_SCHEMA_ID,
        "time_unix_ns": report.time_unix_ns,
        "read_through": report.source,
        "source": None if report.source is None else "measured",
        "driver_version": _text(report.driver_version),
        "reasons": [safe_text(reason) for reason in report.reasons],
        "gpus": [_gpu(gpu) for gpu in report.gpus],
    }


def _text(text: str | None) -> str | None:
    return None if text is None else safe_text(text)


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        **_memory(gpu),
        "pci_bus_id": _text(gpu.pci_bus_id),
        "driver_reserved_bytes": gpu.driver_reserved_bytes,
        "utilisation_percent": gpu.utilisation_percent,
        "temperature_celsius": gpu.temperature_celsius,
        "mig_enabled": gpu.mig_enabled,
        "mig_devices": [{"index": part.index, **_memory(part)} for part in gpu.mig_devices],
        "note": _text(gpu.note),
    }


def _memory(device: Gpu | MigDevice) -> dict[str, Any]:
    processes = device.processes
    return {
        "name": _text(device.name),
        "uuid": _text(device.uuid),
        "total_bytes": device.total_bytes,
        "used_bytes": device.used_bytes,
        "free_bytes": device.free_bytes,
        "processes": None if processes is None else [_process(process) for process in processes],
    }


def _process(process: GpuProcess) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "user": _text(process.user),
        "command": _text(process.command),
        "used_bytes": process.used_bytes,
        "state": process.state.value,
        "zombie_holder": process.is_zombie_holder,
    }
