"""Figures of a simulated GPU say so, whatever part of the model they are in."""

from __future__ import annotations

from dataclasses import replace

from memprof.model.memory import DeviceIteration, MemoryModel, Source


def source_of(model: MemoryModel, device: str | None) -> Source:
    """Where what the recording says of a device comes from.

    Args:
        model: The run.
        device: `cpu`, `cuda:0`...; None for a figure that belongs to no device.

    Returns:
        `measured`, or `simulated` for a CUDA device in a run under a simulated GPU.
    """
    simulated = bool(model.run.simulated_gpu) and (device or "").startswith("cuda")
    return Source.SIMULATED if simulated else Source.MEASURED


def label_simulated(model: MemoryModel) -> MemoryModel:
    """Call simulated what was read from a simulated GPU.

    Args:
        model: The run, as if every counter were real.

    Returns:
        The same model where CUDA was real.
    """
    if not model.run.simulated_gpu:
        return model

    def relabel(device: str, source: Source) -> Source:
        return source_of(model, device) if source is Source.MEASURED else source

    def row(device: str, memory: DeviceIteration) -> DeviceIteration:
        peak = memory.peak_source
        return replace(
            memory,
            source=relabel(device, memory.source),
            peak_source=None if peak is None else relabel(device, peak),
        )

    return replace(
        model,
        iterations=tuple(
            replace(iteration, devices={device: row(device, memory) for device, memory in iteration.devices.items()})
            for iteration in model.iterations
        ),
        peaks={device: replace(peak, source=relabel(device, peak.source)) for device, peak in model.peaks.items()},
        trends={device: replace(trend, source=relabel(device, trend.source)) for device, trend in model.trends.items()},
    )
