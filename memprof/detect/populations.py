"""MP114 and MP115: optimizers and models that get larger with every iteration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

from memprof.detect.evidence import growth_severity, iteration_of_ticks, place, size, user_files
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import storing_statement
from memprof.detect.surroundings import growing_calls
from memprof.model.memory import MemoryModel, Source
from memprof.model.slope import theil_sen
from memprof.record.census import Holder, Population
from memprof.record.events import Location, Role

_MIN_STEPS = 3
_MIN_ADJACENT = 2
_ADJACENT = 2
"""So many times it must have grown from one iteration to the next, or to the next but one (a sample may take two
steps): what grows once an epoch is meant to."""

Series = list[tuple[int, Population]]


def growing(model: MemoryModel, kind: str, count: Callable[[Population], int]) -> list[Series]:
    """Things that have more parameters after every iteration.

    Args:
        model: The run.
        kind: See `Population.kind`.
        count: What of them should stay as it is.

    Returns:
        For each the iterations and sizes it was seen with, oldest first.
    """
    iterations = iteration_of_ticks(model)
    series: dict[int, Series] = {}
    for census in model.censuses:
        for item in census.populations:
            if item.kind == kind and item.tick in iterations:
                seen = series.setdefault(item.number, [])
                if not seen or count(seen[-1][1]) != count(item):
                    seen.append((iterations[item.tick], item))
    found = []
    for seen in series.values():
        steps = [(there - here, count(after) - count(before)) for (here, before), (there, after) in pairwise(seen)]
        adjacent = sum(apart <= _ADJACENT and more > 0 for apart, more in steps)
        if len(steps) >= _MIN_STEPS and adjacent >= _MIN_ADJACENT and all(more > 0 for _, more in steps):
            found.append(seen)
    return found


def _slope(seen: Series) -> float:
    return theil_sen([iteration for iteration, _ in seen], [item.nbytes for _, item in seen])


class OptimizerGrows(Rule):
    """An optimizer gets more parameters, or more state, with every iteration; or there are more optimizers.

    ## What it detects
    `optimizer.add_param_group(...)` inside the loop, parameters that are replaced while the optimizer keeps the state
    of the old ones, and new optimizers that are kept beside the old.

    ## Why it costs memory
    The optimizer holds every parameter it was ever given, its gradient, and its state: with Adam three times the
    parameter. What was replaced in the model stays alive through the optimizer.

    ## Evidence
    Parameters in the groups, entries of `optimizer.state`, or optimizers that are alive are counted at the ends of
    iterations, and grew from one iteration to the next, again and again, while the model did not.

    ## Remedy
    Build the optimizer once. To change a parameter write into it (`p.data.copy_(new)`) or build a new optimizer and
    drop the old one.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(24):
        offset = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer.add_param_group({"params": [offset]})
        loss = (model(torch.randn(64, 64)) + offset).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    offset = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = torch.optim.Adam([*model.parameters(), offset], lr=0.1)
    for step in range(24):
        loss = (model(torch.randn(64, 64)) + offset).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    Layers are unfrozen or added now and then (each epoch, each task): memprof asks for growth from one iteration to the
    next, or to the next but one.
    """

    code = "MP114"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        if growing(model, "module", lambda item: item.parameters):
            return  # the optimizer follows the model, and that is the problem
        best: dict[Location | None, Finding] = {}
        for kind, count, what in (
            ("optimizer", lambda item: item.parameters, "parameters in its groups"),
            ("optimizer", lambda item: item.states, "parameters with state"),
            ("optimizers", lambda item: item.groups, "optimizers alive"),
        ):
            for seen in growing(model, kind, count):
                finding = self._finding(model, seen, count, what)
                best.setdefault(finding.location, finding)
        yield from best.values()

    def _finding(self, model: MemoryModel, seen: Series, count: Callable[[Population], int], what: str) -> Finding:
        (first, before), (last, after) = seen[0], seen[-1]
        device = next((name for name in model.devices if name != "cpu"), "cpu")
        files = user_files(model)
        if after.kind == "optimizers":
            calls = growing_calls(files, (after.name,))
            subject, holder = "More and more optimizers are alive", f"{after.groups} optimizers"
        else:
            calls = growing_calls(files, ("add_param_group",))
            subject, holder = f"The `{after.name}` optimizer grows with every iteration", f"optimizer `{after.name}`"
        where = calls[0] if calls else _replaced(files)
        return self.finding(
            severity=growth_severity(model, device, _slope(seen)),
            location=where,
            device=device,
            bytes=after.nbytes - before.nbytes,
            bytes_per_iteration=_slope(seen),
            source=Source.MEASURED,
            message=(
                f"{subject}: {count(before)} {what} after iteration {first}, {count(after)} after iteration {last}; "
                f"{size(max(_slope(seen), 0))} an iteration stay on {device}. Held by {holder}. Build it once, outside "
                f"the loop around {place(where)}."
            ),
            holder=holder,
            remedies=(
                Remedy("build_once", f"build the optimizer and its groups once, not in every turn at {place(where)}"),
                Remedy("del", "drop the old optimizer before a new one is built"),
            ),
            evidence={"first": count(before), "last": count(after), "what": what, "iterations": last - first},
        )


def _replaced(files: list[str]) -> Location | None:
    """The statement that writes into `param_groups`."""
    return storing_statement(Holder(kind="attribute", text="", name="param_groups"), None, files)


class ModulesGrow(Rule):
    """A model gets more layers or parameters with every iteration.

    ## What it detects
    `self.layers.append(torch.nn.Linear(...))`, `model.add_module(...)`, `register_buffer` with a new name or a new
    attribute with a module in it, in `forward` or in the training loop.

    ## Why it costs memory
    Every parameter stays with the model, and with it its gradient and the optimizer's state. A layer that was made in
    `forward` is new each time: it is also never trained.

    ## Evidence
    Submodules and parameters of the root modules are counted at the ends of iterations, and grew from one iteration
    to the next, again and again.

    ## Remedy
    Make layers once, in `__init__`, and use them in `forward`.

    ## Example
    ```python
    import torch


    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Linear(64, 64)
            self.heads = torch.nn.ModuleList()

        def forward(self, x):
            self.heads.append(torch.nn.Linear(64, 64))
            return self.heads[-1](self.body(x))


    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(24):
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
            self.body = torch.nn.Linear(64, 64)
            self.head = torch.nn.Linear(64, 64)

        def forward(self, x):
            return self.head(self.body(x))


    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(24):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    Layers are made on first use (lazy modules), or added now and then by design (progressive growing, a head for each
    task).
    """

    code = "MP115"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        found = growing(model, "module", lambda item: item.parameters + item.groups)
        if found:
            yield self._finding(model, max(found, key=_slope))

    def _finding(self, model: MemoryModel, seen: Series) -> Finding:
        (first, before), (last, after) = seen[0], seen[-1]
        made: Counter[Location] = Counter()
        device = "cpu"
        for storage in model.storages.values():
            if (
                storage.role & (Role.PARAMETER | Role.BUFFER)
                and storage.birth_iteration
                and storage.location is not None
            ):
                made[storage.location] += storage.nbytes
                device = storage.device
        where = made.most_common(1)[0][0] if made else None
        holder = f"model `{after.name}`"
        return self.finding(
            severity=growth_severity(model, device, _slope(seen)),
            location=where,
            device=device,
            bytes=after.nbytes - before.nbytes,
            bytes_per_iteration=_slope(seen),
            source=Source.MEASURED,
            message=(
                f"`{after.name}` grows with every iteration: {before.parameters} parameters in {before.groups} "
                f"modules after "
                f"iteration {first}, {after.parameters} in {after.groups} after iteration {last}; "
                f"{size(max(_slope(seen), 0))} an iteration stay on {device}, and as much again for gradients "
                f"and optimizer "
                f"state. Held by {holder}. Make the layers once, in `__init__`, not at {place(where)}."
            ),
            holder=holder,
            remedies=(Remedy("build_once", f"make the layer once, in `__init__`, not at {place(where)}"),),
            evidence={
                "first_parameters": before.parameters,
                "last_parameters": after.parameters,
                "first_modules": before.groups,
                "last_modules": after.groups,
                "iterations": last - first,
            },
        )
