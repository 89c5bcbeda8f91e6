"""Who keeps a tensor, in the user's words; and nothing kept by having looked."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator

import pytest
import torch

from memprof.capture.frames import UserCode, frame_locals, stack_key
from memprof.capture.graph import saved_tensors, walk
from memprof.capture.holders import HolderSearch
from memprof.record.census import Holder

GLOBAL_LIST: list[object] = []


def who(tensor: torch.Tensor) -> Holder:
    (holder,) = HolderSearch(UserCode()).find([tensor])
    return holder


def ask(reference: weakref.ref[torch.Tensor]) -> Holder:
    """Ask without a variable of the test holding the tensor."""
    targets = [reference()]
    assert targets[0] is not None
    search = HolderSearch(UserCode(), ignore=[targets])
    (holder,) = search.find(targets)
    return holder


def fresh() -> torch.Tensor:
    return torch.ones(3)


def last(container: list[torch.Tensor]) -> weakref.ref[torch.Tensor]:
    return weakref.ref(container[-1])


def test_global_list() -> None:
    GLOBAL_LIST.extend(fresh() for _ in range(3))
    try:
        holder = ask(last(GLOBAL_LIST))  # type: ignore[arg-type]
    finally:
        GLOBAL_LIST.clear()
    assert (holder.kind, holder.name, holder.container, holder.size) == ("global", "GLOBAL_LIST", "list", 3)


def test_local_list() -> None:
    history = [fresh(), fresh()]
    holder = ask(last(history))
    assert (holder.kind, holder.name, holder.container, holder.size) == ("local", "history", "list", 2)
    assert "in `test_local_list()`" in holder.text
    assert holder.location is not None
    assert holder.location.file == __file__


@pytest.mark.parametrize("slice_first", [True, False])
def test_of_a_list_and_its_slice_the_list_is_named(slice_first: bool) -> None:
    # Whichever the collector happens to list first.
    recent: list[torch.Tensor] = [] if slice_first else [None]  # type: ignore[list-item]
    history = [fresh() for _ in range(5)]
    recent[:] = history[-2:]
    holder = ask(last(history))
    assert (holder.name, holder.size) == ("history", 5)


def test_local_tuple() -> None:
    pair = (fresh(), fresh())
    holder = ask(weakref.ref(pair[0]))
    assert (holder.name, holder.container, holder.size) == ("pair", "tuple", 2)


def test_dict_value_and_nested_dict_of_lists() -> None:
    flat = {"loss": fresh()}
    holder = ask(weakref.ref(flat["loss"]))
    assert holder.name.startswith("flat")
    nested = {"train": [fresh(), fresh()]}
    holder = ask(last(nested["train"]))
    assert holder.name.startswith("nested")
    assert holder.size == 2


def test_bounded_and_unbounded_deque() -> None:
    bounded, free = deque([fresh()], maxlen=4), deque([fresh()])
    first, second = ask(weakref.ref(bounded[0])), ask(weakref.ref(free[0]))
    assert (first.name, first.bounded) == ("bounded", True)
    assert (second.name, second.bounded) == ("free", False)


class Meter:
    def __init__(self) -> None:
        self.total = fresh()


class Slotted:
    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = fresh()


@pytest.mark.parametrize("kind", [Meter, Slotted])
def test_attribute(kind: type) -> None:
    thing = kind()
    holder = ask(weakref.ref(thing.total))
    assert (holder.kind, holder.name, holder.owner) == ("attribute", "total", kind.__name__)
    assert holder.text == f"attribute `total` of `{kind.__name__}`"


def test_closure() -> None:
    def make() -> tuple[Callable[[], int], weakref.ref[torch.Tensor]]:
        kept = [fresh()]
        return (lambda: len(kept)), last(kept)

    count, reference = make()
    holder = ask(reference)
    assert (holder.kind, holder.name) == ("closure", "kept")
    assert count() == 1


def test_forward_hook_is_named_by_its_module() -> None:
    model = torch.nn.Sequential()
    model.backbone = torch.nn.Sequential()
    model.backbone.layer = torch.nn.Linear(2, 2)

    def install() -> weakref.ref[torch.Tensor]:
        kept: list[torch.Tensor] = []
        model.backbone.layer.register_forward_hook(lambda module, args, output: kept.append(output))
        model.backbone(torch.ones(1, 2))
        return last(kept)

    holder = ask(install())
    assert (holder.kind, holder.text.partition(",")[0]) == ("hook", "forward hook on `backbone.layer`")


def test_generator_local() -> None:
    def stream() -> Iterator[weakref.ref[torch.Tensor]]:
        buffer = [fresh()]
        yield last(buffer)
        buffer.clear()

    generator = stream()
    holder = ask(next(generator))
    assert (holder.kind, holder.name) == ("generator", "buffer")
    assert next(generator, None) is None


def test_local_kept_by_a_traceback() -> None:
    references = []

    def fails() -> None:
        batch = fresh()
        references.append(weakref.ref(batch))
        raise ValueError("kept")

    kept: list[BaseException] = []
    try:
        fails()
    except ValueError as error:
        kept.append(error)
    holder = ask(references[0])
    kept.clear()
    assert (holder.kind, holder.name, holder.container) == ("traceback", "kept", "list")
    assert "which keeps local `batch` of `" in holder.text
    assert holder.text.endswith("through an exception's traceback")


class Node:
    pass


def test_reference_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        node = Node()
        node.me, node.value = node, fresh()  # type: ignore[attr-defined]
        reference = weakref.ref(node.value)  # type: ignore[attr-defined]
        del node
        holder = ask(reference)
        assert "Node" in (holder.owner, holder.name)
    finally:
        gc.enable()
        gc.collect()


def test_searching_keeps_nothing_alive() -> None:
    history = [fresh() for _ in range(3)]
    references = [weakref.ref(item) for item in history]
    gc.collect()
    gc.disable()
    try:
        assert ask(last(history)).name == "history"
        history.clear()
        assert [item() for item in references] == [None] * 3
    finally:
        gc.enable()


# ---- frames ----------------------------------------------------------------------------------


def test_reading_the_variables_of_a_running_frame_keeps_nothing() -> None:
    def looks() -> dict[str, object]:
        return dict(frame_locals(sys._getframe(1)))

    value = fresh()
    reference = weakref.ref(value)
    assert looks()["value"] is value
    del value
    assert reference() is None


def test_user_code() -> None:
    code = UserCode()
    assert code.owns(test_user_code.__code__)
    # Not `Module.__init__`: torch.compile replaces it for the rest of the process by a function of another folder.
    assert not code.owns(torch.nn.Linear.forward.__code__)
    assert not code.owns(weakref.WeakSet.add.__code__)
    assert not code.owns(walk.__code__)
    assert code.owns(compile("", "<stdin>", "exec"))
    assert not UserCode().owns(compile("", "<frozen importlib>", "exec"))
    folder = torch.nn.__file__.rpartition("/")[0]
    assert UserCode((folder,)).owns(torch.nn.Linear.forward.__code__)
    assert not UserCode((folder + "/mod",)).owns(torch.nn.Linear.forward.__code__)


def test_stack_keys_tell_places_apart_and_turns_of_a_loop_not() -> None:
    def here() -> int:
        return stack_key(sys._getframe(1))

    keys = [(here(), here()) for _ in range(3)]
    assert len(set(keys)) == 1
    assert keys[0][0] != keys[0][1]
    assert stack_key(None) == 0


# ---- graphs ----------------------------------------------------------------------------------


def test_a_walk_counts_nodes_and_saved_bytes() -> None:
    leaf = torch.ones(256, requires_grad=True)
    out = (leaf * 2).exp().sum()
    found = walk(out.grad_fn, limit=100)
    assert found.nodes == 4  # sum, exp, mul, accumulate
    assert sum(found.saved.values()) == 256 * 4 + 8  # exp saves its result, mul the number 2
    out.backward()
    assert sum(walk(out.grad_fn, limit=100).saved.values()) == 0  # backward has freed both


def test_a_walk_stops_at_its_limit() -> None:
    out = torch.ones(1, requires_grad=True)
    for _ in range(50):
        out = out + 1
    assert (walk(out.grad_fn, limit=10).nodes, walk(out.grad_fn, limit=10).truncated) == (10, True)
    assert (walk(out.grad_fn, limit=100).nodes, walk(out.grad_fn, limit=100).truncated) == (51, False)


def test_a_shared_node_is_counted_once() -> None:
    shared = torch.ones(1, requires_grad=True) + 1
    assert walk((shared * shared + shared).grad_fn, limit=100).nodes == 4


def test_a_walk_runs_no_hook_of_saved_tensors() -> None:
    def unpack(_: object) -> torch.Tensor:
        raise AssertionError("unpacked")

    leaf = torch.ones(8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), unpack):
        out = (leaf * 2).exp()
    found = walk(out.grad_fn, limit=10)
    assert found.nodes == 3
    assert saved_tensors(out.grad_fn) == [] or found.saved


def test_a_walk_keeps_nothing_alive() -> None:
    hidden = (torch.ones(8, requires_grad=True) * 2).exp()
    out = hidden.sum()
    reference = weakref.ref(hidden)
    gc.collect()
    gc.disable()
    try:
        found = walk(out.grad_fn, limit=10)
        storage = weakref.ref(hidden.untyped_storage())
        del hidden, out
        assert reference() is None
        assert storage() is None
        assert all(isinstance(key, int) for key in found.saved)
        assert not isinstance(found, types.GeneratorType)
    finally:
        gc.enable()


def test_models_in_a_list_are_held_by_the_list_and_one_by_its_attribute() -> None:
    models = [(index, torch.nn.Sequential(torch.nn.Linear(2, 2))) for index in range(3)]
    targets = [models[1][1][0].bias]
    search = HolderSearch(UserCode(), ignore=[targets])
    (holder,) = search.find(targets, [True])
    assert (holder.name, holder.container, holder.size) == ("models", "list", 6)
    (holder,) = search.find(targets)
    assert (holder.kind, holder.name, holder.owner, holder.container) == ("attribute", "bias", "Linear", "")


def test_a_list_with_one_model_in_it_is_no_list_of_tensors() -> None:
    things = [torch.nn.Linear(2, 2), fresh(), fresh()]
    targets = [things[1]]
    (holder,) = HolderSearch(UserCode(), ignore=[targets]).find(targets)
    assert (holder.name, holder.size) == ("things", 2)
