"""What is read off an exception's frames."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

import memprof
from memprof.capture.failures import describe
from memprof.capture.frames import UserCode
from memprof.record.events import ModuleRef
from memprof.record.run_info import Failure


def failure_of(action: Callable[[], object], **options: tuple[int, ...]) -> Failure | None:
    try:
        action()
    except Exception as error:
        return describe(error, UserCode(), **options)
    raise AssertionError("it was meant to raise")


class Net(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(features, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.conv(x), 1))


def test_linear_layer_behind_convolutions() -> None:
    found = failure_of(lambda: Net(100)(torch.ones(3, 1, 8, 8)), input_shape=(3, 1, 8, 8))

    assert found is not None
    assert (found.kind, found.root, found.module) == ("shape", "Net", ModuleRef("head.1", "Linear"))
    assert (found.features, found.before, found.input_shape) == ((100, 2), (3, 4, 6, 6), (3, 1, 8, 8))
    assert found.location is not None
    assert found.location.function.endswith("forward")
    assert found.call is not None
    assert found.call.function.endswith("<lambda>")


def test_shape_before_a_flatten_without_a_graph() -> None:
    def forward() -> torch.Tensor:
        with torch.no_grad():
            maps = torch.ones(3, 4, 6, 6)
            return nn.Linear(10, 2)(maps.flatten(1))

    found = failure_of(forward)
    assert found is not None
    assert found.before == (3, 4, 6, 6)


def test_view_that_does_not_fit() -> None:
    def forward() -> torch.Tensor:
        maps = torch.ones(3, 4, 6, 6)
        return maps.view(-1, 100)

    found = failure_of(forward)
    assert found is not None
    assert (found.before, found.features, found.module) == ((3, 4, 6, 6), None, None)


def test_rows_that_a_view_has_mixed() -> None:
    def loss() -> torch.Tensor:
        maps = torch.ones(2, 4, 6, 6, requires_grad=True)
        return nn.functional.cross_entropy(maps.view(-1, 72) * 2, torch.zeros(2, dtype=torch.long))

    found = failure_of(loss)
    assert found is not None
    assert found.before == (2, 4, 6, 6)


def test_devices_of_arguments_and_parameters() -> None:
    layer = nn.Linear(4, 2, device="meta")
    found = failure_of(lambda: layer(torch.ones(3, 4)))

    assert found is not None
    assert found.kind == "device"
    assert {(fact.name, fact.device, fact.role) for fact in found.tensors} >= {
        ("input", "cpu", "argument"),
        ("weight", "meta", "parameter"),
        ("input", "cpu", "root argument"),
        ("weight", "meta", "root parameter"),
    }


def test_layer_that_the_root_does_not_know() -> None:
    class Hiding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(5, 2)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x)

    found = failure_of(lambda: Hiding()(torch.ones(3, 4)))
    assert found is not None
    assert not found.inside


def test_the_cause_of_an_error_counts() -> None:
    def wrapped() -> None:
        try:
            nn.Linear(4, 2)(torch.ones(3, 5))
        except RuntimeError as error:
            raise ValueError("training failed") from error

    found = failure_of(wrapped)
    assert found is not None
    assert found.features == (4, 2)


def test_message_is_the_line_that_says_it() -> None:
    text = "Caught RuntimeError in replica 0.\nOriginal Traceback:\n  RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x5 and 4x2)"

    def replica() -> None:
        raise RuntimeError(text)

    found = failure_of(replica)
    assert found is not None
    assert found.message == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x5 and 4x2)"


@pytest.mark.parametrize("error", [ValueError("something else"), KeyError("mat1"), RuntimeError("CUDA out of memory")])
def test_other_errors_are_passed_over(error: Exception) -> None:
    assert describe(error, UserCode()) is None


def test_nothing_is_kept_alive_and_a_caught_error_is_none() -> None:
    model = nn.Linear(4, 2)
    prof = memprof.Profiler(level="tensors")
    batch = torch.ones(3, 6)
    try:
        with prof:
            with pytest.raises(RuntimeError):
                model(torch.ones(3, 5))
            model(batch)
    except RuntimeError:
        pass

    kept = weakref.ref(batch)
    failure = prof.recording.run.failure
    assert failure is not None
    assert failure.input_shape == (3, 6)
    del batch
    gc.collect()
    assert kept() is None


def test_a_run_that_catches_its_error_has_no_failure() -> None:
    with memprof.Profiler() as prof, pytest.raises(RuntimeError):
        nn.Linear(4, 2)(torch.ones(3, 5))
    assert prof.recording.run.failure is None
    assert [finding for finding in prof.findings if finding.code == "MP402"] == []


def test_an_exception_raised_from_itself_is_read_once() -> None:
    def fail() -> None:
        try:
            raise LookupError("no such file")
        except LookupError as error:
            raise error from error

    assert failure_of(fail) is None
