"""Live runs: forwards, backwards, steps and `zero_grad`s are told apart, with who gets gradients and who steps."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import cast

import torch

import memprof
from memprof.capture.parameters import ParameterBooks
from memprof.capture.storages import StorageTracker
from memprof.record.events import ParameterShare, Pass, PassFlag, PassKind
from memprof.record.reader import Recording


def here() -> int:
    return sys._getframe(1).f_lineno


def kinds(recording: Recording) -> str:
    return "".join(item.kind.name[0] for item in recording.passes)


def shares_of(recording: Recording, item: Pass) -> dict[str, ParameterShare]:
    profile = next(profile for profile in recording.parameters if profile.id == item.gradients)
    return {share.module.path: share for share in profile.shares}


def test_passes_come_in_their_order_with_lines_and_uses() -> None:
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with memprof.Profiler(level="tensors") as prof:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            first = here() + 1
            out = model(torch.randn(2, 8))
            model(torch.randn(2, 8))
            out.sum().backward()
            optimizer.step()
    passes = prof.recording.passes
    assert kinds(prof.recording) == "ZFFBS" * 3
    zero, forward, unused, backward, step = passes[5:10]
    assert forward.location is not None
    assert forward.location.line == first
    assert [item.id for item in (zero, forward, unused, backward, step)] == [5, 6, 7, 8, 9]
    assert backward.uses == (forward.id,)
    assert zero.flags == PassFlag(0)
    assert zero.subject == step.subject != forward.subject == unused.subject
    assert forward.flags == PassFlag.GRAPH
    assert all(item.start_ns <= item.end_ns for item in passes)
    assert forward.saved_bytes is not None


def test_flags_say_how_a_forward_went() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    model.eval()
    with memprof.Profiler(level="steps") as prof:
        with torch.no_grad():
            model(torch.randn(2, 8))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(torch.randn(2, 8, requires_grad=True))
        model(out.float().repeat(1, 2))
        with torch.autograd.set_detect_anomaly(True):
            model(torch.randn(2, 8)).sum().backward()
    graph, evaluates = PassFlag.GRAPH, PassFlag.EVAL_MODE
    assert [item.flags for item in prof.recording.passes] == [
        evaluates,
        evaluates | graph | PassFlag.AUTOCAST | PassFlag.LEAF_INPUT,
        evaluates | graph | PassFlag.CHAINED,
        evaluates | graph | PassFlag.ANOMALY,
        PassFlag.ANOMALY,
    ]


def test_a_profile_says_who_gets_gradients_and_who_steps() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with memprof.Profiler(level="tensors") as prof:
        for _ in range(3):
            model(torch.randn(2, 8)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                model[0].bias.data.mul_(0.5)
    backwards = [item for item in prof.recording.passes if item.kind is PassKind.BACKWARD]
    shares = shares_of(prof.recording, backwards[-1])
    assert not shares["0"].requires_grad
    assert [shares[name].gradient_bytes for name in "012"] == [0, 4 * 72, 4 * 36]
    assert [shares[name].optimizer is None for name in "012"] == [True, True, False]
    assert [shares[name].changed for name in "12"] == [False, True]
    written = [share for share in prof.recording.parameters[-1].shares if share.written]
    assert [(share.module.path, share.nbytes) for share in written] == [("0", 32)]


def test_gradients_that_are_there_but_not_added_to_do_not_count() -> None:
    one, two = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    with memprof.Profiler(level="tensors") as prof:
        one(torch.randn(2, 8)).sum().backward()
        two(torch.randn(2, 8)).sum().backward()
        one(torch.randn(2, 8)).sum().backward()
    got = []
    for item in prof.recording.passes:
        if item.kind is PassKind.BACKWARD:
            profile = prof.recording.parameters[item.gradients or 0]
            got.append([share.gradient_bytes > 0 for share in profile.shares])
    assert got == [[True], [False, True], [True, False]]


def test_gradients_set_to_none_by_hand_are_missed() -> None:
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = torch.nn.Linear(8, 4)
    with memprof.Profiler(level="tensors") as prof:
        model(torch.randn(2, 8)).sum().backward()
        for parameter in model.parameters():
            parameter.grad = None
        other(torch.randn(2, 8)).sum().backward()
        optimizer.step()
    assert kinds(prof.recording) == "FBFZBS"
    assert prof.recording.passes[3].flags == PassFlag.SET_TO_NONE | PassFlag.SEEN_ONLY


def test_zero_grad_of_a_module_is_that_of_its_optimizers() -> None:
    one, two = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    both = torch.nn.ModuleList((one, two))
    optimizers = [torch.optim.SGD(item.parameters(), lr=0.1) for item in both]
    with memprof.Profiler(level="tensors") as prof:
        (one(torch.randn(2, 8)) + two(torch.randn(2, 8))).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        both.zero_grad()
    zeros = [item.subject for item in prof.recording.passes if item.kind is PassKind.ZERO_GRAD]
    steps = [item.subject for item in prof.recording.passes if item.kind is PassKind.STEP]
    assert zeros == sorted(steps)  # type: ignore[type-var]


def test_the_last_use_of_a_large_storage_is_known() -> None:
    with memprof.Profiler(level="tensors") as prof:
        early = torch.arange(1 << 16)
        small = torch.arange(16)
        late = early + 1
        torch.cat([late, late])
        torch.add(small, other=small)
    uses, births = prof.recording.last_uses(), {birth.storage: birth for birth in prof.recording.births()}
    at = {births[storage].op: (when, births[storage]) for storage, when in uses.items()}
    assert at["aten.arange.default"][1].nbytes == 8 << 16  # the small one is left out
    added, joined = at["aten.add.Tensor"], at["aten.cat.default"]
    assert at["aten.arange.default"][0] <= added[1].time_ns
    assert added[1].time_ns < added[0] <= joined[1].time_ns


def test_parameters_are_not_kept_and_can_be_swapped() -> None:
    model = torch.nn.Linear(8, 4)
    alive = weakref.ref(model.weight)
    with memprof.Profiler(level="tensors"):
        model(torch.randn(2, 8)).sum().backward()
        assert not weakref.getweakrefs(model.weight)[1:]  # the one above only
        del model
        gc.collect()
        assert alive() is None


def test_a_module_in_the_place_of_one_that_is_gone_has_a_number_of_its_own() -> None:
    books = ParameterBooks(cast(StorageTracker, None), lambda profile: None, ())
    numbers, places = [], set()
    for _ in range(50):
        module = torch.nn.Identity()
        numbers += [books.number(module), books.number(module)]
        places.add(id(module))
        del module
    assert len(places) < 50  # some did take the place of another
    assert numbers == [number for number in range(50) for _ in range(2)]
