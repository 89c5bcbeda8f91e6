"""MP402: a run that ended because a layer got another size than it wants."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from memprof.detect.construction import layer_made_at
from memprof.detect.evidence import place, user_files
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location, ModuleRef
from memprof.record.run_info import Failure


class ShapeMismatch(Rule):
    """A layer got another number of features than it wants, and the run ended.

    ## What it detects
    The exception that ended the run says that two matrices cannot be multiplied, that a tensor cannot be viewed as
    wanted, that a convolution got another number of channels, or that a loss got more or fewer rows than targets.
    Typically the first linear layer after a convolutional stack was sized for images of another height and width,
    or is given them without being flattened.

    ## Why it costs memory
    It does not; it costs the run. The exception names two numbers and neither the layer nor where they come from.

    ## Evidence
    The frames of the exception: the module that raised, its sizes, the shape of its input, and, from the autograd
    graph, the shape that was flattened. A script that catches the exception and goes on is not reported.

    ## Remedy
    Give the layer the number of features it gets; or pool to a fixed size before it (`nn.AdaptiveAvgPool2d`), so
    that it no longer depends on the size of the input; or flatten, where that is what is missing.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 14 * 14, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(8, 3, 36, 36)).pow(2).mean()
    loss.backward()
    optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(14),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 14 * 14, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(8, 3, 36, 36)).pow(2).mean()
    loss.backward()
    optimizer.step()
    ```

    ## Not a problem when
    The script expects the exception and catches it.
    """

    code = "MP402"
    kind = Kind.ERROR

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        failure = model.run.failure
        if failure is not None and failure.kind == "shape":
            yield self._finding(model, failure)

    def _finding(self, model: MemoryModel, failure: Failure) -> Finding:
        text, remedies, where = _explain(model, failure)
        related = [("raised", failure.location), ("called", failure.call)]
        return self.finding(
            severity=Severity.ERROR,
            location=where,
            device=model.devices[0] if model.devices else "cpu",
            bytes=None,
            source=Source.MEASURED,
            message=f"{text} {_sentence(', or '.join(remedy.text for remedy in remedies))}",
            holder=None,
            remedies=remedies,
            related=tuple(RelatedLocation(role, at) for role, at in related if at is not None and at != where),
            evidence={
                "error": failure.message,
                "module": None if failure.module is None else failure.module.path,
                "features": None if failure.features is None else list(failure.features),
                "flattened_shape": list(failure.before),
                "input_shape": list(failure.input_shape),
            },
        )


_Explanation = tuple[str, tuple[Remedy, ...], "Location | None"]


def _explain(model: MemoryModel, failure: Failure) -> _Explanation:
    argument = next((fact for fact in failure.tensors if fact.role == "argument"), None)
    if failure.features is not None and failure.module is not None and argument is not None and argument.shape:
        explain = _convolution if failure.module.type_name.startswith(("Conv", "LazyConv")) else _linear
        return explain(model, failure, failure.features, argument.shape)
    rows = re.search(r"Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)", failure.message)
    if rows is not None:
        return _rows(failure, int(rows[1]), int(rows[2]))
    view = re.search(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)", failure.message)
    if view is not None:
        return _view(failure, [int(size) for size in view[1].split(",")], int(view[2]))
    text = f"The run ended at {place(failure.location)}: {failure.message}."
    return text, (Remedy("fix_shape", "make the two inner sizes equal"),), failure.location


def _linear(model: MemoryModel, failure: Failure, features: tuple[int, int], shape: tuple[int, ...]) -> _Explanation:
    assert failure.module is not None
    wants, gives = features
    gets = shape[-1]
    made = layer_made_at(failure.module, features, [*_files_of(failure), *user_files(model)])
    layer = _layer(failure.module)
    each = _each(shape, batched=len(shape) > 2)
    if len(shape) > 2 and math.prod(each) == wants:
        text = f"{layer} wants {wants} features and gets a tensor of {_by(shape)}, which is not flattened."
        flatten = "flatten it before the layer: `torch.flatten(x, 1)` or `nn.Flatten()`"
        in_sequence = failure.module.path.rpartition(".")[2].isdigit()
        where = made if made is not None and in_sequence else failure.location
        return text, (Remedy("fix_shape", flatten),), where
    text = f"{layer} wants {wants} features and gets {gets}{_origin(failure.before, gets)}{_input(failure)}."
    at = "" if made is None else f" at {place(made)}"
    remedies = [Remedy("fix_shape", f"write `nn.Linear({gets}, {gives})`{at}")]
    if pool := _pool(failure.before, wants):
        remedies.append(Remedy("fix_shape", f"pool to a fixed size before it: {pool}"))
    return text, tuple(remedies), made or failure.location


def _convolution(
    model: MemoryModel, failure: Failure, features: tuple[int, int], shape: tuple[int, ...]
) -> _Explanation:
    assert failure.module is not None
    wants, gives = features
    dimensions = int("".join(filter(str.isdigit, failure.module.type_name)) or 2)
    gets = shape[-dimensions - 1] if len(shape) > dimensions else shape[0]
    made = layer_made_at(failure.module, features, [*_files_of(failure), *user_files(model)])
    at = "" if made is None else f" at {place(made)}"
    remedies = [Remedy("fix_shape", f"write `nn.{failure.module.type_name}({gets}, {gives}, ...)`{at}")]
    text = (
        f"{_layer(failure.module)} wants {wants} channels and gets {gets}: a tensor of {_by(shape)}{_input(failure)}."
    )
    if shape[-1] == wants and len(shape) == dimensions + 2:
        channels_first = "bring the channels to the second place: `x.movedim(-1, 1)`"
        return (
            f"{text} The channels are last.",
            (Remedy("fix_shape", channels_first),),
            failure.call or failure.location,
        )
    if gets == 1:
        remedies.append(Remedy("fix_shape", f"repeat the one channel: `x.expand(-1, {wants}, ...)`"))
    return text, tuple(remedies), made or failure.location


def _layer(module: ModuleRef) -> str:
    return f"{module.type_name}{f' `{module.path}`' if module.path else ''}"


def _rows(failure: Failure, got: int, wanted: int) -> _Explanation:
    each = _each(failure.before)
    text = (
        f"The loss at {place(failure.location)} gets {got} rows for {wanted} targets: a reshape with a wrong number of "
        f"features has mixed samples{f'. Each sample has {math.prod(each)} of them ({_by(each)})' if each else ''}"
        f"{_input(failure)}."
    )
    size = math.prod(each) if each else "the right number of"
    return (
        text,
        (Remedy("fix_shape", f"reshape with `torch.flatten(x, 1)`, and give the layer after it {size} features"),),
        failure.location,
    )


def _view(failure: Failure, wanted: list[int], elements: int) -> _Explanation:
    each = _each(failure.before)
    size = math.prod(each)
    said = f"The reshape at {place(failure.location)} wants {_by(wanted)}"
    if samples := _samples(wanted, elements, size if each else None):
        text = f"{said}, and the batch has {samples} samples{_input(failure)}."
        remedy = f"write `x.size(0)` in place of {wanted[0]}, or leave out a smaller last batch (`drop_last=True`)"
    elif len(wanted) != 2:
        text = f"{said}, and the tensor has {elements} elements{f': {_by(failure.before)}' if each else ''}."
        remedy = "make sizes of the same product"
    else:
        text = f"{said}, and each sample has {size} elements ({_by(each)}){_input(failure)}." if each else f"{said}."
        features = size if each else "that number of"
        remedy = f"write `torch.flatten(x, 1)`, and give the layer after it {features} features"
    return text, (Remedy("fix_shape", remedy),), failure.location


def _samples(wanted: list[int], elements: int, size: int | None) -> int | None:
    """How many samples a tensor has, where that and no other size is what a reshape got wrong."""
    wants = math.prod(wanted[1:])
    if min(wanted) < 1 or elements % wants:
        return None
    right = elements % wanted[0] != 0 if size is None else size == wants
    return elements // wants if right else None


def _each(shape: tuple[int, ...], *, batched: bool = True) -> tuple[int, ...]:
    """Shape of one sample."""
    return shape[1:] if batched else shape


def _origin(before: tuple[int, ...], gets: int) -> str:
    each = _each(before)
    if len(each) < 2 or math.prod(each) != gets:
        return ""
    return f": {each[0]} channels of {_by(each[1:])}"


def _input(failure: Failure) -> str:
    return f", from an input of {_by(failure.input_shape)}" if len(failure.input_shape) > 2 else ""


def _pool(before: tuple[int, ...], wants: int) -> str:
    """The pooling after which a channel stack has as many features as the layer wants, or ''."""
    each = _each(before)
    if len(each) != 3 or wants % each[0]:
        return ""
    cells = wants // each[0]
    side = math.isqrt(cells)
    return f"`nn.AdaptiveAvgPool2d({side})`" if side * side == cells else ""


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _files_of(failure: Failure) -> list[str]:
    return [location.file for location in (failure.location, failure.call) if location is not None]
