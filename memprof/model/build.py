"""From a recording to a model, in passes that each do one thing."""

from __future__ import annotations

from memprof.model.accounts import read_accounts
from memprof.model.blocks import join_blocks
from memprof.model.categories import categorise
from memprof.model.composition import compose
from memprof.model.figures import slot_figures
from memprof.model.from_snapshot import describe_snapshot
from memprof.model.growth import trend
from memprof.model.iterations import device_iterations, join_devices
from memprof.model.levels import read_levels
from memprof.model.lifetimes import Lifetimes, read_lifetimes
from memprof.model.memory import CompositionPoint, DeviceIteration, MemoryModel, Peak
from memprof.model.peak import find_peak
from memprof.model.samples import Samples, counts_process, no_samples, read_samples
from memprof.model.schedule import Schedule, read_schedule, with_blocks
from memprof.model.segments import segment_changes
from memprof.model.simulated import label_simulated
from memprof.model.storages import StorageTable
from memprof.model.stranded import stranded_lines
from memprof.model.timeline import read_timeline
from memprof.model.view import RecordingView
from memprof.record.run_info import RunInfo

_WITHOUT_MEMORY = frozenset({"meta"})
"""Devices whose storages have a size but take no memory."""


def build(recording: RecordingView) -> MemoryModel:
    """Work out what a recording means.

    A recording that was cut off gives the model of what it holds: storages without a death live to the
    end, and events of an unfinished tick count as after the last iteration.

    Args:
        recording: The recording; read once.

    Returns:
        The model, the same for the same recording.
    """
    run = recording.run
    lifetimes = read_lifetimes(recording.births(), recording.deaths(), recording.roles())
    log, history = recording.block_log(), recording.history
    if log is not None:
        lifetimes = join_blocks(lifetimes, log, recording.ticks)
    schedule = read_schedule(recording.ticks, lifetimes, has_optimizer=run.has_optimizer)
    accounts = read_accounts(recording.states, schedule)
    stranded = stranded_lines(log, accounts)
    segments = segment_changes(log, schedule.ticks)
    has_blocks = log is not None
    del log  # as large as all that is made from here on
    storages = _table(lifetimes, schedule)
    samples = read_samples(schedule)
    devices = _devices(run, samples, lifetimes)
    by_device: dict[str, list[DeviceIteration]] = {}
    peaks: dict[str, Peak] = {}
    composition: dict[str, tuple[CompositionPoint, ...]] = {}
    for device in devices:
        of_device = samples.get(device, no_samples())
        process_counter = counts_process(run, device)
        timeline = read_timeline(lifetimes, device)
        of_this = schedule if not has_blocks or device == "cpu" else with_blocks(schedule)
        levels = read_levels(of_this, timeline, of_device, process_counter=process_counter)
        by_device[device], candidates = device_iterations(
            schedule, slot_figures(of_this, levels), of_device, process_counter=process_counter
        )
        peak = find_peak(levels, candidates, storages)
        if peak is not None:
            peaks[device] = peak
        composition[device] = compose(of_this, levels, storages)
    iterations = join_devices(schedule, by_device)
    trends = {device: trend(iterations, device) for device in devices}
    model = MemoryModel(
        run=run,
        ticks=schedule.ticks,
        iterations=iterations,
        storages=storages,
        peaks=peaks,
        composition=composition,
        trends={device: found for device, found in trends.items() if found is not None},
        censuses=tuple(recording.censuses),
        devices=devices,
        accounts=accounts,
        stranded=stranded,
        segments=segments,
        ooms=tuple(recording.ooms),
        passes=tuple(recording.passes),
        last_uses=recording.last_uses(),
        parameters={profile.id: profile for profile in recording.parameters},
    )
    return label_simulated(model) if history is None else describe_snapshot(model, history)


def _table(lifetimes: Lifetimes, schedule: Schedule) -> StorageTable:
    birth_iteration = schedule.iteration_of(lifetimes.birth_tick)
    # What was there before watching began was made nobody knows when.
    birth_iteration[lifetimes.existing] = -1
    death_iteration = schedule.iteration_of(lifetimes.death_tick)
    death_iteration[~lifetimes.died] = -1
    return StorageTable(
        lifetimes,
        category=categorise(lifetimes, schedule),
        birth_iteration=birth_iteration,
        death_iteration=death_iteration,
    )


def _devices(run: RunInfo, samples: dict[str, Samples], lifetimes: Lifetimes) -> tuple[str, ...]:
    """Devices that take memory: those the run names, then those met in samples and storages."""
    found = dict.fromkeys((*run.devices, *samples, *lifetimes.devices))
    return tuple(device for device in found if device.partition(":")[0] not in _WITHOUT_MEMORY)
