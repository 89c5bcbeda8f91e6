"""MP402 to MP404 on failures made up by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memprof.detect.construction import layer_made_at
from memprof.detect.finding import Finding, Severity
from memprof.detect.placement import DeviceMismatch, ParametersHiddenInContainer
from memprof.detect.rule import Rule
from memprof.detect.shapes import ShapeMismatch
from memprof.model.build import build
from memprof.record.events import Location, ModuleRef
from memprof.record.run_info import Failure, HiddenParameters, RunInfo, TensorFact
from tests.unit.model.fake_recording import FakeRecording

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 120)
        self.fc3 = nn.Linear(in_features=120, out_features=120)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(120, 10))
        self.layers = [nn.Linear(8, 8)]

    def forward(self, x):
        return self.fc1(x)

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
"""


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(SOURCE.splitlines(), 1) if text in line)


@pytest.fixture
def script(tmp_path: Path) -> str:
    file = tmp_path / "train.py"
    file.write_text(SOURCE, encoding="utf-8")
    return str(file)


def findings(rule: type[Rule], **run: object) -> list[Finding]:
    model = build(FakeRecording(run=replace(RunInfo(devices=("cuda:0",)), **run)))  # type: ignore[arg-type]
    return [answer for answer in rule().check(model) if isinstance(answer, Finding)]


# ---- where it was made -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "features", "text"),
    [
        ("fc1", (400, 120), "self.fc1 ="),
        ("fc2", (120, 120), "self.fc2 ="),
        ("body.fc3", (120, 120), "self.fc3 ="),
        ("head.1", (120, 10), "self.head ="),
        ("2", (8, 8), "model ="),
        ("fc1", (7, 7), None),  # no such layer
        ("elsewhere", (120, 120), None),  # two would fit
    ],
)
def test_constructor_is_found(script: str, path: str, features: tuple[int, int], text: str | None) -> None:
    found = layer_made_at(ModuleRef(path, "Linear"), features, [script])
    assert (found.line if found is not None else None) == (line_of(text) if text is not None else None)


def test_constructor_of_a_file_that_cannot_be_read() -> None:
    assert layer_made_at(ModuleRef("fc", "Linear"), (1, 2), ["/nowhere.py"]) is None


# ---- shapes ------------------------------------------------------------------------------------


def shape_failure(script: str, **changes: object) -> Failure:
    made = Failure(
        kind="shape",
        message="mat1 and mat2 shapes cannot be multiplied (4x576 and 400x120)",
        location=Location(script, line_of("return self.fc1"), "Net.forward"),
        call=Location(script, 90, "train"),
        root="Net",
        module=ModuleRef("fc1", "Linear"),
        inside=True,
        features=(400, 120),
        before=(4, 16, 6, 6),
        input_shape=(4, 3, 36, 36),
        tensors=(TensorFact("input", (4, 576), "cpu", "argument"),),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_layer_sized_for_another_resolution(script: str) -> None:
    [found] = findings(ShapeMismatch, failure=shape_failure(script))

    assert found.severity is Severity.ERROR
    assert found.location == Location(script, line_of("self.fc1 ="), "Net.__init__")
    assert found.message == (
        "Linear `fc1` wants 400 features and gets 576: 16 channels of 6 x 6, from an input of 4 x 3 x 36 x 36. Write "
        "`nn.Linear(576, 120)` at train.py:8, or pool to a fixed size before it: `nn.AdaptiveAvgPool2d(5)`."
    )
    assert [remedy.slug for remedy in found.remedies] == ["fix_shape", "fix_shape"]


def test_pooling_is_offered_only_where_it_works(script: str) -> None:
    [found] = findings(ShapeMismatch, failure=shape_failure(script, before=(4, 18, 8, 4)))
    assert "18 channels of 8 x 4" in found.message
    assert "pool" not in found.message

    [found] = findings(ShapeMismatch, failure=shape_failure(script, before=()))
    assert "wants 400 features and gets 576, from an input" in found.message


def test_missing_flatten(script: str) -> None:
    failure = shape_failure(
        script, tensors=(TensorFact("input", (4, 16, 5, 5), "cpu", "argument"),), before=(4, 16, 5, 5)
    )
    [found] = findings(ShapeMismatch, failure=failure)
    assert "is not flattened" in found.message
    assert found.location == failure.location


@pytest.mark.parametrize(
    ("message", "before", "said"),
    [
        ("shape '[128, 1, 28, 28]' is invalid for input of size 62720", (80, 1, 28, 28), "has 80 samples"),
        ("shape '[128, 784]' is invalid for input of size 62720", (80, 1, 28, 28), "has 80 samples"),
        ("shape '[32, 7, 4]' is invalid for input of size 140", (), "has 5 samples"),
        ("shape '[16, 400]' is invalid for input of size 9216", (16, 64, 3, 3), "`torch.flatten(x, 1)`"),
        (
            "shape '[16, 400]' is invalid for input of size 12800",
            (),
            "`torch.flatten(x, 1)`",
        ),  # 32 rows, or 800 features
        ("shape '[2, 3, 4]' is invalid for input of size 48", (), "has 48 elements"),
        ("shape '[2, 3, -1]' is invalid for input of size 50", (2, 5, 5), "has 50 elements: 2 x 5 x 5"),
    ],
)
def test_reshape_with_another_number_of_samples_or_elements(
    script: str, message: str, before: tuple[int, ...], said: str
) -> None:
    failure = shape_failure(script, message=message, before=before, features=None)
    [found] = findings(ShapeMismatch, failure=failure)
    assert said in found.message


def test_reshape_and_rows(script: str) -> None:
    view = shape_failure(script, message="shape '[-1, 400]' is invalid for input of size 2304", features=None)
    [found] = findings(ShapeMismatch, failure=view)
    assert "each sample has 576 elements (16 x 6 x 6)" in found.message
    assert found.location == view.location

    rows = replace(view, message="Expected input batch_size (16) to match target batch_size (4).")
    [found] = findings(ShapeMismatch, failure=rows)
    assert "gets 16 rows for 4 targets" in found.message


@pytest.mark.parametrize(
    ("shape", "said", "step"),
    [
        ((4, 1, 28, 28), "wants 3 channels and gets 1: a tensor of 4 x 1 x 28 x 28", "x.expand(-1, 3, ...)"),
        ((4, 28, 28, 3), "The channels are last.", "x.movedim(-1, 1)"),
    ],
)
def test_channels_of_a_convolution(script: str, shape: tuple[int, ...], said: str, step: str) -> None:
    failure = shape_failure(
        script,
        message="... expected input to have 3 channels, but got 1 channels instead",
        module=ModuleRef("conv", "Conv2d"),
        features=(3, 16),
        before=shape,
        input_shape=shape,
        tensors=(TensorFact("input", shape, "cpu", "argument"),),
    )
    [found] = findings(ShapeMismatch, failure=failure)
    assert said in found.message
    assert step in found.message


def test_no_failure_no_finding(script: str) -> None:
    assert findings(ShapeMismatch) == []
    assert findings(ShapeMismatch, failure=replace(shape_failure(script), kind="device")) == []


# ---- devices -----------------------------------------------------------------------------------


def device_failure(script: str, *tensors: tuple[str, str, str], inside: bool = True) -> Failure:
    return replace(
        shape_failure(script),
        kind="device",
        message="Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        inside=inside,
        tensors=tuple(TensorFact(name, (4, 8), device, role) for name, device, role in tensors),
    )


def test_batch_that_was_not_moved_is_placed_at_the_call(script: str) -> None:
    failure = device_failure(
        script,
        ("weight", "cuda:0", "parameter"),
        ("images", "cpu", "root argument"),
        ("weight", "cuda:0", "root parameter"),
    )
    [found] = findings(DeviceMismatch, failure=failure)
    assert found.location == failure.call
    assert "`images` (4 x 8) is on cpu, and the rest on cuda:0. Move `images` to cuda:0." in found.message
    assert found.remedies[0].slug == "to_device"


def test_tensor_made_in_forward_is_placed_where_it_is_used(script: str) -> None:
    failure = device_failure(
        script,
        ("x", "cpu", "local"),
        ("elsewhere", "cpu", "local"),
        ("images", "cuda:0", "root argument"),
        ("weight", "cuda:0", "root parameter"),
    )
    [found] = findings(DeviceMismatch, failure=failure)
    assert found.location == failure.location
    assert "`x` (4 x 8) is on cpu" in found.message
    assert "elsewhere" not in found.message


# ---- hidden parameters -------------------------------------------------------------------------


def hidden(script: str, **changes: object) -> HiddenParameters:
    made = HiddenParameters(
        root="Net",
        owner=ModuleRef("", "Net"),
        attribute="layers",
        container="list",
        holds="Linear",
        location=Location(script, line_of("def __init__"), "Net.__init__"),
        parameters=2,
        nbytes=288,
        device="cuda:0",
        root_device="cuda:0",
        got_gradient=True,
        in_optimizer=False,
        root_in_optimizer=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_hidden_parameters(script: str) -> None:
    [found] = findings(ParametersHiddenInContainer, hidden_parameters=(hidden(script),))
    assert found.location == Location(script, line_of("self.layers ="), "Net.__init__")
    assert (found.bytes, found.remedies[0].slug) == (288, "register_module")
    assert "`Net.layers`" in found.message
    assert "`nn.ModuleList`" in found.message


@pytest.mark.parametrize(
    "changes", [{"got_gradient": False}, {"in_optimizer": True}, {"root_in_optimizer": False}], ids=str
)
def test_hidden_on_purpose(script: str, changes: dict[str, bool]) -> None:
    assert findings(ParametersHiddenInContainer, hidden_parameters=(hidden(script, **changes),)) == []


def test_what_stayed_behind_is_said_once(script: str) -> None:
    stayed = hidden(script, device="cpu", got_gradient=False)
    failure = device_failure(
        script, ("weight", "cpu", "parameter"), ("weight", "cuda:0", "root parameter"), inside=False
    )
    [found] = findings(ParametersHiddenInContainer, hidden_parameters=(stayed,), failure=failure)
    assert "stayed on cpu when the model went to cuda:0" in found.message
    assert findings(DeviceMismatch, hidden_parameters=(stayed,), failure=failure) == []
