"""What a census finds out beside holders: kept graphs, `ctx`, sizes, lines that torch calls back, cycles."""

from __future__ import annotations

import functools
import gc
import queue
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
import torch

from memprof.capture.callbacks import Callbacks
from memprof.capture.cycles import cycle_class
from memprof.capture.frames import UserCode
from memprof.capture.graph import holds_parts_of, parameter_behind, sequence_nr
from memprof.capture.holders import HolderSearch
from memprof.capture.kept_graphs import KeptGraphs
from memprof.capture.populations import Populations
from memprof.record.census import Holder, KeptGraph
from memprof.record.events import Location

HERE = Location(__file__, 1, "test")


def fresh() -> torch.Tensor:
    return torch.ones(3)


def ask(reference: weakref.ref[torch.Tensor], *, many: bool = False) -> Holder:
    """Ask without a variable of the test holding the tensor."""
    targets = [reference()]
    assert targets[0] is not None
    (holder,) = HolderSearch(UserCode(), ignore=[targets]).find(targets, [many])
    return holder


@contextmanager
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


# ---- holders -----------------------------------------------------------------------------------


def frame_that_ended(mine: torch.Tensor) -> types.FrameType:
    """The frame of a function that has run in another thread, with a tensor as its variable."""
    frames: list[types.FrameType] = []

    def work(given: torch.Tensor) -> None:
        frames.append(sys._getframe())

    thread = threading.Thread(target=work, args=(mine,))
    thread.start()
    thread.join()
    return frames.pop()


def test_a_search_keeps_nothing_of_those_who_called_it_alive() -> None:
    def step() -> weakref.ref[torch.Tensor]:
        mine = fresh()
        kept = frame_that_ended(mine)
        HolderSearch(UserCode()).find([mine], [True])
        assert kept.f_locals["given"] is mine
        return weakref.ref(mine)

    with uncollected():
        assert step()() is None


def test_what_a_thread_lets_go_of_during_the_search_is_no_cycle() -> None:
    class Work:
        """Something a thread is through with."""

        def __init__(self) -> None:
            self.arguments = [fresh()]

    above = {id(item): item for item in [Work()]}
    above |= {id(item.arguments): item.arguments for item in above.values()}
    target = next(item[0] for item in above.values() if isinstance(item, list))
    assert cycle_class(above, target) == ""


def test_a_queue_is_named_by_its_variable() -> None:
    inbox: queue.Queue[torch.Tensor] = queue.Queue()
    bounded: queue.Queue[torch.Tensor] = queue.Queue(maxsize=2)
    for _ in range(2):
        inbox.put(fresh())
        bounded.put(fresh())
    holder = ask(weakref.ref(inbox.queue[0]), many=True)
    assert (holder.kind, holder.name, holder.container, holder.size) == ("queue", "inbox", "Queue", 2)
    assert not holder.bounded
    assert ask(weakref.ref(bounded.queue[0]), many=True).bounded


def test_futures_are_named_by_what_keeps_them() -> None:
    pending: list[Future[torch.Tensor]] = []
    for _ in range(2):
        future: Future[torch.Tensor] = Future()
        future.set_result(fresh())
        pending.append(future)
        del future
    holder = ask(weakref.ref(pending[0].result()), many=True)
    assert (holder.kind, holder.name, holder.size) == ("future", "pending", 2)


def test_a_variable_of_another_thread_is_told() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        mine = [fresh(), fresh()]
        kept.append(weakref.ref(mine[0]))
        ready.set()
        done.wait(10)
        mine.clear()

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    ready.wait(10)
    try:
        holder = ask(kept[0], many=True)
    finally:
        done.set()
        thread.join()
    assert (holder.kind, holder.name) == ("thread", "mine")
    assert "of thread `worker`" in holder.text


def test_a_cache_of_a_function_is_told_with_its_hits() -> None:
    @functools.cache
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    references = [weakref.ref(double(fresh())) for _ in range(3)]
    holder = ask(references[0], many=True)
    assert (holder.kind, holder.name, holder.size, holder.hits) == ("cache", "double", 3, 0)
    assert (holder.bounded, holder.keyed_by) == (False, "tensor")


@pytest.mark.parametrize(("key", "keyed_by"), [("tensor", "tensor"), ("address", "address"), ("number", "")])
def test_what_a_dictionary_is_keyed_by(key: str, keyed_by: str) -> None:
    table: dict[object, torch.Tensor] = {}
    for number in range(3):
        made = fresh()
        table[{"tensor": made, "address": id(made), "number": number}[key]] = made * 2
    del made
    assert ask(weakref.ref(next(iter(table.values()))), many=True).keyed_by == keyed_by


class Result:
    def __init__(self) -> None:
        self.value = fresh()


def test_of_many_results_the_list_is_the_holder_and_of_one_the_attribute() -> None:
    results = [Result() for _ in range(4)]
    reference = weakref.ref(results[0].value)
    assert (ask(reference).kind, ask(reference).name) == ("attribute", "value")
    many = ask(reference, many=True)
    assert (many.name, many.container, many.size) == ("results", "list", 4)


class Parent:
    def __init__(self) -> None:
        self.children = [Child(self), Child(self)]


class Child:
    def __init__(self, parent: Parent) -> None:
        self.parent, self.value = parent, fresh()


def test_only_what_nothing_reaches_is_a_cycle() -> None:
    with uncollected():
        parent = Parent()
        reference = weakref.ref(parent.children[0].value)
        used = ask(reference, many=True)
        del parent
        unused = ask(reference, many=True)
    assert used.kind != "cycle"
    assert (unused.kind, unused.owner in ("Parent", "Child")) == ("cycle", True)


def test_a_cycle_that_keeps_several_tensors_is_one_for_each() -> None:
    with uncollected():
        parent = Parent()
        references = [weakref.ref(child.value) for child in parent.children]
        del parent
        targets = [reference() for reference in references]
        holders = HolderSearch(UserCode(), ignore=[targets]).find(targets, [True, True])
        del targets
    assert [holder.kind for holder in holders] == ["cycle", "cycle"]


def test_what_a_script_that_has_ended_had_is_no_cycle() -> None:
    namespace: dict[str, object] = {"__name__": "train", "Parent": Parent}
    exec("def used():\n    return parent\n\nparent = Parent()", namespace)
    parent = namespace["parent"]
    assert isinstance(parent, Parent)
    with uncollected():
        reference = weakref.ref(parent.children[0].value)
        del parent, namespace
        holder = ask(reference, many=True)
    assert holder.kind != "cycle"


def test_objects_that_only_c_refers_to_are_no_cycle() -> None:
    with uncollected():
        child = Parent().children[0]
        child.value.grad_fn_hook = child  # type: ignore[attr-defined]
        reference, counted = weakref.ref(child.value), iter([child])  # the iterator lives on the stack of the loop
        del child
        for _ in counted:
            holder = ask(reference, many=True)
    assert holder.kind != "cycle"


# ---- callbacks ---------------------------------------------------------------------------------


class Saver:
    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def __call__(self, module: object, inputs: object, output: torch.Tensor) -> None:
        self.kept.append(output)

    def method(self, module: object, inputs: object, output: torch.Tensor) -> None:
        self.kept.append(output)


def test_lines_of_hooks_of_every_kind_are_known() -> None:
    def plain(module: object, inputs: object, output: object) -> None: ...

    def with_name(name: str, module: object, inputs: object, output: object) -> None: ...

    model, saver = torch.nn.Sequential(torch.nn.Linear(2, 2)), Saver()
    for hook in (plain, saver, saver.method, functools.partial(with_name, "0")):
        model[0].register_forward_hook(hook)
    model[0].weight.register_hook(lambda grad: grad)
    found = {region.first_line: region for region in Callbacks(UserCode()).regions() if region.file == __file__}
    for function in (plain, Saver.__call__, Saver.method, with_name):
        region = found[function.__code__.co_firstlineno]
        assert (region.kind, region.text) == ("hook", "forward hook on `0`")
    assert any(region.text == "gradient hook on `0.weight`" for region in found.values())


class Numbers(torch.utils.data.Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


def test_lines_of_datasets_collate_functions_and_autograd_functions_are_known() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    def together(items: list[int]) -> list[int]:
        return items

    loader = torch.utils.data.DataLoader(Numbers(), batch_size=1, collate_fn=together)
    kinds = {region.text: region.kind for region in Callbacks(UserCode()).regions() if region.file == __file__}
    assert kinds["collate function `together`"] == "collate"
    assert kinds["`__getitem__` of `Numbers`"] == "dataset"
    assert kinds["`forward` of `Twice`"] == "context"
    assert loader.batch_size == 1


# ---- kept graphs -------------------------------------------------------------------------------


def settled(*losses: tuple[torch.Tensor, bool]) -> tuple[KeptGraph, ...]:
    """What is known after backwards of these losses, each with or without `retain_graph`."""
    graphs = KeptGraphs(lambda found: [])
    for loss, keep in losses:
        graphs.backward_begins([loss], keep=keep, create=False, line=HERE, tick=0)
    graphs.iteration_ended()
    graphs.iteration_ended()
    return graphs.take()


def test_a_graph_is_used_again_when_a_later_backward_meets_a_node_of_it() -> None:
    shared = torch.ones(4, requires_grad=True) * 2
    (kept,) = settled((shared.sum(), True), (shared.mean(), False))
    assert (kept.calls, kept.used_again) == (1, 1)


def test_a_graph_of_its_own_is_not_used_again() -> None:
    leaf = torch.ones(4, requires_grad=True)  # both graphs end in it
    (kept,) = settled(((leaf * 2).sum(), True), ((leaf * 3).sum(), False))
    assert (kept.calls, kept.used_again) == (1, 0)


def test_what_still_waits_is_forgotten_where_watching_ends() -> None:
    graphs = KeptGraphs(lambda found: [])
    graphs.backward_begins([torch.ones(1, requires_grad=True).sum()], keep=True, create=False, line=HERE, tick=0)
    graphs.forget()
    graphs.iteration_ended()
    graphs.iteration_ended()
    assert graphs.take() == ()


def test_gradients_with_a_graph_are_counted() -> None:
    graphs = KeptGraphs(lambda found: [])
    weight = torch.nn.Parameter(torch.ones(4))
    loss = weight.pow(3).sum()
    graphs.backward_begins([loss], keep=True, create=True, line=HERE, tick=0)
    (weight.grad,) = torch.autograd.grad(loss, weight, create_graph=True)
    found = graphs.gradients(lambda: [weight])
    assert found is not None
    assert (found.parameters, found.location) == (1, HERE)
    weight.grad = None
    assert graphs.gradients(lambda: [weight]) is None


# ---- sizes and averages ------------------------------------------------------------------------


def test_sizes_are_told_before_and_after_a_change_and_else_not() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    optimizer, sizes = torch.optim.Adam(model.parameters()), Populations()
    assert sizes.take(0, [optimizer], [model]) == ()
    assert sizes.take(1, [optimizer], [model]) == ()
    model.append(torch.nn.Linear(2, 2))
    told = sizes.take(2, [optimizer], [model])
    assert [(item.kind, item.parameters, item.tick) for item in told] == [("module", 2, 1), ("module", 4, 2)]
    optimizer.add_param_group({"params": list(model[1].parameters())})
    told = sizes.take(3, [optimizer], [model])
    assert [(item.kind, item.parameters, item.groups) for item in told] == [("optimizer", 2, 1), ("optimizer", 4, 2)]


def test_an_average_of_weights_is_told_from_a_running_loss() -> None:
    model = torch.nn.Linear(4, 4)
    average = 0.9 * (0.9 * torch.zeros(4, 4) + 0.1 * model.weight) + 0.1 * model.weight.clone()
    assert parameter_behind(average) is model.weight
    assert parameter_behind(model(torch.ones(4, 4)) + 0) is None
    assert parameter_behind(model.weight.sum() + 0) is None


# ---- banks and states ----------------------------------------------------------------------------


def test_a_bank_or_a_queue_has_parts_of_what_it_was_in_it() -> None:
    features = torch.ones(2, 4, requires_grad=True) * 2
    queue = torch.cat([features, torch.zeros(6, 4)])
    before = {sequence_nr(queue.grad_fn)}
    assert holds_parts_of(torch.cat([features, queue])[:8].grad_fn, before)
    assert holds_parts_of(torch.cat([queue[2:].clone(), features]).grad_fn, before)
    bank = torch.zeros(8, 4)
    bank[:2] = features
    before = {sequence_nr(bank.grad_fn)}
    bank[2:4] = features
    assert holds_parts_of(bank.grad_fn, before)


def test_a_state_is_computed_from_the_one_before() -> None:
    cell = torch.nn.LSTMCell(4, 4)
    state = torch.stack(cell(torch.ones(1, 4)))
    before = {sequence_nr(state.grad_fn)}
    state = torch.stack(cell(torch.ones(1, 4), (state[0], state[1])))
    assert not holds_parts_of(state.grad_fn, before)
    assert not holds_parts_of(state.grad_fn, {sequence_nr(state.grad_fn)})
