"""MP1xx: memory that iterations leave behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

from memprof.detect.evidence import (
    KIB,
    counted,
    growth_severity,
    holder_text,
    iteration_of_ticks,
    line_growing,
    main_peak,
    place,
    size,
    user_files,
)
from memprof.detect.finding import Finding, Kind, RelatedLocation, Remedy, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import storing_statement
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import GraphRoot, HeldGroup, Holder, Location

_MIN_ITERATIONS = 3
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(slots=True)
class _Chain:
    """One graph root seen in several censuses, oldest first."""

    sightings: list[tuple[int, GraphRoot]] = field(default_factory=list)
    """(iteration, root)."""

    @property
    def last(self) -> GraphRoot:
        return self.sightings[-1][1]

    def per_iteration(self, values: list[int]) -> float:
        """Growth of a figure per iteration between censuses."""
        steps = [
            (after - before) / (there - here)
            for (here, _), (there, _), before, after in zip(
                self.sightings, self.sightings[1:], values, values[1:], strict=False
            )
            if there > here
        ]
        return float(median(steps)) if steps else 0.0


def _chains(model: MemoryModel) -> list[_Chain]:
    """Graph roots that reach from one iteration into an earlier one, by what holds them."""
    iterations = iteration_of_ticks(model)
    ordinal = _ordinals(model)
    chains: dict[tuple[str, str, Location | None], _Chain] = defaultdict(_Chain)
    for census in model.censuses:
        here, before = iterations.get(census.tick), iterations.get(census.since_tick)
        if here is None or here == before:
            continue  # ticks of one iteration: the graph is built across them on purpose
        for root in census.roots:
            chains[root.holder.name, root.holder.owner, root.location].sightings.append((ordinal[here], root))
    return [chain for chain in chains.values() if chain.sightings]


def _ordinals(model: MemoryModel) -> dict[int, int]:
    """Index of an iteration -> its place among iterations of its kind."""
    seen: dict[str, int] = defaultdict(int)
    result = {}
    for iteration in model.iterations:
        result[iteration.index] = seen[iteration.kind]
        seen[iteration.kind] += 1
    return result


def _is_hidden_state(root: GraphRoot, model: MemoryModel) -> bool:
    """Whether the linking tensor is a state that goes back into a module, not a running sum."""
    if root.carried:
        return True
    storage = model.storages.get(root.storage) if root.storage is not None else None
    module = storage.module.type_name if storage is not None and storage.module is not None else ""
    return root.in_forward and (any(name in module for name in _RECURRENT) or len(root.shape) > 1)


def _related(made: Location | None, stored: Location | None) -> tuple[RelatedLocation, ...]:
    pairs = (("allocated", made), ("held", stored))
    return tuple(RelatedLocation(role, where) for role, where in pairs if where is not None)


class GraphGrowsAcrossIterations(Rule):
    """A tensor carries its autograd graph from one iteration to the next, so the graph only grows.

    ## What it detects
    A running total, average or state that is updated from tensors with a `grad_fn`
    (`total_loss += loss`), in a variable, an attribute, a dictionary or a meter object. Each update
    links the new graph to the old one.

    ## Why it costs memory
    If `backward()` ran on the loss, its saved activations are gone and what stays are autograd nodes:
    host memory and a slow clean-up, but hardly any device memory. If no backward runs (validation, a
    loss that is only logged), every activation saved for it stays as long as the total does. The
    finding says which of the two it is.

    ## Evidence
    At the end of an iteration the tensor's graph contains the very node that its own line made one
    iteration earlier. Nodes, and bytes saved for backward, are counted by walking the graph.

    ## Remedy
    Add a number: `total_loss += loss.item()`. Where a tensor is needed, add `loss.detach()`.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total_loss = 0
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total_loss = 0.0
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    ```

    ## Not a problem when
    The sum is built within one iteration and `backward()` is called on it (several losses, a sequence
    unrolled step by step): memprof sees which backward uses a graph and does not report that.
    """

    code = "MP101"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        files = user_files(model)
        for chain in _chains(model):
            root = chain.last
            if _is_hidden_state(root, model):
                continue
            nodes = chain.per_iteration([item.nodes for _, item in chain.sightings])
            if len(chain.sightings) < 2 or (nodes <= 0 and not root.truncated):
                if len(chain.sightings) < 2:
                    yield Skipped(
                        self.code,
                        f"{root.holder.text} links two iterations, but not enough iterations were watched to "
                        f"call it growth; run at least {_MIN_ITERATIONS + 1}",
                    )
                continue
            yield self._finding(model, chain, nodes, files)

    def _finding(self, model: MemoryModel, chain: _Chain, nodes: float, files: list[str]) -> Finding:
        root = chain.last
        saved = max(chain.per_iteration([item.saved_bytes for _, item in chain.sightings]), 0.0)
        stored = storing_statement(root.holder, root.location, files) or root.location
        holder = holder_text(root.holder, stored)
        device = _device(model, root.storage)
        subject = f"`{root.holder.name}`" if root.holder.name else "a tensor"
        if saved >= KIB:
            cost = f"{size(saved)} of saved activations an iteration stay on {device}, because no backward frees them"
        else:
            cost = f"{nodes:.0f} autograd nodes an iteration stay in host memory; device memory hardly grows"
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=growth_severity(model, device, saved),
            location=stored,
            device=device,
            bytes=root.saved_bytes,
            bytes_per_iteration=saved,
            source=Source.MEASURED,
            message=(
                f"{subject} keeps the autograd graph of every iteration: {cost}. {place(stored)} links each "
                f"iteration to the last; held by {holder}. Add `.item()` (or `.detach()`) to what is added there."
            ),
            holder=holder,
            remedies=(
                Remedy("item", f"add a number instead of a tensor at {place(stored)}: `.item()`"),
                Remedy("detach", f"where a tensor is needed, add `.detach()` at {place(stored)}"),
            ),
            related=_related(root.location, stored),
            evidence={
                "nodes": root.nodes,
                "nodes_per_iteration": round(nodes, 1),
                "nodes_are_lower_bound": root.truncated,
                "saved_bytes": root.saved_bytes,
                "grad_fn": root.grad_fn,
                "censuses": len(chain.sightings),
            },
        )


class HiddenStateCarriedWithGraph(Rule):
    """A recurrent state is handed to the next iteration together with its autograd graph.

    ## What it detects
    A tensor that a module returned in one iteration goes into a module in the next with its `grad_fn`
    (`out, hidden = model(x, hidden)`), or is kept by the module itself.

    ## Why it costs memory
    Every iteration's graph hangs on the one before. Backward goes through all of them: memory and time
    per iteration grow until the device is full. It usually comes with `retain_graph=True`, which was
    added to silence "Trying to backward through the graph a second time".

    ## Evidence
    A root module was called with a tensor whose graph was made in an earlier iteration, and the graph
    behind the new state contains that of the old one.

    ## Remedy
    Cut the graph between iterations: `hidden = hidden.detach()` (for an LSTM
    `tuple(h.detach() for h in hidden)`) and drop `retain_graph=True`. Gradients then flow through one
    chunk: truncated back-propagation through time.

    ## Example
    ```python
    import torch

    rnn = torch.nn.LSTM(16, 32)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    hidden = None
    for _ in range(8):
        out, hidden = rnn(torch.randn(10, 4, 16), hidden)
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
    ```

    ## Use instead
    ```python
    import torch

    rnn = torch.nn.LSTM(16, 32)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    hidden = None
    for _ in range(8):
        out, hidden = rnn(torch.randn(10, 4, 16), hidden)
        hidden = tuple(h.detach() for h in hidden)
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The state is carried within one iteration (a cell called once for each token, then one backward).
    """

    code = "MP104"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        found: dict[Location | None, Finding] = {}
        for chain in _chains(model):
            root = chain.last
            if not _is_hidden_state(root, model):
                continue
            if len(chain.sightings) < 2:
                yield Skipped(
                    self.code,
                    f"a state with its graph goes from one iteration to the next at {place(root.call)}, but not "
                    f"enough iterations were watched to call it growth; run at least {_MIN_ITERATIONS + 1}",
                )
                continue
            finding = self._finding(model, chain)
            known = found.get(finding.location)
            if known is None or (finding.bytes or 0) > (known.bytes or 0):
                found[finding.location] = finding
        yield from found.values()

    def _finding(self, model: MemoryModel, chain: _Chain) -> Finding:
        root = chain.last
        saved = max(chain.per_iteration([item.saved_bytes for _, item in chain.sightings]), 0.0)
        nodes = chain.per_iteration([item.nodes for _, item in chain.sightings])
        where = root.call or storing_statement(root.holder, root.location, user_files(model)) or root.location
        device = _device(model, root.storage)
        holder = holder_text(root.holder, where)
        name = root.holder.name.partition("[")[0] or "hidden"
        growth = f"{size(saved)} of saved activations" if saved >= KIB else f"{nodes:.0f} autograd nodes"
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=growth_severity(model, device, saved),
            location=where,
            device=device,
            bytes=root.saved_bytes,
            bytes_per_iteration=saved,
            source=Source.MEASURED,
            message=(
                f"`{name}` enters each iteration with the graph of all earlier ones: {growth} an iteration stay on "
                f"{device}, and backward gets longer each time. It is passed on at {place(where)}; held by {holder}. "
                f"Detach it between iterations and drop `retain_graph=True`."
            ),
            holder=holder,
            remedies=(
                Remedy("detach", f"cut the graph before {place(where)}: `{name} = {name}.detach()`"),
                Remedy("truncate_bptt", "back-propagate through one chunk only: detach the state at each chunk's end"),
                Remedy("remove_retain_graph", "drop `retain_graph=True`; with a detached state it is not needed"),
            ),
            related=_related(root.location, where),
            evidence={
                "nodes": root.nodes,
                "nodes_per_iteration": round(nodes, 1),
                "saved_bytes": root.saved_bytes,
                "passed_to_a_module": root.carried,
                "censuses": len(chain.sightings),
            },
        )


# ---- containers ------------------------------------------------------------------------------


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
            if pile.holder.bounded:
                continue
            if len(pile.iterations) < _MIN_ITERATIONS - 1:
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
        device = _device(model, main.storages[0] if main.storages else None)
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
                f"{_noun(pile).capitalize()} made at {place(main.location)} pile up with their autograd graph: {saved}. "
                f"Held by {holder}. Store {step} at {place(stored)} instead."
            ),
            holder=holder,
            remedies=tuple(remedies),
            related=_related(main.location, stored),
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
    _SHARE_THAT_MATTERS = 0.1

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        findings = []
        files = user_files(model)
        for pile in _piles(model, with_graph=False):
            if pile.holder.bounded or pile.per_iteration < self._MIN_GROWTH or not pile.main.storages:
                continue
            if not pile.holder.container and not line_growing(model, pile.main.location):
                continue
            if len(pile.iterations) < _MIN_ITERATIONS - 1:
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
        peak = main_peak(model, _device(model, pile.main.storages[0]))
        first = min(pile.iterations)
        epoch, kind = model.iterations[first].epoch, model.iterations[first].kind
        turns = sum(iteration.epoch == epoch and iteration.kind == kind for iteration in model.iterations)
        return peak is not None and pile.per_iteration * turns >= self._SHARE_THAT_MATTERS * peak.allocated_bytes

    def _finding(self, model: MemoryModel, pile: _Pile, files: list[str]) -> Finding:
        main = pile.main
        stored = storing_statement(pile.holder, main.location, files) or main.location
        holder = holder_text(pile.holder, stored)
        device = _device(model, main.storages[0])
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
            related=_related(main.location, stored),
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
    stored = [model.storages[storage] for group in pile.groups for storage in group.storages if storage in model.storages]
    freed = [storage for storage in stored if storage.death_iteration is not None]
    if len(freed) * 2 < len(stored) or not freed:
        return False
    last_freed = max(storage.death_iteration or 0 for storage in freed)
    kinds = {model.iterations[index].kind for index in pile.iterations}
    return any(iteration.index > last_freed for iteration in model.iterations if iteration.kind in kinds)


def _device(model: MemoryModel, storage: int | None) -> str:
    found = model.storages.get(storage) if storage is not None else None
    if found is not None:
        return found.device
    return model.devices[0] if model.devices else "cpu"


__all__ = [
    "GraphGrowsAcrossIterations",
    "HiddenStateCarriedWithGraph",
    "OutputsKeptWithGraph",
    "TensorsKeptInContainer",
]
