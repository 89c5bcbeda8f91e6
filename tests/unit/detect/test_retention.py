"""Rules about memory that is kept, on made-up recordings: which of them speaks, and when all are silent."""

from __future__ import annotations

import linecache
from dataclasses import replace
from pathlib import Path

import pytest

from memprof.detect import run_rules
from memprof.detect.finding import Finding, Kind, Severity, Skipped
from memprof.model.build import build
from memprof.record.census import (
    MODELS,
    Census,
    CodeRegion,
    ContextTensor,
    GradientGraph,
    GraphRoot,
    HeldGroup,
    Holder,
    KeptGraph,
    Population,
)
from memprof.record.events import Location, Pass, PassFlag, PassKind, Phase, Role
from tests.unit.model.fake_recording import LINE, FakeRecording

KIB, MIB = 1 << 10, 1 << 20
LIST = Holder(kind="local", text="list `kept` in `train()`, 6 tensors", name="kept", container="list", size=6)


class Run:
    """A run whose iterations each leave something behind."""

    def __init__(self, *, device: str = "cpu") -> None:
        self.fake = FakeRecording(device=device)
        self.fake.run.devices = (device,)
        self.kept: list[tuple[int, int]] = []

    def iterate(self, *sizes: int, times: int = 1, location: Location = LINE, phase: Phase = Phase.OTHER) -> None:
        """Train, and leave tensors of these sizes behind."""
        for _ in range(times):
            self.fake.phase = phase
            for nbytes in sizes:
                self.kept.append((self.fake.birth(nbytes, location=location), self.fake.tick))
            self.fake.phase = Phase.OTHER
            self.fake.step()

    def group(self, holder: Holder = LIST, *, graph: bool = False, location: Location = LINE) -> HeldGroup:
        """What is kept so far, as one group."""
        return HeldGroup(
            location=location,
            op="aten::empty",
            holder=holder,
            storages=tuple(storage for storage, _ in self.kept),
            nbytes=sum(self.fake.live.get(storage, 0) for storage, _ in self.kept),
            has_graph=graph,
            shape=(4, 4),
            birth_ticks=tuple(sorted({tick for _, tick in self.kept})),
            graph_nodes=3 * len(self.kept) if graph else 0,
        )

    def census(self, *groups: HeldGroup, **more: object) -> None:
        """Look at what is left at the end of the last tick."""
        tick = self.fake.tick - 1
        self.fake.censuses.append(Census(tick=tick, time_ns=self.fake.now, groups=groups, since_tick=tick - 1, **more))  # type: ignore[arg-type]

    def findings(self) -> list[Finding]:
        return run_rules(build(self.fake))[0]

    def skipped(self) -> list[Skipped]:
        return run_rules(build(self.fake))[1]

    def codes(self) -> list[str]:
        return [finding.code for finding in self.findings()]


def grown(holder: Holder = LIST, *, graph: bool = False, nbytes: int = 64 * KIB, **more: object) -> Run:
    """Six iterations that each leave one tensor with a holder."""
    run = Run()
    run.iterate(nbytes, times=6)
    run.iterate()
    run.census(run.group(holder, graph=graph), **more)
    return run


def test_what_one_census_could_not_name_and_another_could_is_one_pile() -> None:
    run = grown(replace(LIST, kind="future"))
    run.iterate(64 * KIB, times=2)
    run.census(run.group(Holder(kind="unknown", text="something outside Python's reach")))
    assert run.codes() == ["MP116"]


def test_on_the_host_moving_there_is_not_what_is_advised() -> None:
    [found] = grown(graph=True).findings()

    assert found.device == "cpu"
    assert ".cpu()" not in found.message
    assert "the tensors themselves still add up" in found.message


# ---- one pile, one code ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "graph", "code"),
    [
        ("local", False, "MP103"),
        ("local", True, "MP102"),
        ("attribute", True, "MP102"),
        ("hook", True, "MP107"),
        ("hook", False, "MP107"),
        ("context", True, "MP108"),
        ("cycle", True, "MP109"),
        ("traceback", True, "MP110"),
        ("notebook", True, "MP110"),
        ("cache", False, "MP111"),
        ("queue", True, "MP116"),
        ("future", False, "MP116"),
        ("thread", False, "MP116"),
    ],
)
def test_a_pile_belongs_to_the_rule_of_its_holder(kind: str, graph: bool, code: str) -> None:
    run = grown(replace(LIST, kind=kind, hits=0 if kind == "cache" else None), graph=graph)
    assert run.codes() == [code]


@pytest.mark.parametrize(
    ("name", "keyed_by", "code"),
    [
        ("seen", "tensor", "MP111"),
        ("seen", "address", "MP111"),
        ("feature_cache", "", "MP111"),
        ("memo", "", "MP111"),
        ("seen", "", "MP103"),
    ],
)
def test_a_dictionary_used_as_a_cache_is_told_by_its_keys_or_its_name(name: str, keyed_by: str, code: str) -> None:
    run = grown(replace(LIST, container="dict", name=name, keyed_by=keyed_by))
    assert run.codes() == [code]


@pytest.mark.parametrize(
    ("bounded", "hits", "codes"), [(True, 0, ["MP111"]), (True, 5, []), (False, 0, ["MP111"]), (False, 5, ["MP111"])]
)
def test_a_bounded_cache_is_fine_if_it_ever_hits(bounded: bool, hits: int, codes: list[str]) -> None:
    assert grown(replace(LIST, kind="cache", bounded=bounded, hits=hits)).codes() == codes


@pytest.mark.parametrize("kind", ["hook", "context", "dataset", "collate"])
def test_a_statement_in_code_that_torch_calls_back_decides(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("kept = []\n\n\ndef called(x):\n    kept.append(x)\n")
    linecache.checkcache()
    made = Location(str(file), 5, "called")
    run = Run()
    run.iterate(64 * KIB, times=6, location=made)
    run.iterate()
    region = CodeRegion(kind, "a callback", str(file), 4, 5)
    run.census(run.group(replace(LIST, kind="global"), location=made), regions=(region,))
    found = run.findings()
    code = {"hook": "MP107", "context": "MP108", "dataset": "MP117", "collate": "MP117"}[kind]
    if kind == "context":  # a list that a custom function writes to is no attribute of `ctx`
        assert found == []
    else:
        assert [(item.code, item.location) for item in found] == [(code, made._replace(function="called"))]


def test_a_function_that_a_hook_calls_belongs_to_it(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("kept = []\n\n\ndef store(x):\n    kept.append(x)\n\n\ndef hook(m, i, o):\n    store(o)\n")
    linecache.checkcache()
    made = Location(str(file), 9, "hook")
    run = Run()
    run.iterate(64 * KIB, times=6, location=made)
    run.iterate()
    region = CodeRegion("hook", "forward hook on `0`", str(file), 8, 9)
    run.census(run.group(replace(LIST, kind="global"), location=made), regions=(region,))
    (found,) = run.findings()
    assert found.code == "MP107"
    assert found.location == Location(str(file), 5, "store")
    assert "forward hook on `0`" in found.message


def test_copies_of_the_weights_are_known_by_their_sizes() -> None:
    run = Run()
    for number, nbytes in enumerate((40 * KIB, 8 * KIB, 20 * KIB)):
        run.fake.birth(nbytes, role=Role.PARAMETER, name=str(number))
    run.iterate(40 * KIB, 8 * KIB, 20 * KIB, times=5)
    run.iterate()
    run.census(run.group())
    (found,) = run.findings()
    assert found.code == "MP113"
    assert found.bytes_per_iteration == 68 * KIB
    assert found.remedies[0].slug == "move_to_cpu"


def trials(*, called_again: bool = False) -> Run:
    """Four trials of three iterations, each with a model of its own that is kept; a loss module is called as well."""
    run = Run()
    first_ticks = []

    def call(*roots: int) -> None:
        for root in roots:
            run.fake.passes.append(
                Pass(len(run.fake.passes), PassKind.FORWARD, run.fake.tick, 0, 1, LINE, root, PassFlag.GRAPH)
            )

    for trial in range(4):
        first_ticks.append(run.fake.tick)
        run.kept.append((run.fake.birth(MIB, role=Role.PARAMETER), run.fake.tick))
        for _ in range(3):
            call(trial, 9)
            run.iterate()
    if called_again:
        call(0, 1, 2, 3)
        run.iterate()
    kept = replace(run.group(), op=MODELS, birth_ticks=tuple(first_ticks[:3]), nbytes=3 * MIB)
    run.census(kept)
    return run


def test_models_of_trials_that_are_kept() -> None:
    (finding,) = trials().findings()
    assert finding.code == "MP113"
    assert finding.bytes == 3 * MIB
    assert "3 models that are no longer called are kept" in finding.message
    assert "1 MiB every 3 iterations stay on cpu" in finding.message


def test_models_that_are_called_again_are_an_ensemble() -> None:
    assert trials(called_again=True).codes() == []


def test_other_tensors_are_no_copies_of_the_weights() -> None:
    run = Run()
    for nbytes in (40 * KIB, 8 * KIB, 20 * KIB):
        run.fake.birth(nbytes, role=Role.PARAMETER)
    run.iterate(40 * KIB, 9 * KIB, times=5)
    run.iterate()
    run.census(run.group())
    assert run.codes() == ["MP103"]


def test_gradients_with_a_graph_are_told_from_outputs() -> None:
    run = Run()
    run.iterate(64 * KIB, times=6, phase=Phase.BACKWARD)
    run.iterate()
    run.census(run.group(graph=True))
    assert run.codes() == ["MP106"]


def test_what_is_said() -> None:
    (found,) = grown(replace(LIST, kind="queue"), graph=True).findings()
    assert (found.kind, found.severity) == (Kind.LEAK, Severity.ERROR)
    assert found.bytes_per_iteration == 64 * KIB
    assert found.bytes == 6 * 64 * KIB
    assert "64 KiB an iteration stay on cpu" in found.message
    assert found.evidence["from_iterations"] == 6


# ---- silence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [True, False])
def test_a_container_with_a_bound_is_fine(graph: bool) -> None:
    assert grown(replace(LIST, bounded=True), graph=graph).codes() == []


def test_nothing_is_said_of_what_only_the_running_iteration_has_made() -> None:
    run = Run()
    run.iterate(times=6)
    run.iterate(MIB)
    run.census(run.group(graph=True))
    assert run.codes() == []
    assert not any("kept" in item.reason for item in run.skipped())


@pytest.mark.parametrize("graph", [True, False])
def test_what_has_stopped_growing_is_fine(graph: bool) -> None:
    run = Run()
    run.iterate(64 * KIB, times=4)
    run.iterate(times=12)
    run.census(run.group(graph=graph))
    assert run.codes() == []
    assert any("has stopped growing" in item.reason for item in run.skipped())


def once_an_epoch(*, epochs: int, after: int = 0) -> Run:
    """Epochs of ten iterations; each begins with a tensor that is kept, and storages are watched around that only."""
    run = Run()
    for _ in range(epochs):
        run.fake.watch(True)
        run.iterate(64 * KIB)
        run.iterate()
        run.census(run.group())
        run.fake.watch(False)
        run.iterate(times=8)
    run.fake.watch(True)
    run.iterate(times=after)
    run.census(run.group())
    return run


def test_what_is_kept_once_an_epoch_goes_on_growing() -> None:
    (finding,) = once_an_epoch(epochs=5).findings()
    assert finding.code == "MP103"
    assert finding.bytes_per_iteration == 64 * KIB / 10
    assert "64 KiB every 10 iterations stay on cpu" in finding.message


def test_what_was_kept_once_an_epoch_and_is_no_longer_is_fine() -> None:
    assert once_an_epoch(epochs=4, after=40).codes() == []


def test_a_container_that_is_emptied_but_for_its_largest_tensors_is_fine() -> None:
    run = Run()
    run.iterate(MIB, times=2)
    large = run.group(location=Location("train.py", 20, "train"))
    run.kept.clear()
    run.iterate(64 * KIB, times=6)
    run.iterate()
    run.census(large, run.group())
    run.fake.death(*(storage for storage, _ in run.kept))
    run.iterate(times=2)
    assert run.codes() == []


def test_a_window_that_moves_on_is_fine() -> None:
    run = Run()
    for _ in range(8):
        run.iterate(64 * KIB)
        if len(run.kept) > 3:
            run.fake.death(run.kept.pop(0)[0])
        if len(run.kept) == 3:
            run.census(run.group(graph=True))
    assert run.codes() == []
    assert any("lets go of what is older" in item.reason for item in run.skipped())


@pytest.mark.parametrize(
    ("size", "evicted", "codes"),
    [(6, 1, []), (8, 1, ["MP103"]), (6, 0, ["MP103"])],
    ids=["full", "grows", "not looked"],
)
def test_a_container_that_lets_go_of_as_many_as_come_in_is_full(size: int, evicted: int, codes: list[str]) -> None:
    run = Run()
    for number, tensors in enumerate((4, 6, size)):
        run.iterate(64 * KIB, times=3)
        run.iterate()
        if number == 2:
            run.fake.death(*(run.kept.pop(0)[0] for _ in range(evicted)))
        run.census(run.group(replace(LIST, size=tensors)))
    assert run.codes() == codes


def test_what_waits_for_the_collector_may_come_and_go() -> None:
    run = Run()
    for _ in range(3):
        run.iterate(64 * KIB, times=3)
        run.iterate()
        run.census(run.group(replace(LIST, kind="cycle", container=""), graph=True))
        run.fake.death(*(storage for storage, _ in run.kept))
        run.kept.clear()
    assert run.codes() == ["MP109"]


def test_host_copies_beside_a_gpu_are_fine() -> None:
    run = grown()
    run.fake.run.devices = ("cuda:0", "cpu")
    assert run.codes() == []


def test_what_is_moved_to_the_host_on_purpose_is_fine_without_a_gpu_too(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("for x in data:\n    out = model(x)\n    kept.append(out.detach().cpu())\n")
    linecache.checkcache()
    made = Location(str(file), 2, "<module>")
    run = Run()
    run.iterate(64 * KIB, times=6, location=made)
    run.iterate()
    run.census(run.group(replace(LIST, kind="global"), location=made))
    assert run.codes() == []


def test_a_state_that_the_forward_computes_with_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(
        "class Attention:\n    def forward(self, x):\n        k = self.key(x)\n"
        "        self.keys.append(k)\n        return torch.cat(self.keys)\n"
    )
    linecache.checkcache()
    made = Location(str(file), 3, "Attention.forward")
    run = Run()
    run.iterate(64 * KIB, times=6, location=made, phase=Phase.FORWARD)
    run.iterate()
    holder = replace(LIST, kind="attribute", name="keys", owner="Attention")
    run.census(run.group(holder, location=made))
    assert run.codes() == []


def test_few_bytes_without_a_graph_are_fine() -> None:
    assert grown(nbytes=1 * KIB).codes() == []


def test_too_few_iterations_are_said_to_be_too_few() -> None:
    run = Run()
    run.iterate(64 * KIB)
    run.iterate()
    run.census(run.group(replace(LIST, kind="queue"), graph=True))
    assert run.codes() == []
    assert any(item.code == "MP116" and "1 iteration only" in item.reason for item in run.skipped())


# ---- chains ------------------------------------------------------------------------------------


def chained(holder: Holder = LIST, *, grad_fn: str = "AddBackward0", grows: bool = False, **more: object) -> Run:
    """A tensor whose graph gets ten nodes longer with each iteration."""
    run = Run()
    made = run.fake.birth(64 * KIB)
    for number in range(1, 6):
        run.iterate()
        root = GraphRoot(
            storage=made,
            holder=holder,
            grad_fn=grad_fn,
            shape=(8 * number if grows else 8, 16),
            nodes=10 * number,
            saved_bytes=64 * KIB * number,
            location=LINE,
            born_tick=0,
            **more,  # type: ignore[arg-type]
        )
        run.census(roots=(root,))
    return run


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "MP101"),
        ({"parameter": 1}, "MP112"),
        ({"grad_fn": "CopySlices"}, "MP112"),
        ({"grad_fn": "IndexPutBackward0"}, "MP112"),
        ({"grad_fn": "CatBackward0"}, "MP112"),
        ({"grad_fn": "StackBackward0", "in_forward": True, "holds_parts": True}, "MP112"),
        ({"grad_fn": "StackBackward0", "in_forward": True, "holds_parts": False}, "MP104"),
        ({"grad_fn": "CatBackward0", "grows": True}, "MP102"),
        ({"grad_fn": "CatBackward0", "carried": True, "in_forward": True}, "MP104"),
        ({"in_forward": True}, "MP104"),
    ],
)
def test_a_chain_has_one_code(more: dict[str, object], code: str) -> None:
    assert chained(**more).codes() == [code]  # type: ignore[arg-type]


def test_a_chain_is_placed_on_the_line_that_wrote_into_it() -> None:
    where = Location("train.py", 77, "update")
    (found,) = chained(parameter=1, written_at=where).findings()
    assert found.location == where
    assert found.remedies[0].slug == "no_grad"


def test_links_of_a_chain_are_not_a_pile() -> None:
    run = chained(replace(LIST, name="state['left']"), carried=True, in_forward=True)
    run.iterate(64 * KIB, times=6)
    run.iterate()
    run.census(run.group(replace(LIST, name="state['right']"), graph=True))
    assert run.codes() == ["MP104"]


# ---- kept graphs and gradients -----------------------------------------------------------------


def kept(*, calls: int = 5, used_again: int = 0, create_graph: bool = False, nbytes: int = 4 * MIB) -> Run:
    run = Run()
    storage = run.fake.birth(nbytes)
    run.iterate(times=6)
    graph = KeptGraph(LINE, create_graph, calls, used_again, 20, nbytes, (storage,))
    run.census(kept_graphs=(graph,))
    return run


def test_a_graph_that_nothing_uses_again() -> None:
    (found,) = kept().findings()
    assert (found.code, found.kind, found.location) == ("MP105", Kind.WASTE, LINE)
    assert found.bytes == 4 * MIB
    assert found.severity is Severity.ERROR  # it is most of the peak
    assert found.remedies[0].slug == "remove_retain_graph"


@pytest.mark.parametrize("used_again", [1, 4, 5])
def test_a_graph_that_was_needed_once_is_left_alone(used_again: int) -> None:
    assert kept(used_again=used_again).codes() == []


def test_two_calls_do_not_show_that_a_graph_is_not_needed() -> None:
    run = kept(calls=2)
    assert run.codes() == []
    assert any(item.code == "MP105" for item in run.skipped())


def test_the_last_word_on_a_line_counts() -> None:
    run = kept()
    run.iterate()
    run.census(kept_graphs=(KeptGraph(LINE, False, 6, 1, 20, 4 * MIB, (1,)),))
    assert run.codes() == []


def test_a_graph_of_gradients_that_nothing_uses() -> None:
    (found,) = kept(create_graph=True).findings()
    assert (found.code, found.remedies[0].slug) == ("MP106", "remove_create_graph")
    assert kept(create_graph=True, used_again=5).codes() == []


@pytest.mark.parametrize(("used_again", "slug"), [(0, "remove_create_graph"), (5, "zero_grad")])
def test_gradients_that_carry_a_graph(used_again: int, slug: str) -> None:
    run = kept(create_graph=True, used_again=used_again)
    gradients = GradientGraph(parameters=3, nodes=40, nbytes=2 * MIB, storages=(1,), location=LINE)
    for _ in range(2):
        run.iterate()
        run.census(gradients=gradients)
    (found,) = run.findings()
    assert (found.code, found.remedies[0].slug, found.bytes) == ("MP106", slug, 2 * MIB)


def test_a_general_finding_gives_way_to_the_one_that_says_why() -> None:
    run = Run()
    carried: tuple[int, ...] = ()
    for _ in range(8):
        run.fake.sample(Phase.FORWARD, ends=False)
        made = run.fake.birth(8 * MIB, role=Role.SAVED)
        run.fake.sample(Phase.FORWARD, ends=True)
        run.fake.death(*carried)
        carried = (made,)
        run.fake.end_tick()
    assert "MP202" in run.codes()
    run.census(kept_graphs=(KeptGraph(LINE, False, 6, 0, 20, 8 * MIB, carried),))
    codes = run.codes()
    assert "MP105" in codes
    assert "MP202" not in codes


# ---- ctx ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nbytes", "sightings", "found"), [(4 * MIB, 3, 1), (4 * MIB, 1, 0), (16, 3, 0)])
def test_tensors_on_ctx_after_backward(nbytes: int, sightings: int, found: int) -> None:
    run = Run()
    storage = run.fake.birth(nbytes)
    run.fake.birth(8 * MIB)
    for _ in range(sightings):
        run.iterate()
        run.census(contexts=(ContextTensor("Square", "x", LINE, nbytes, (storage,)),))
    findings = run.findings()
    assert [item.code for item in findings] == ["MP108"] * found
    if found:
        assert findings[0].kind is Kind.WASTE
        assert findings[0].remedies[0].slug == "save_for_backward"
        assert "`ctx.x` of autograd function `Square`" in findings[0].message


# ---- sizes of optimizers and models ---------------------------------------------------------------


def sized(kind: str, sizes: list[tuple[int, int]], *, states: bool = False) -> Run:
    """A run in which something had so many parameters after so many iterations."""
    run = Run()
    at = dict(sizes)
    for iteration in range(max(at) + 1):
        run.iterate()
        if iteration in at:
            n = at[iteration]
            item = Population(kind, "Adam", 0, n, 4 if states else n, n, n * MIB, run.fake.tick - 1)
            run.census(populations=(item,))
    return run


STEADY = [(2, 3), (3, 4), (4, 5), (5, 6)]
BY_TWOS = [(2, 3), (3, 3), (4, 4), (5, 4), (6, 5), (10, 7)]
RARE = [(2, 3), (12, 4), (22, 5), (32, 6)]


@pytest.mark.parametrize(
    ("kind", "states", "code"),
    [
        ("optimizer", False, "MP114"),
        ("optimizer", True, "MP114"),
        ("optimizers", False, "MP114"),
        ("module", False, "MP115"),
    ],
)
def test_what_grows_in_every_iteration(kind: str, states: bool, code: str) -> None:
    (found,) = sized(kind, STEADY, states=states).findings()
    assert found.code == code
    assert found.bytes_per_iteration == MIB
    assert found.remedies[0].slug == "build_once"


@pytest.mark.parametrize("kind", ["optimizer", "optimizers", "module"])
@pytest.mark.parametrize("sizes", [RARE, [(2, 3), (3, 4)], [(2, 3), (3, 4), (4, 3), (5, 4), (6, 3)]])
def test_what_grows_now_and_then_or_shrinks_again_is_fine(kind: str, sizes: list[tuple[int, int]]) -> None:
    assert sized(kind, sizes).codes() == []


def test_a_sample_may_take_two_iterations() -> None:
    assert sized("optimizer", BY_TWOS).codes() == ["MP114"]


def test_an_optimizer_that_follows_its_model_is_not_the_problem() -> None:
    run = sized("module", STEADY)
    follows = [census.populations[0] for census in run.fake.censuses]
    run.fake.censuses = [
        replace(census, populations=(item, replace(item, kind="optimizer", number=1)))
        for census, item in zip(run.fake.censuses, follows, strict=True)
    ]
    assert run.codes() == ["MP115"]
