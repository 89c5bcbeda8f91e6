"""Savings against lifetimes worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.advise.diagnosis import diagnose
from memprof.advise.savings import activations_at_peak, peak_bytes, with_savings
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity
from memprof.model.build import build
from memprof.model.memory import Category, MemoryModel, Source
from memprof.record.events import Location, ModuleRef
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
    return with_savings(model, found).remedies[0]


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
    assert peak_bytes(model, "cpu") == 160
    assert peak_bytes(model, "cpu", without={a}) == 60
    assert peak_bytes(model, "cpu", without={b}) == 150
    assert peak_bytes(model, "cpu", without={c}) == 160
    assert peak_bytes(model, "cpu", without={a, b, c}) == 0
    assert peak_bytes(model, "cuda:0") == 0


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
    assert remedy.saves_bytes == peak_bytes(model, "cpu") - peak_bytes(model, "cpu", without=set(leaks))


def test_a_leak_watched_for_a_while_is_growth_times_iterations() -> None:
    model, leaks = leaky(watched=range(4), count=50)
    related = (RelatedLocation("allocated", LINE),)
    remedy = valued(model, finding(Kind.LEAK, Remedy("item", "", frees=leaks), growth=1000.0, related=related))
    trains = sum(iteration.kind == "train" for iteration in model.iterations)
    assert (remedy.saves_bytes, remedy.source) == (1000 * trains, Source.ESTIMATED)


def test_detaching_what_has_no_graph_behind_it_is_not_promised_anything() -> None:
    model, leaks = leaky(watched=range(10))
    remedy = valued(
        model, finding(Kind.LEAK, Remedy("detach", "", frees=leaks), growth=1000.0, evidence={"graph_bytes": 0})
    )
    assert remedy.saves_bytes is None


def test_leaving_out_retain_graph_alone_is_not_promised_anything() -> None:
    model, leaks = leaky(watched=range(10))
    assert valued(model, finding(Kind.LEAK, Remedy("remove_retain_graph", ""), growth=1000.0)).saves_bytes is None


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
    assert [item.category for item in activations_at_peak(model, "cpu")] == [Category.ACTIVATION] * 2
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
