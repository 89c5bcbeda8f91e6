"""MP102 and MP103: tensors that pile up in a container."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memprof.detect.evidence import (
    KIB,
    MIN_ITERATIONS,
    counted,
    device_of,
    growth_severity,
    holder_text,
    iteration_of_ticks,
    line_growing,
    main_peak,
    place,
    related,
    size,
    user_files,
)
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import storing_statement
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import HeldGroup, Holder

_MAX_IN_FLIGHT = 4
"""Tensors of so many iterations may be arguments of a call that is being made, which nothing can name."""


@dataclass(slots=True)
class _Pile:
    """What one holder kept at its last census, all lines that feed it together."""

    holder: Holder
    groups: list[HeldGroup]
    iterations: set[int]

    @property
    def main(self) -> HeldGroup:
        return max(self.groups, key=lambda group: group.nbytes + group.graph_bytes)

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for group in self.groups)

    @property
    def graph_bytes(self) -> int:
        return sum(group.graph_bytes for group in self.groups)

    @property
    def storages(self) -> tuple[int, ...]:
        return tuple(storage for group in self.groups for storage in group.storages + group.graph_storages)

    @property
    def per_iteration(self) -> float:
        return (self.nbytes + self.graph_bytes) / max(len(self.iterations), 1)


def _piles(model: MemoryModel, *, with_graph: bool) -> Iterator[_Pile]:
    """Piles made in at least three iterations, each as its last census saw it."""
    iterations = iteration_of_ticks(model)
    graphs_known = any(
        census.roots or any(group.has_graph and group.holder.kind != "unknown" for group in census.groups)
        for census in model.censuses
    )
    latest: dict[tuple[str, str, str], _Pile] = {}
    for census in model.censuses:
        piles: dict[tuple[str, str, str], _Pile] = {}
        for group in census.groups:
            if group.has_graph != with_graph or (graphs_known and group.holder.kind == "unknown"):
                continue  # what nobody in Python holds is part of a graph that somebody does
            made_in = {iterations[tick] for tick in group.birth_ticks if tick in iterations}
            made_in.discard(iterations.get(census.tick, -1))
            where = "" if group.holder.name else repr(group.location)
            key = (group.holder.name.partition("[")[0], group.holder.owner, where)
            pile = piles.setdefault(key, _Pile(group.holder, [], set()))
            pile.groups.append(group)
            pile.iterations |= made_in
        for key, pile in piles.items():
            known = latest.get(key)
            if known is None or len(pile.iterations) >= len(known.iterations):
                latest[key] = pile
    yield from latest.values()


def _without_aliases(findings: Iterable[tuple[int, Finding]]) -> Iterable[Finding]:
    """Of findings about the same tensors (a list known by two names, a slice of it) keep the fullest.

    Args:
        findings: Each with the number of tensors in its container.
    """
    best: dict[object, tuple[int, Finding]] = {}
    for size_now, finding in sorted(findings, key=lambda item: (item[0], item[1].bytes or 0)):
        made = next((item.location for item in finding.related if item.role == "allocated"), None)
        best[made] = (size_now, finding)
    by_line = {finding.location: finding for _, finding in sorted(best.values(), key=lambda item: item[1].bytes or 0)}
    return by_line.values()


def _is_held(pile: _Pile) -> bool:
    """Whether a holder is known, or the tensors stay for longer than a call in progress could keep them."""
    return pile.holder.kind != "unknown" or len(pile.iterations) > _MAX_IN_FLIGHT


def _noun(pile: _Pile) -> str:
    return f"tensors of shape {list(pile.main.shape)}" if pile.main.shape else "scalars"


class OutputsKeptWithGraph(Rule):
    """Tensors pile up in a container together with the graphs that made them.

    ## What it detects
    Losses, outputs or features appended to a list, dictionary, queue or attribute while they still
    have a `grad_fn` (`history.append(loss)`).

    ## Why it costs memory
    Each entry keeps its own storage and its graph. After `backward()` the graph is an empty chain of
    nodes; without it (validation, hooks, targets) it keeps every activation of that forward.

    ## Evidence
    Tensors with a `grad_fn`, made by the same line in several iterations, are alive at the end of a
    later one. The graphs behind them are walked; the container is found through the garbage collector.

    ## Remedy
    Keep a number (`loss.item()`), or a copy without history on the host (`out.detach().cpu()`).

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss)
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    ```

    ## Not a problem when
    The container is emptied by the backward of the same iteration (a list of losses that is summed and
    back-propagated), or is a bounded buffer such as `deque(maxlen=10)`.
    """

    code = "MP102"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        findings = []
        files = user_files(model)
        for pile in _piles(model, with_graph=True):
            if pile.holder.bounded or not _is_held(pile):
                continue
            if len(pile.iterations) < MIN_ITERATIONS - 1:
                yield Skipped(
                    self.code, f"{pile.holder.text} keeps graphs of {counted(len(pile.iterations), 'iteration')} only"
                )
                continue
            findings.append((pile.holder.size or 0, self._finding(model, pile, files)))
        yield from _without_aliases(findings)

    def _finding(self, model: MemoryModel, pile: _Pile, files: list[str]) -> Finding:
        main = pile.main
        stored = storing_statement(pile.holder, main.location, files) or main.location
        holder = holder_text(pile.holder, stored)
        device = device_of(model, main.storages[0] if main.storages else None)
        growth = pile.per_iteration
        nodes = sum(group.graph_nodes for group in pile.groups) / max(len(pile.iterations), 1)
        severity = growth_severity(model, device, growth)
        scalar = not main.shape or main.shape == (1,)
        saved = (
            f"{size(growth)} an iteration stay on {device} with the activations behind them"
            if pile.graph_bytes
            else f"{size(growth)} an iteration stay on {device}, and {nodes:.0f} autograd nodes in host memory "
            f"(backward has freed the activations)"
        )
        remedies = [
            Remedy("detach", f"store a copy without history at {place(stored)}: `.detach()`", frees=_graph_only(pile)),
            Remedy("move_to_cpu", f"store it on the host at {place(stored)}: `.detach().cpu()`", frees=pile.storages),
        ]
        if scalar:
            remedies.insert(0, Remedy("item", f"store a number at {place(stored)}: `.item()`", frees=pile.storages))
        step = "`.item()`" if scalar else "`.detach().cpu()`"
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=severity,
            location=stored,
            device=device,
            bytes=pile.nbytes + pile.graph_bytes,
            bytes_per_iteration=growth,
            source=Source.MEASURED,
            message=(
                f"{_noun(pile).capitalize()} made at {place(main.location)} pile up with their autograd graph: "
                f"{saved}. "
                f"Held by {holder}. Store {step} at {place(stored)} instead."
            ),
            holder=holder,
            remedies=tuple(remedies),
            related=related(main.location, stored),
            evidence={
                "tensors": sum(len(group.storages) for group in pile.groups),
                "from_iterations": len(pile.iterations),
                "tensor_bytes": pile.nbytes,
                "graph_bytes": pile.graph_bytes,
                "graph_nodes": sum(group.graph_nodes for group in pile.groups),
                "shape": list(main.shape),
                "op": main.op,
            },
        )


class TensorsKeptInContainer(Rule):
    """Tensors without a graph pile up on the device, iteration by iteration.

    ## What it detects
    Detached outputs, features, states or copies of weights that go into a container in every iteration
    and never leave it.

    ## Why it costs memory
    Each entry keeps its storage on the device; a view keeps the whole storage it looks into. The
    container grows for as long as the program runs.

    ## Evidence
    Storages made by the same line in several iterations are alive at the end of a later one and are
    still alive when the loop ends; the container is found through the garbage collector.

    ## Remedy
    Reduce before storing (a number, an argmax), move to the host (`.cpu()`), or bound the container
    (`deque(maxlen=...)`, clear it each epoch).

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = []
    for _ in range(8):
        out = model(torch.randn(64, 64))
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        outputs.append(out.detach())
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    means = []
    for _ in range(8):
        out = model(torch.randn(64, 64))
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        means.append(out.mean().item())
    ```

    ## Not a problem when
    The container has a bound (`deque(maxlen=100)`, a replay buffer of fixed size), is emptied during
    the run, or the data is meant to be collected and fits.
    """

    code = "MP103"
    kind = Kind.LEAK
    _MIN_GROWTH = 4 * KIB
    _SHARE_THAT_MATTERS = 0.2

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        findings = []
        files = user_files(model)
        for pile in _piles(model, with_graph=False):
            if pile.per_iteration < self._MIN_GROWTH or not pile.main.storages:
                continue
            if pile.holder.bounded or not _is_held(pile):
                continue
            if not pile.holder.container and not line_growing(model, pile.main.location):
                continue
            if len(pile.iterations) < MIN_ITERATIONS - 1:
                yield Skipped(
                    self.code, f"{pile.holder.text} keeps tensors of {counted(len(pile.iterations), 'iteration')} only"
                )
                continue
            if _emptied(model, pile) and not self._matters(model, pile):
                yield Skipped(self.code, f"{pile.holder.text} is emptied during the run")
                continue
            findings.append((pile.holder.size or 0, self._finding(model, pile, files)))
        yield from _without_aliases(findings)

    def _matters(self, model: MemoryModel, pile: _Pile) -> bool:
        """Whether a container that is emptied now and then has a large share of the peak before it is."""
        peak = main_peak(model, device_of(model, pile.main.storages[0]))
        stored = (model.storages[storage] for storage in pile.main.storages if storage in model.storages)
        kept_for = max(
            (item.death_iteration - item.birth_iteration + 1)
            for item in stored
            if item.death_iteration is not None and item.birth_iteration is not None
        )
        return peak is not None and pile.per_iteration * kept_for >= self._SHARE_THAT_MATTERS * peak.allocated_bytes

    def _finding(self, model: MemoryModel, pile: _Pile, files: list[str]) -> Finding:
        main = pile.main
        stored = storing_statement(pile.holder, main.location, files) or main.location
        holder = holder_text(pile.holder, stored)
        device = device_of(model, main.storages[0])
        growth = pile.per_iteration
        host = device == "cpu"
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=growth_severity(model, device, growth),
            location=stored,
            device=device,
            bytes=pile.nbytes,
            bytes_per_iteration=growth,
            source=Source.MEASURED,
            message=(
                f"{_noun(pile).capitalize()} made at {place(main.location)} pile up on {device}: {size(growth)} an "
                f"iteration. Held by {holder}. Reduce them before storing at {place(stored)}, "
                f"{'bound the container' if host else 'move them to the host'}, or empty it each epoch."
            ),
            holder=holder,
            remedies=(
                Remedy("move_to_cpu", f"store them on the host at {place(stored)}: `.cpu()`", frees=pile.storages),
                Remedy("bound_container", "bound it: `deque(maxlen=...)`, or clear it each epoch", frees=pile.storages),
                Remedy("del", "drop the tensors once they are used", frees=pile.storages),
            ),
            related=related(main.location, stored),
            evidence={
                "tensors": sum(len(group.storages) for group in pile.groups),
                "from_iterations": len(pile.iterations),
                "tensor_bytes": pile.nbytes,
                "shape": list(main.shape),
                "op": main.op,
            },
        )


def _graph_only(pile: _Pile) -> tuple[int, ...]:
    return tuple(storage for group in pile.groups for storage in group.graph_storages)


def _emptied(model: MemoryModel, pile: _Pile) -> bool:
    """Whether most of the pile was freed while iterations of its kind went on."""
    stored = [
        model.storages[storage] for group in pile.groups for storage in group.storages if storage in model.storages
    ]
    freed = [storage for storage in stored if storage.death_iteration is not None]
    if len(freed) * 2 < len(stored) or not freed:
        return False
    last_freed = max(storage.death_iteration or 0 for storage in freed)
    kinds = {model.iterations[index].kind for index in pile.iterations}
    return any(iteration.index > last_freed for iteration in model.iterations if iteration.kind in kinds)
