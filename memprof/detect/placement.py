"""MP403 and MP404: parameters and tensors that are not where the rest of the model is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from memprof.detect.construction import attribute_made_at
from memprof.detect.evidence import counted, place, size
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Severity, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import line_text
from memprof.model.memory import MemoryModel, Source
from memprof.record.run_info import Failure, HiddenParameters, TensorFact

_REGISTERED = {"dict": ("nn.ModuleDict", "nn.ParameterDict")}


class ParametersHiddenInContainer(Rule):
    """Parameters lie in a plain Python container, where `parameters()` does not see them.

    ## What it detects
    Layers or parameters in a list, tuple, dict or set that is an attribute of a module. They take part in the
    forward and get gradients, and no optimizer has them.

    ## Why it costs memory
    They take memory for weights, activations and gradients, and are never trained: their gradients are not even
    freed, for `zero_grad()` does not see them either. `model.to(device)` leaves them where they are, and
    `state_dict()` leaves them out.

    ## Evidence
    The attributes of the root module and its submodules when it is called; a gradient on such a parameter after a
    backward, while an optimizer has the parameters that the module does know and none of these.

    ## Remedy
    `nn.ModuleList` or `nn.ModuleDict` for layers, `nn.ParameterList` or `nn.ParameterDict` for parameters.

    ## Example
    ```python
    import torch


    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [torch.nn.Linear(64, 64) for _ in range(3)]
            self.head = torch.nn.Linear(64, 1)

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x))
            return self.head(x)


    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(3))
            self.head = torch.nn.Linear(64, 1)

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x))
            return self.head(x)


    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The container hides on purpose what is trained elsewhere or not at all: an optimizer has those parameters, or no
    gradient ever reaches them. memprof does not report it then.
    """

    code = "MP403"
    kind = Kind.ERROR

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for hidden in model.run.hidden_parameters:
            left_behind = _left_behind(model.run.failure, hidden)
            trained = hidden.got_gradient and hidden.root_in_optimizer
            if not hidden.in_optimizer and (trained or left_behind):
                yield self._finding(model, hidden, left_behind)

    def _finding(self, model: MemoryModel, hidden: HiddenParameters, left_behind: bool) -> Finding:
        made = attribute_made_at(hidden.attribute, hidden.location) or hidden.location
        owner = f"{hidden.owner.type_name}.{hidden.attribute}"
        of_modules, of_parameters = _REGISTERED.get(hidden.container, ("nn.ModuleList", "nn.ParameterList"))
        instead = of_parameters if hidden.holds in ("Parameter", "Tensor") else of_modules
        effect = (
            f"they stayed on {hidden.device} when the model went to {hidden.root_device}, and the run ended"
            if left_behind
            else "they get gradients, and no optimizer steps them or frees these"
        )
        failure = model.run.failure if left_behind else None
        return self.finding(
            severity=Severity.ERROR,
            location=made,
            device=hidden.device,
            bytes=hidden.nbytes,
            source=Source.MEASURED,
            message=(
                f"{counted(hidden.parameters, 'parameter')} ({size(hidden.nbytes)}) of {hidden.holds} are in the "
                f"plain {hidden.container} `{owner}` made at {place(made)}, where `parameters()` does not see them: "
                f"{effect}. Make it an `{instead}`."
            ),
            holder=f"{hidden.container} `{owner}`",
            remedies=(Remedy("register_module", f"make `{owner}` an `{instead}`"),),
            related=()
            if failure is None or failure.location is None
            else (RelatedLocation("raised", failure.location),),
            evidence={
                "parameters": hidden.parameters,
                "parameter_bytes": hidden.nbytes,
                "got_gradient": hidden.got_gradient,
                "left_on": hidden.device if left_behind else None,
            },
        )


class DeviceMismatch(Rule):
    """Tensors on different devices met in one operation, and the run ended.

    ## What it detects
    The exception that ended the run says that tensors are not on the same device: a batch that was not moved, a
    tensor that `forward` makes on the CPU, a layer or a loss weight that was left behind.

    ## Why it costs memory
    It does not; it costs the run. The exception names two devices, not which tensor is on which.

    ## Evidence
    The frames of the exception: the arguments and parameters of the module that raised, the variables on the line
    that raised, the arguments of the root module and where its parameters are. A script that catches the exception
    and goes on is not reported.

    ## Remedy
    `.to(device)` for what is named, where it is made; buffers (`register_buffer`) for constants of a module, which
    move with it.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        batch = torch.randn(8, 64)
        model(batch).sum().backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        batch = torch.randn(8, 64).to("cuda")
        model(batch).sum().backward()
        optimizer.step()
    ```

    ## Not a problem when
    The script expects the exception and catches it.
    """

    code = "MP404"
    kind = Kind.ERROR
    needs_cuda = True

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        failure = model.run.failure
        if failure is None or failure.kind != "device":
            return
        if any(_left_behind(failure, hidden) for hidden in model.run.hidden_parameters):
            return  # MP403 says it
        yield self._finding(failure)

    def _finding(self, failure: Failure) -> Finding:
        home = _home(failure)
        given = [fact for fact in failure.tensors if fact.role == "root argument" and fact.device != home]
        # What was passed to the model is to be moved where the model is called; anything else where it is used.
        at_call = bool(given) and failure.call is not None
        where = failure.call if at_call else failure.location
        astray = _unique(given if at_call else [fact for fact in _on_the_line(failure) if fact.device != home])
        named = ", ".join(f"`{fact.name}` ({_sizes(fact)}) is on {fact.device}" for fact in astray[:4])
        module = failure.module
        in_module = f" in {module.type_name}{f' `{module.path}`' if module.path else ''}" if module is not None else ""
        devices = sorted({fact.device for fact in failure.tensors}) or re.findall(r"cuda:\d+|cpu|meta", failure.message)
        step = (
            f"Move {', '.join(f'`{fact.name}`' for fact in astray[:4])} to {home}"
            if astray
            else "Move them to one device"
        )
        what = f"{named}, and the rest on {home}" if astray else f"tensors are on {' and '.join(devices)}"
        return self.finding(
            severity=Severity.ERROR,
            location=where,
            device=astray[0].device if astray else home,
            bytes=None,
            source=Source.MEASURED,
            message=f"Tensors on different devices met at {place(failure.location)}{in_module}: {what}. {step}.",
            holder=None,
            remedies=(Remedy("to_device", f"{step[0].lower()}{step[1:]}: `.to(...)` at {place(where)}"),),
            related=()
            if failure.location is None or failure.location == where
            else (RelatedLocation("raised", failure.location),),
            evidence={
                "error": failure.message,
                "model_device": home,
                "tensors": [[fact.name, list(fact.shape), fact.device, fact.role] for fact in failure.tensors],
            },
        )


def _left_behind(failure: Failure | None, hidden: HiddenParameters) -> bool:
    """Whether the run ended in a layer that did not move with its model because the model does not know it."""
    if failure is None or failure.kind != "device" or hidden.device == hidden.root_device:
        return False
    on_its_device = {fact.device for fact in failure.tensors if fact.role in ("parameter", "local")}
    return hidden.device in on_its_device and (not failure.inside or hidden.holds == "Parameter")


def _home(failure: Failure) -> str:
    """Where things belong: on the device of the model, else on the accelerator."""
    parameter = next((fact.device for fact in failure.tensors if fact.role == "root parameter"), None)
    if parameter is not None:
        return parameter
    others = [fact.device for fact in failure.tensors if fact.device != "cpu"]
    return others[0] if others else "cpu"


def _on_the_line(failure: Failure) -> list[TensorFact]:
    """What the failing line names, and what the module that raised was given and has."""
    words = set(re.findall(r"\w+", line_text(failure.location))) if failure.location is not None else set()
    near = [fact for fact in failure.tensors if fact.role == "local" and fact.name in words]
    return [*near, *(fact for fact in failure.tensors if fact.role in ("argument", "parameter"))]


def _unique(facts: list[TensorFact]) -> list[TensorFact]:
    return list({(fact.name, fact.shape): fact for fact in facts}.values())


def _sizes(fact: TensorFact) -> str:
    return " x ".join(map(str, fact.shape)) or "scalar"
