"""What holds for any run: sums agree with counting one by one, and nothing makes `build` fail."""

from __future__ import annotations

import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from memprof.model.build import build
from memprof.model.carried import carried_over
from memprof.model.growth import line_growth
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Phase, Role, TickFlag
from memprof.record.run_info import RunInfo
from tests.unit.model.fake_recording import FakeRecording

FLAGS = (TickFlag.FORWARD, TickFlag.BACKWARD, TickFlag.OPTIMIZER_STEP, TickFlag.EXPLICIT, TickFlag.FINAL)
ROLES = st.sampled_from([None, *Role])
ACTIONS = st.one_of(
    st.tuples(st.just("birth"), st.integers(0, 1000), ROLES),
    st.tuples(st.just("existing"), st.integers(0, 1000), ROLES),
    st.tuples(st.just("death"), st.integers(0, 50), st.none()),
    st.tuples(st.just("phase"), st.sampled_from(list(Phase)), st.booleans()),
    st.tuples(st.just("tick"), st.sets(st.sampled_from(FLAGS)), st.none()),
    st.tuples(st.just("watch"), st.booleans(), st.none()),
)
Script = list[tuple[str, object, object]]


def _play(script: Script, *, cuda: bool = False, always_watched: bool = False) -> FakeRecording:
    device = "cuda:0" if cuda else "cpu"
    run = RunInfo(
        devices=(device,),
        counter={device: "caching allocator" if cuda else "glibc malloc"},
        has_optimizer=True,
    )
    recording = FakeRecording(run=run, device=device, peak_counter=1_000_000 if cuda else None)
    recording.sample(Phase.OTHER, ends=False)
    for action, value, extra in script:
        if action in ("birth", "existing"):
            op = "existing" if action == "existing" else "aten::mm"
            recording.birth(value, role=extra, op=op)  # type: ignore[arg-type]
        elif action == "death" and recording.live:
            living = sorted(recording.live)
            recording.death(living[value % len(living)])  # type: ignore[operator]
        elif action == "phase":
            recording.sample(value, ends=bool(extra))  # type: ignore[arg-type]
        elif action == "tick":
            flags = TickFlag(0)
            for flag in value:  # type: ignore[attr-defined]
                flags |= flag
            recording.end_tick(flags)
        elif action == "watch" and not always_watched:
            # A tick is watched as a whole or not at all.
            recording.end_tick()
            recording.watch(bool(value))
    return recording


def _naive_levels(recording: FakeRecording) -> dict[int, list[int]]:
    """Tick -> live bytes at its start and after each of its events, counted one by one."""
    events = [(birth.time_ns, birth.tick, birth.nbytes) for birth in recording.birth_rows]
    sizes = {birth.storage: birth.nbytes for birth in recording.birth_rows}
    events += [(death.time_ns, death.tick, -sizes[death.storage]) for death in recording.death_rows]
    levels: dict[int, list[int]] = {}
    live = 0
    remaining = sorted(events)
    for tick in range(recording.tick + 1):
        levels[tick] = [live]
        while remaining and remaining[0][1] == tick:
            live += remaining.pop(0)[2]
            levels[tick].append(live)
    return levels


def _facts(model: MemoryModel) -> object:
    return dataclasses.replace(model, storages=dict(model.storages))


@given(st.lists(ACTIONS, max_size=60))
def test_running_sums_agree_with_counting(script: Script) -> None:
    recording = _play(script, always_watched=True)
    levels = _naive_levels(recording)

    model = build(recording)

    for iteration in model.iterations:
        memory = iteration.devices["cpu"]
        within = [levels[tick] for tick in range(iteration.ticks[0], iteration.ticks[1] + 1)]
        assert memory.allocated_bytes_start == within[0][0]
        assert memory.allocated_bytes_end == within[-1][-1]
        assert memory.peak_allocated_bytes == max(max(tick) for tick in within)
        assert memory.source is Source.MEASURED


@given(st.lists(ACTIONS, max_size=60))
def test_categories_add_up_to_the_peak(script: Script) -> None:
    recording = _play(script, always_watched=True)
    levels = _naive_levels(recording)

    peak = build(recording).peaks.get("cpu")

    highest = max(max(level) for level in levels.values())
    if peak is None:
        assert highest == 0
    else:
        assert peak.allocated_bytes == highest
        assert sum((peak.by_category or {}).values()) == highest


@given(st.lists(ACTIONS, max_size=60), st.booleans())
def test_the_model_is_sound(script: Script, cuda: bool) -> None:
    recording = _play(script, cuda=cuda)

    model = build(recording)

    for iteration in model.iterations:
        for memory in iteration.devices.values():
            known = [memory.allocated_bytes_start, memory.allocated_bytes_end, *memory.phase_peaks.values()]
            values = [value for value in known if value is not None]
            assert all(value >= 0 for value in values)
            assert memory.peak_allocated_bytes == max(values, default=None)
    for device, peak in model.peaks.items():
        peaks = [row.devices[device].peak_allocated_bytes or 0 for row in model.iterations]
        assert peak.allocated_bytes * 1.01 >= max(peaks, default=0)
        watched = peak.iteration is not None and model.iterations[peak.iteration].tracked
        if watched and peak.by_category is not None:
            assert sum(peak.by_category.values()) >= peak.allocated_bytes
        assert sum(line.nbytes for line in peak.lines) <= sum((peak.by_category or {}).values())
    assert list(model.storages) == [birth.storage for birth in recording.birth_rows]
    for growth in line_growth(model):
        for iteration, nbytes in growth.survivor_bytes_by_iteration.items():
            alive = model.iterations[iteration].devices[growth.device].allocated_bytes_end
            assert nbytes >= 0
            assert alive is None or nbytes <= alive * 1.01
    for carried in carried_over(model):
        assert carried.nbytes == sum(model.storages[storage].nbytes for storage in carried.storages)


@given(st.lists(ACTIONS, max_size=40), st.booleans())
def test_build_is_deterministic(script: Script, cuda: bool) -> None:
    recording = _play(script, cuda=cuda)

    first, second = build(recording), build(recording)

    assert _facts(first) == _facts(second)
    assert line_growth(first) == line_growth(second)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=40), st.booleans(), st.data())
def test_any_prefix_can_be_built(script: Script, cuda: bool, data: st.DataObject) -> None:
    whole = _play(script, cuda=cuda)

    def upto(rows: list[object], label: str) -> list[object]:
        return rows[: data.draw(st.integers(0, len(rows)), label=label)]

    # Each kind of event is cut off at a place of its own: a killed run loses what was not yet written.
    whole.ticks = upto(whole.ticks, "ticks")  # type: ignore[arg-type,assignment]
    whole.birth_rows = upto(whole.birth_rows, "births")  # type: ignore[arg-type,assignment]
    whole.death_rows = upto(whole.death_rows, "deaths")  # type: ignore[arg-type,assignment]
    whole.role_rows = upto(whole.role_rows, "roles")  # type: ignore[arg-type,assignment]

    model = build(whole)

    line_growth(model)
    carried_over(model)
    assert len(model.storages) == len(whole.birth_rows)
    born = Counter(storage.birth_tick for storage in model.storages.values())
    assert sum(born.values()) == len(whole.birth_rows)
