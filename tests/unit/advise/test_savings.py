"""Savings against lifetimes worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.advise.diagnosis import diagnose
from memprof.advise.replay import Growth, LifetimeReplay, peak_without_growth
from memprof.advise.savings import Savings, ranked
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity
from memprof.model.build import build
from memprof.model.memory import Category, MemoryModel, Source
from memprof.record.events import Location, ModuleRef, Phase, Role
from tests.unit.model.fake_recording import LINE, FakeRecording


def finding(kind: Kind, *remedies: Remedy, growth: float | None = None, **changes: object) -> Finding:
    made = Finding(
        code="MP000",
        name="test",
        kind=kind,
        severity=Severity.INFO,
        location=None,
        device="cpu",
        bytes=None,
        bytes_per_iteration=growth,
        source=Source.MEASURED,
        message="",
        holder=None,
        remedies=remedies,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def valued(model: MemoryModel, found: Finding) -> Remedy:
    return Savings(model).valued(found).remedies[0]


@pytest.fixture
def three() -> tuple[MemoryModel, tuple[int, int, int]]:
    """`a` (100) lives throughout, `b` (60) dies before `c` (50) is made: peak 160, without `b` 150."""
    fake = FakeRecording()
    a = fake.birth(100)
    b = fake.birth(60)
    fake.death(b)
    c = fake.birth(50)
    fake.death(c)
    fake.end_tick()
    return build(fake), (a, b, c)


def test_peak_by_replay(three: tuple[MemoryModel, tuple[int, int, int]]) -> None:
    model, (a, b, c) = three
    replay = LifetimeReplay(model, "cpu")
    assert replay.peak_bytes == 160
    assert replay.peak_without({a}) == 60
    assert replay.peak_without({b}) == 150
    assert replay.peak_without({c}) == 160
    assert replay.peak_without({a, b, c}) == 0
    assert LifetimeReplay(model, "cuda:0").peak_bytes == 0


@pytest.mark.parametrize(("freed", "saved"), [((0,), 100), ((1,), 10), ((2,), 0), ((1, 2), 60), ((0, 1, 2), 160)])
def test_a_waste_is_worth_the_fall_of_the_peak_not_its_own_size(
    three: tuple[MemoryModel, tuple[int, int, int]], freed: tuple[int, ...], saved: int
) -> None:
    model, ids = three
    remedy = valued(model, finding(Kind.WASTE, Remedy("no_grad", "", frees=tuple(ids[i] for i in freed))))
    assert (remedy.saves_bytes, remedy.source) == (saved, Source.SIMULATED)


@pytest.mark.parametrize(
    ("kind", "slug", "growth"),
    [(Kind.WASTE, "del", None), (Kind.LEAK, "item", None), (Kind.PRESSURE, "freeze", None), (Kind.ERROR, "ddp", 5.0)],
)
def test_what_cannot_be_known_is_none(
    three: tuple[MemoryModel, tuple[int, int, int]], kind: Kind, slug: str, growth: float | None
) -> None:
    remedy = valued(three[0], finding(kind, Remedy(slug, ""), growth=growth))
    assert (remedy.saves_bytes, remedy.source) == (None, None)


def test_an_unknown_storage_saves_nothing(three: tuple[MemoryModel, tuple[int, int, int]]) -> None:
    remedy = valued(three[0], finding(Kind.WASTE, Remedy("del", "", frees=(999,))))
    assert remedy.saves_bytes == 0


# ---- leaks -----------------------------------------------------------------------------------


def leaky(*, watched: range, count: int = 10, leak: int = 1000) -> tuple[MemoryModel, tuple[int, ...]]:
    fake = FakeRecording()
    carried: tuple[int, ...] = ()
    for index in range(count):
        fake.watching = index in watched
        carried = fake.step(carried=carried, leak=leak)
    model = build(fake)
    return model, tuple(s.id for s in model.storages.values() if s.op == "aten::leak")


def test_a_leak_watched_throughout_is_simulated_also_beyond_the_last_census() -> None:
    model, leaks = leaky(watched=range(10))
    assert len(leaks) == 10
    remedy = valued(model, finding(Kind.LEAK, Remedy("item", "", frees=leaks[:4]), growth=1000.0))
    # The leak of the last iteration may still die: only what outlived its iteration for certain counts.
    assert remedy.source is Source.SIMULATED
    replay = LifetimeReplay(model, "cpu")
    assert remedy.saves_bytes == replay.peak_bytes - replay.peak_without(leaks)


def test_a_leak_watched_for_a_while_lowers_each_iteration_by_what_had_grown_before() -> None:
    model, leaks = leaky(watched=range(4), count=50)
    related = (RelatedLocation("allocated", LINE),)
    remedy = valued(model, finding(Kind.LEAK, Remedy("item", "", frees=leaks), growth=1000.0, related=related))
    peaks = [iteration.devices["cpu"].peak_allocated_bytes or 0 for iteration in model.iterations]
    trains = sum(iteration.kind == "train" for iteration in model.iterations)
    assert remedy.source is Source.ESTIMATED
    assert remedy.growth_removed_bytes == 1000.0
    assert remedy.saves_bytes is not None
    assert 1000 * (trains - 2) <= remedy.saves_bytes <= 1000 * trains
    assert remedy.saves_bytes < max(peaks)


def test_growth_does_not_explain_a_peak_that_has_another_reason() -> None:
    fake = FakeRecording()
    big = fake.birth(1_000_000)
    fake.death(big)
    carried: tuple[int, ...] = ()
    for _ in range(10):
        carried = fake.step(carried=carried, leak=1000)
    model = build(fake)
    found = peak_without_growth(model, "cpu", [Growth(1000.0, frozenset({"train"}))])
    assert found is not None
    before, after = found
    assert before == after


def test_growth_counts_for_no_more_than_was_seen_to_stay() -> None:
    model, _ = leaky(watched=range(10))
    once = peak_without_growth(model, "cpu", [Growth(1000.0, frozenset({"train"}))])
    thrice = peak_without_growth(model, "cpu", [Growth(1000.0, frozenset({"train"}))] * 3)
    assert once == thrice
    assert peak_without_growth(model, "cuda:0", [Growth(1000.0, frozenset({"train"}))]) is None


def test_growth_in_every_fifth_iteration_counts_though_the_end_of_the_program_frees_it_all() -> None:
    fake = FakeRecording()
    carried: tuple[int, ...] = ()
    for index in range(31):
        carried = fake.step(carried=carried, leak=10_000 if index % 5 == 4 else 8)
    leaks = [birth.storage for birth in fake.birth_rows if birth.nbytes == 10_000]
    for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER):
        fake.sample(phase, ends=False)
        fake.sample(phase, ends=True)
    fake.death(*leaks, *carried)
    fake.end_tick()
    model = build(fake)
    assert model.iterations[-1].kind == "train"

    found = peak_without_growth(model, "cpu", [Growth(2000.0, frozenset({"train"}))])

    assert len(leaks) == 6
    assert found is not None
    assert found[0] - found[1] > 40_000


def test_what_is_freed_after_a_while_grows_no_further() -> None:
    model, _ = leaky(watched=range(10))
    long = peak_without_growth(model, "cpu", [Growth(1000.0, frozenset({"train"}))])
    short = peak_without_growth(model, "cpu", [Growth(1000.0, frozenset({"train"}), kept_for=2)])
    assert long is not None
    assert short is not None
    assert short[0] - short[1] == 2000 < long[0] - long[1]


def test_detaching_what_has_no_graph_behind_it_is_not_promised_anything() -> None:
    model, leaks = leaky(watched=range(10))
    remedy = valued(
        model, finding(Kind.LEAK, Remedy("detach", "", frees=leaks), growth=1000.0, evidence={"graph_bytes": 0})
    )
    assert remedy.saves_bytes is None


def test_what_is_on_the_host_saves_nothing_by_moving_there() -> None:
    model, leaks = leaky(watched=range(10))
    remedy = valued(model, finding(Kind.LEAK, Remedy("move_to_cpu", "", frees=leaks), growth=1000.0))
    assert (remedy.saves_bytes, remedy.growth_removed_bytes) == (None, None)


def test_moving_to_the_host_comes_last_where_tensors_are_there_already() -> None:
    model, leaks = leaky(watched=range(10))
    remedies = (Remedy("move_to_cpu", "keep it on the host", frees=leaks), Remedy("del", "drop it", frees=leaks))
    found = replace(finding(Kind.LEAK, remedies[0], growth=1000.0), remedies=remedies)

    assert [(remedy.slug, remedy.text) for remedy in Savings(model).valued(found).remedies] == [
        ("del", "drop it"),
        ("move_to_cpu", "on a GPU, keep it on the host"),
    ]


def test_leaving_out_retain_graph_alone_is_not_promised_anything() -> None:
    model, leaks = leaky(watched=range(10))
    state = finding(Kind.LEAK, Remedy("remove_retain_graph", ""), growth=1000.0, code="MP104")
    assert valued(model, state).saves_bytes is None


# ---- which first, and all together -----------------------------------------------------------


def test_what_saves_more_comes_first_and_the_unknown_keeps_its_place() -> None:
    remedies = [Remedy(slug, "", saves) for slug, saves in (("detach", 1000), ("gc", None), ("item", 90_000))]
    assert [remedy.slug for remedy in ranked(remedies)] == ["item", "gc", "detach"]


@pytest.mark.parametrize("saves", [(100_000, 100_004), (10, 500)])
def test_about_the_same_stays_as_the_rule_has_it(saves: tuple[int, int]) -> None:
    remedies = [Remedy("detach", "", saves[0]), Remedy("item", "", saves[1])]
    assert ranked(remedies) == tuple(remedies)


def test_growth_removed_decides_where_the_peak_does_not() -> None:
    remedies = [
        Remedy("detach", "", 0, growth_removed_bytes=100.0),
        Remedy("item", "", 0, growth_removed_bytes=5000.0),
    ]
    assert [remedy.slug for remedy in ranked(remedies)] == ["item", "detach"]


def test_a_remedy_that_frees_a_part_ends_a_part_of_the_growth() -> None:
    model, leaks = leaky(watched=range(10))
    found = finding(Kind.LEAK, Remedy("detach", "", frees=leaks[:5]), Remedy("item", "", frees=leaks), growth=1000.0)
    first, second = Savings(model).valued(found).remedies
    removed = {remedy.slug: remedy.growth_removed_bytes for remedy in (first, second)}
    assert removed == {"item": 1000.0, "detach": 500.0}


def test_together_nothing_counts_twice(three: tuple[MemoryModel, tuple[int, int, int]]) -> None:
    model, (a, b, c) = three
    savings = Savings(model)
    first = savings.valued(finding(Kind.WASTE, Remedy("no_grad", "", frees=(a, b))))
    second = savings.valued(finding(Kind.WASTE, Remedy("del", "", frees=(a, c))))
    combined = savings.combined([first, second])
    assert combined is not None
    assert (first.remedies[0].saves_bytes, second.remedies[0].saves_bytes) == (110, 100)
    assert (combined.saves_bytes, combined.source) == (160, Source.SIMULATED)
    assert [(code, slug) for code, slug, _ in combined.remedies] == [("MP000", "no_grad"), ("MP000", "del")]
    assert combined.growth_removed_bytes is None


def test_together_two_holders_of_one_growth_save_it_once() -> None:
    model, leaks = leaky(watched=range(4), count=50)
    savings = Savings(model)
    related = (RelatedLocation("allocated", LINE),)
    one = savings.valued(finding(Kind.LEAK, Remedy("item", "", frees=leaks), growth=1000.0, related=related))
    alone, both = savings.combined([one]), savings.combined([one, one])
    assert alone is not None
    assert both is not None
    assert alone.source is Source.ESTIMATED
    assert alone.saves_bytes <= both.saves_bytes <= 1.01 * alone.saves_bytes


def test_pressure_and_unknown_savings_are_not_added() -> None:
    model = with_activations(1000, 500)
    savings = Savings(model)
    assert savings.combined([savings.valued(finding(Kind.PRESSURE, Remedy("smaller_batch", "")))]) is None
    assert savings.combined([savings.valued(finding(Kind.WASTE, Remedy("del", "")))]) is None
    assert savings.combined([]) is None


# ---- activations -----------------------------------------------------------------------------


def with_activations(*sizes: int, modules: tuple[str, ...] = ()) -> MemoryModel:
    fake = FakeRecording()
    for _ in range(2):
        from memprof.record.events import Phase

        fake.sample(Phase.FORWARD, ends=False)
        made = [
            fake.birth(size, module=ModuleRef(modules[i], "Linear") if modules else None)
            for i, size in enumerate(sizes)
        ]
        fake.sample(Phase.FORWARD, ends=True)
        fake.sample(Phase.BACKWARD, ends=False)
        fake.death(*made)
        fake.sample(Phase.BACKWARD, ends=True)
        fake.end_tick()
    return build(fake)


def test_half_the_activations_for_half_the_batch() -> None:
    model = with_activations(1000, 500)
    assert [item.category for item in LifetimeReplay(model, "cpu").at_peak(Category.ACTIVATION)] == [
        Category.ACTIVATION
    ] * 2
    for slug in ("smaller_batch", "mixed_precision"):
        remedy = valued(model, finding(Kind.PRESSURE, Remedy(slug, "")))
        assert (remedy.saves_bytes, remedy.source) == (750, Source.ESTIMATED)


def test_checkpointing_keeps_one_block_and_each_output() -> None:
    names = ("layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", "layers.2.a", "layers.2.b")
    model = with_activations(100, 7, 200, 7, 300, 7, modules=names)
    remedy = valued(model, finding(Kind.PRESSURE, Remedy("checkpointing", "")))
    assert (remedy.saves_bytes, remedy.source) == (300, Source.ESTIMATED)  # 100 + 200 + 300 less the largest


@pytest.mark.parametrize("modules", [(), ("a.x", "b.x", "c.x"), ("layers.0.a", "layers.1.a", "layers.0.b")])
def test_checkpointing_without_repeated_blocks_is_not_promised_anything(modules: tuple[str, ...]) -> None:
    model = with_activations(100, 200, 300, modules=modules)
    assert valued(model, finding(Kind.PRESSURE, Remedy("checkpointing", ""))).saves_bytes is None


def test_no_activations_no_saving() -> None:
    fake = FakeRecording()
    fake.birth(100)
    fake.end_tick()
    remedy = valued(build(fake), finding(Kind.PRESSURE, Remedy("smaller_batch", "")))
    assert (remedy.saves_bytes, remedy.source) == (None, None)


def test_state_in_eight_bits_and_gradients_one_at_a_time() -> None:
    fake = FakeRecording()
    fake.birth(400, role=Role.OPTIMIZER_STATE)
    gradients = [fake.birth(size, role=Role.GRADIENT) for size in (100, 60, 40)]
    fake.death(*gradients)
    fake.end_tick()
    model = build(fake)

    state = valued(model, finding(Kind.PRESSURE, Remedy("lean_optimizer", "")))
    one = valued(model, finding(Kind.PRESSURE, Remedy("step_in_backward", "")))

    assert (state.saves_bytes, state.source) == (300, Source.ESTIMATED)
    assert (one.saves_bytes, one.source) == (100, Source.ESTIMATED)


# ---- diagnosis -------------------------------------------------------------------------------


def test_a_diagnosis_of_nothing() -> None:
    diagnosis = diagnose(FakeRecording())
    assert diagnosis.findings == ()
    assert diagnosis.worst is None


def test_worst_is_the_highest_severity() -> None:
    nothing = diagnose(FakeRecording())
    levels = [Severity.INFO, Severity.ERROR, Severity.WARNING]
    found = tuple(finding(Kind.WASTE, severity=level) for level in levels)
    assert replace(nothing, findings=found).worst is Severity.ERROR


def test_another_device_is_not_counted() -> None:
    fake = FakeRecording(device="cuda:0")
    identity = fake.birth(100, location=Location("a.py", 1, "f"))
    fake.end_tick()
    remedy = valued(build(fake), finding(Kind.WASTE, Remedy("del", "", frees=(identity,))))
    assert remedy.saves_bytes == 0
