"""What memprof itself keeps does not grow with the length of a run."""

from __future__ import annotations

import gc
import types
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import memprof
from memprof.capture import frames, listener, parameters, recent, storage_log, windows
from memprof.capture.forward_places import ForwardPlaces
from memprof.capture.frames import UserCode
from memprof.capture.guard import Guard
from memprof.capture.recent import RecentTensors
from memprof.record.run_info import RunInfo
from memprof.record.schema import BIRTH_COLUMNS

_NOT_OURS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType, types.CodeType)


def held(session: object) -> int:
    """Count the Python objects that can be reached from a session, the user's and torch's left out."""
    gc.collect()
    seen = {id(session)}
    left = deque([session])
    while left:
        for item in gc.get_referents(left.popleft()):
            if id(item) in seen or isinstance(item, (*_NOT_OURS, torch.Tensor, torch.nn.Module, torch.optim.Optimizer)):
                continue
            if type(item).__module__.partition(".")[0] in ("torch", "sqlite3", "numpy"):
                continue
            seen.add(id(item))
            left.append(item)
    return len(seen)


class Loop:
    """A training loop, one iteration a call."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def train(self, batch: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(batch).pow(2).mean().backward()
        self.optimizer.step()


def same_again() -> Callable[[int], None]:
    loop = Loop()
    return lambda _: loop.train(torch.randn(3, 4))


def every_time_another_shape() -> Callable[[int], None]:
    loop = Loop()
    return lambda index: loop.train(torch.randn(1 + index, 4))


def every_time_another_model() -> Callable[[int], None]:
    def search(index: int) -> None:
        loop = Loop()
        loop.train(torch.randn(3, 4))

    return search


def every_time_other_code() -> Callable[[int], None]:
    loop = Loop()

    def run(index: int) -> None:
        loop.optimizer.zero_grad()
        eval(f"lambda model, batch: model(batch).pow(2).mean() + {index}")(loop.model, torch.randn(3, 4)).backward()
        loop.optimizer.step()

    return run


def an_error_every_time() -> Callable[[int], None]:
    loop = Loop()

    def run(index: int) -> None:
        with pytest.raises(RuntimeError):
            loop.model(torch.randn(3, 5 + index))
        loop.train(torch.randn(3, 4))

    return run


def evaluation() -> Callable[[int], None]:
    model = torch.nn.Linear(4, 1).eval()

    def run(_: int) -> None:
        with torch.no_grad():
            model(torch.randn(3, 4))

    return run


def no_module_at_all() -> Callable[[int], None]:
    total = torch.zeros(4)
    return lambda _: total.add_(torch.randn(3, 4).sum(0))  # type: ignore[return-value, func-returns-value]


@pytest.mark.parametrize("level", ["steps", "auto", "tensors"])
@pytest.mark.parametrize(
    "program",
    [
        same_again,
        every_time_another_shape,
        every_time_another_model,
        every_time_other_code,
        an_error_every_time,
        evaluation,
        no_module_at_all,
    ],
)
def test_what_is_kept_does_not_grow(
    program: Callable[[], Callable[[int], None]], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "_LEARNT_BETWEEN", 4)
    monkeypatch.setattr(parameters, "_MOST_NUMBERS", 16)
    monkeypatch.setattr(frames, "_MANY", 16)
    monkeypatch.setattr(recent, "_FEW", 16)
    monkeypatch.setattr(listener, "_MOST_SITES", 4)
    monkeypatch.setattr(windows, "_POINTS", 16)
    monkeypatch.setattr(storage_log, "_MOST_WAITING", 8 * len(BIRTH_COLUMNS))
    with memprof.Profiler(level) as prof:
        run = program()
        for index in range(64):
            run(index)
        before = held(prof._session)
        for index in range(64, 192):
            run(index)
        after = held(prof._session)
    assert after - before < 100  # fewer than iterations: what has a bound goes up and down below it


def test_storages_of_a_tick_that_does_not_end_are_written_early(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage_log, "_MOST_WAITING", 8 * len(BIRTH_COLUMNS))
    with memprof.Profiler("tensors", output=tmp_path / "run.memprof") as prof:
        kept = [torch.ones(4) + index for index in range(50)]
        so_far = list(prof.recording.births())
    births, deaths = list(prof.recording.births()), list(prof.recording.deaths())
    made = [birth.storage for birth in births if birth.op == "aten.add.Tensor"]
    assert len(so_far) >= 90
    assert len(made) == len(kept)
    assert len({birth.storage for birth in births}) == len(births)
    assert not {death.storage for death in deaths} & set(made)


def test_references_to_tensors_that_are_gone_are_dropped() -> None:
    recent_tensors = RecentTensors()
    kept = [torch.ones(1) for _ in range(3)]
    for _ in range(5000):
        recent_tensors.add(torch.ones(1))
        for tensor in kept:
            recent_tensors.add(tensor)
    assert len(recent_tensors) <= 4096
    assert [reference() for reference in recent_tensors.take()] == kept
    assert not len(recent_tensors)


def test_ops_of_one_place_are_one_stretch() -> None:
    places = ForwardPlaces(pytest.fail)
    leaf = torch.ones(2, requires_grad=True)
    nodes = []
    for turn in range(100):
        for place in ((turn, 1), (turn, 2)):
            for _ in range(5):
                node = (leaf * 2).grad_fn
                nodes.append((node, place))
                places.mark(*place)
    assert len(places._numbers) == len(places._places) == 200
    for node, place in nodes:
        places._current_node = lambda node=node: node
        assert places.of_gradient(-7) == place


def test_code_that_is_gone_is_forgotten() -> None:
    code = UserCode()
    lasting = [compile("1", f"lasting_{index}.py", "eval") for index in range(10)]
    for item in lasting:
        code.owns(item)
    for index in range(10_000):
        code.owns(compile("1", f"<made {index}>", "eval"))
    assert len(code.known) == len(code._kept) <= 4096
    assert all(id(item) in code.known for item in lasting)


def test_notes_that_are_always_different_come_to_an_end() -> None:
    run = RunInfo()
    guard = Guard(run)

    def fails(index: int) -> None:
        raise ValueError(f"number {index}")

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for index in range(1000):
            guard.run(fails, index)
    assert len(run.notes) == len(shown) <= 100
