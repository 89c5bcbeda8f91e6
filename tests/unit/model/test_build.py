"""Figures per iteration, on a CPU and with a caching allocator."""

from __future__ import annotations

import dataclasses

import pytest

from memprof.model.build import build
from memprof.model.memory import DeviceIteration, MemoryModel, Source
from memprof.record.events import Phase, Role, Sample, Tick, TickFlag
from tests.unit.model.fake_recording import TRAIN_FLAGS, FakeRecording


def _iterations(model: MemoryModel) -> list[DeviceIteration]:
    (device,) = model.devices
    return [iteration.devices[device] for iteration in model.iterations]


def _train(recording: FakeRecording, steps: int, carried: tuple[int, ...] = (), **step: int) -> tuple[int, ...]:
    for _ in range(steps):
        carried = recording.step(carried=carried, **step)
    return carried


class TestWatchedCpu:
    def test_figures_are_sums_of_live_storages(self, recording: FakeRecording) -> None:
        recording.birth(500, role=Role.PARAMETER)
        _train(recording, 2)

        first, second = _iterations(build(recording))

        assert (first.allocated_bytes_start, first.allocated_bytes_end) == (0, 520)
        assert (second.allocated_bytes_start, second.allocated_bytes_end) == (520, 520)
        assert second.peak_allocated_bytes == 520 + 10 + 100 + 20 - 20 + 40 + 5
        assert second.peak_phase is Phase.BACKWARD
        # Forward is at its highest at its end, when the previous output is alive still.
        assert second.phase_peaks[Phase.FORWARD] == 520 + 10 + 100 + 30
        assert second.source is Source.MEASURED
        assert second.peak_source is None
        assert second.reserved_bytes_end is None

    def test_counters_are_not_needed(self, recording: FakeRecording) -> None:
        _train(recording, 2)
        with_counters = _iterations(build(recording))
        recording.ticks = [Tick(tick.index, tick.start_ns, tick.end_ns, tick.flags) for tick in recording.ticks]

        without = _iterations(build(recording))

        assert [row.allocated_bytes_end for row in without] == [row.allocated_bytes_end for row in with_counters]
        assert [row.peak_allocated_bytes for row in without] == [row.peak_allocated_bytes for row in with_counters]
        assert all(row.source is Source.MEASURED for row in without)

    def test_an_iteration_of_several_ticks(self, recording: FakeRecording) -> None:
        recording.birth(7)
        recording.phase = Phase.FORWARD
        recording.death(recording.birth(100))
        recording.end_tick(TickFlag.FORWARD | TickFlag.BACKWARD)
        recording.birth(50)
        recording.end_tick(TRAIN_FLAGS)

        (iteration,) = build(recording).iterations

        memory = iteration.devices["cpu"]
        assert iteration.ticks == (0, 1)
        assert iteration.tracked
        assert (memory.allocated_bytes_start, memory.allocated_bytes_end) == (0, 57)
        assert (memory.peak_allocated_bytes, memory.peak_phase) == (107, Phase.FORWARD)


class TestUnwatchedCpu:
    def test_the_counter_is_calibrated_by_the_watched_stretch_before(self, recording: FakeRecording) -> None:
        carried = _train(recording, 3)
        recording.watch(False)
        carried = _train(recording, 2, carried, leak=1000)

        *_, last = _iterations(build(recording))

        assert last.allocated_bytes_end == 2020
        assert last.source is Source.ESTIMATED

    def test_peaks_rise_as_in_the_median_watched_iteration(self, recording: FakeRecording) -> None:
        carried = _train(recording, 1)
        carried = _train(recording, 1, carried, activation=300)
        carried = _train(recording, 1, carried, activation=200)
        recording.watch(False)
        _train(recording, 1, carried, activation=0)

        model = build(recording)

        # Rises above the start: 155 + 20 (nothing carried over), 355, 255.
        watched = _iterations(model)[2]
        estimated = _iterations(model)[3]
        assert watched.allocated_bytes_start == estimated.allocated_bytes_start
        assert estimated.peak_allocated_bytes == watched.peak_allocated_bytes
        assert estimated.peak_phase is Phase.BACKWARD

    def test_an_estimated_peak_is_not_below_what_was_sampled(self, recording: FakeRecording) -> None:
        carried = _train(recording, 3)
        recording.watch(False)
        _train(recording, 1, carried, activation=5000)

        *_, last = _iterations(build(recording))

        assert last.peak_allocated_bytes == 20 + 10 + 5000 + 20
        assert last.peak_phase is Phase.FORWARD

    def test_before_the_first_watched_stretch_it_calibrates_backwards(self, recording: FakeRecording) -> None:
        recording.watch(False)
        kept = recording.birth(70)
        _train(recording, 1)
        recording.watch(True)
        recording.live.clear()
        recording.birth(70, op="existing")
        recording.birth(20, op="existing")
        assert kept == 1
        _train(recording, 1)

        first, second = _iterations(build(recording))

        assert (first.allocated_bytes_end, first.source) == (90, Source.ESTIMATED)
        assert (second.allocated_bytes_end, second.source) == (110, Source.MEASURED)

    def test_without_any_watching_figures_are_growth_since_the_start(self, recording: FakeRecording) -> None:
        recording.watch(False)
        recording.sample(Phase.OTHER, ends=False)
        _train(recording, 3, leak=5)

        model = build(recording)

        assert [row.allocated_bytes_end for row in _iterations(model)] == [25, 30, 35]
        assert model.peaks["cpu"].by_category is None
        assert model.peaks["cpu"].lines == ()
        assert model.composition["cpu"] == ()

    def test_figures_are_never_below_zero(self, recording: FakeRecording) -> None:
        recording.watch(False)
        recording.birth(100)
        recording.sample(Phase.OTHER, ends=False)
        recording.death(1)
        _train(recording, 1)

        (iteration,) = _iterations(build(recording))

        assert iteration.allocated_bytes_end == 0

    def test_a_later_window_starts_from_the_counter(self, recording: FakeRecording) -> None:
        carried = _train(recording, 2)
        recording.watch(False)
        carried = _train(recording, 2, carried, leak=1000)
        recording.watch(True)
        carried = _train(recording, 2, carried)

        rows = _iterations(build(recording))

        assert [row.allocated_bytes_end for row in rows] == [20, 20, 1020, 2020, 2020, 2020]
        assert [row.source for row in rows[4:]] == [Source.ESTIMATED] * 2
        assert rows[5].peak_allocated_bytes == 2020 + 10 + 100 + 40 + 5

    def test_what_is_found_to_exist_in_a_later_window_is_no_increase(self, recording: FakeRecording) -> None:
        carried = _train(recording, 2)
        recording.watch(False)
        carried = _train(recording, 1, carried)
        recording.watch(True)
        kept = recording.birth(300, op="existing")
        recording.counter_noise -= 300
        _train(recording, 1, carried)

        rows = _iterations(build(recording))

        assert kept in recording.live
        assert rows[3].allocated_bytes_end == 20
        assert rows[3].peak_allocated_bytes == 20 + 10 + 100 + 40 + 5

    def test_a_watched_stretch_without_samples_calibrates_at_its_end(self, recording: FakeRecording) -> None:
        carried = _train(recording, 1)
        recording.watch(False)
        carried = _train(recording, 1, carried, leak=100)
        first, second = recording.ticks
        recording.ticks = [dataclasses.replace(first, samples=()), second]

        rows = _iterations(build(recording))

        assert [row.allocated_bytes_end for row in rows] == [20, 120]

    def test_a_device_without_counters_is_unknown_where_not_watched(self, recording: FakeRecording) -> None:
        recording.watch(False)
        recording.ticks.append(Tick(0, 0, 10, TRAIN_FLAGS))

        (iteration,) = _iterations(build(recording))

        assert iteration.allocated_bytes_end is None
        assert iteration.peak_allocated_bytes is None
        assert build(recording).peaks == {}


class TestCachingAllocator:
    def test_start_and_end_are_the_counter(self, cuda_recording: FakeRecording) -> None:
        cuda_recording.watch(False)
        cuda_recording.peak_counter = None
        _train(cuda_recording, 2, leak=8)

        _, second = _iterations(build(cuda_recording))

        assert (second.allocated_bytes_start, second.allocated_bytes_end) == (4096 + 28, 4096 + 36)
        assert second.source is Source.MEASURED
        # What happened between the samples was neither watched nor proven by the peak counter.
        assert second.peak_source is Source.ESTIMATED
        assert second.peak_allocated_bytes == 4096 + 28 + 10 + 100 + 20 + 8
        assert second.reserved_bytes_end == 1 << 21

    def test_a_rise_of_the_peak_counter_is_the_peak(self, cuda_recording: FakeRecording) -> None:
        cuda_recording.watch(False)
        cuda_recording.sample(Phase.OTHER, ends=False)
        cuda_recording.sample(Phase.FORWARD, ends=False)
        cuda_recording.death(cuda_recording.birth(9000))
        cuda_recording.sample(Phase.FORWARD, ends=True)
        cuda_recording.end_tick()

        model = build(cuda_recording)

        (iteration,) = _iterations(model)
        assert iteration.phase_peaks[Phase.FORWARD] == 4096 + 9000
        assert (iteration.peak_phase, iteration.peak_source) == (Phase.FORWARD, None)
        peak = model.peaks["cuda:0"]
        assert (peak.allocated_bytes, peak.iteration, peak.source) == (13096, 0, Source.MEASURED)
        assert peak.time_ns is None
        assert peak.by_category is None

    def test_events_tell_what_happened_between_samples(self, cuda_recording: FakeRecording) -> None:
        cuda_recording.birth(500, role=Role.PARAMETER)
        _train(cuda_recording, 2)

        first, second = _iterations(build(cuda_recording))

        assert first.allocated_bytes_start == 4096
        assert second.peak_allocated_bytes == 4096 + 520 + 10 + 100 + 40 + 5
        assert (second.source, second.peak_source) == (Source.MEASURED, None)

    def test_the_peak_counter_bounds_what_events_suggest(self, cuda_recording: FakeRecording) -> None:
        cuda_recording.sample(Phase.FORWARD, ends=False)
        cuda_recording.peak_counter = None
        cuda_recording.birth(600)
        cuda_recording.peak_counter = 4096 + 512
        cuda_recording.counter_noise = 4096 - 88
        cuda_recording.sample(Phase.FORWARD, ends=True)
        cuda_recording.end_tick()

        (iteration,) = _iterations(build(cuda_recording))

        assert iteration.peak_allocated_bytes == 4096 + 512

    def test_a_peak_before_the_first_sample_belongs_to_the_set_up(self, cuda_recording: FakeRecording) -> None:
        cuda_recording.watch(False)
        cuda_recording.peak_counter = 1_000_000
        _train(cuda_recording, 2)

        peak = build(cuda_recording).peaks["cuda:0"]

        assert (peak.allocated_bytes, peak.iteration, peak.phase) == (1_000_000, None, Phase.OTHER)
        assert peak.source is Source.MEASURED
        assert peak.reserved_bytes == 1 << 21


class TestCutOff:
    def test_an_empty_recording(self, recording: FakeRecording) -> None:
        model = build(recording)

        assert model.iterations == ()
        assert model.devices == ("cpu",)
        assert model.peaks == model.trends == {}
        assert dict(model.storages) == {}

    def test_killed_in_the_first_tick(self, recording: FakeRecording) -> None:
        recording.birth(10, role=Role.PARAMETER)
        recording.phase = Phase.FORWARD
        recording.birth(90)

        model = build(recording)

        peak = model.peaks["cpu"]
        assert model.iterations == ()
        assert (peak.allocated_bytes, peak.iteration, peak.phase) == (100, None, Phase.FORWARD)
        assert peak.by_category == {"ACTIVATION": 90, "PARAMETER": 10}
        assert peak.source is Source.MEASURED

    def test_killed_in_a_later_tick(self, recording: FakeRecording) -> None:
        _train(recording, 2)
        recording.phase = Phase.FORWARD
        last = recording.birth(7000)

        model = build(recording)

        assert model.storages[last].birth_iteration is None
        assert model.storages[last].death_ns is None
        assert model.peaks["cpu"].allocated_bytes == 7020
        assert model.peaks["cpu"].iteration is None

    def test_storages_of_meta_take_no_memory(self, recording: FakeRecording) -> None:
        recording.device = "meta"
        recording.run.devices = ()
        recording.birth(10)
        recording.end_tick()
        recording.ticks = [Tick(0, 0, 10, TickFlag.TRACKED)]

        model = build(recording)

        assert model.devices == ()
        assert len(model.storages) == 1


def test_a_later_validation_gets_its_own_median(recording: FakeRecording) -> None:
    def validate(nbytes: int) -> None:
        recording.sample(Phase.FORWARD, ends=False)
        recording.death(recording.birth(nbytes))
        recording.sample(Phase.FORWARD, ends=True)
        recording.end_tick(TickFlag.FORWARD | TickFlag.EVAL_MODE)

    carried = _train(recording, 2)
    validate(3000)
    recording.watch(False)
    _train(recording, 1, carried)
    validate(1)

    model = build(recording)

    assert [iteration.kind for iteration in model.iterations] == [
        "train",
        "train",
        "evaluate",
        "train",
        "evaluate",
    ]
    assert _iterations(model)[4].peak_allocated_bytes == 3020


@pytest.mark.parametrize("counter", ["glibc malloc", "resident set size", None])
def test_process_counters_need_calibration(recording: FakeRecording, counter: str | None) -> None:
    recording.run.counter = {} if counter is None else {"cpu": counter}
    carried = _train(recording, 1)
    recording.watch(False)
    _train(recording, 1, carried)

    assert _iterations(build(recording))[1].allocated_bytes_end == 20


def test_two_devices_share_iterations(recording: FakeRecording) -> None:
    recording.birth(100)
    recording.device = "cuda:0"
    recording.birth(10)
    recording.end_tick()
    samples = recording.ticks[0].samples
    recording.ticks = [Tick(0, 0, 100, TRAIN_FLAGS | TickFlag.TRACKED, samples=(*samples, *_on_cuda(samples)))]

    (iteration,) = build(recording).iterations

    assert iteration.devices["cpu"].allocated_bytes_end == 100
    assert set(iteration.devices) == {"cpu", "cuda:0"}


def _on_cuda(samples: tuple[Sample, ...]) -> list[Sample]:
    return [sample._replace(device="cuda:0") for sample in samples]
