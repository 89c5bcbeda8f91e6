"""MP102 and MP103: tensors that pile up in a container."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from memprof.detect.chains import Chain, chain_finding, chains, enough, is_collection
from memprof.detect.evidence import device_of, main_peak, place
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.pile_growth import MIN_GROWTH_BYTES, emptied
from memprof.detect.piles import OUTPUTS, TENSORS, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel


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

    code = OUTPUTS
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        yield from findings_of_piles(self, model, lambda pile: self._finding(model, pile))
        for chain in chains(model):
            if is_collection(chain) and enough(chain) is None:
                yield self._joined(model, chain)

    def _joined(self, model: MemoryModel, chain: Chain) -> Finding:
        return chain_finding(
            self,
            model,
            chain,
            words=lambda subject, growth, where, holder: (
                f"{subject} gets longer with every iteration and keeps the graph of all of it: {growth}. {where} joins "
                f"new outputs to it; held by {holder}. Join `.detach()` there, on the host where it gets large."
            ),
            remedies=lambda where: (
                Remedy("detach", f"join a copy without history at {where}: `.detach()`"),
                Remedy("move_to_cpu", f"join it on the host at {where}: `.detach().cpu()`"),
            ),
        )

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
        where = place(pile.stored)
        remedies = [
            Remedy("detach", f"store a copy without history at {where}: `.detach()`", frees=pile.graph_storages),
            Remedy("move_to_cpu", f"store it on the host at {where}: `.detach().cpu()`", frees=pile.storages),
        ]
        if pile.is_scalar:
            remedies.insert(0, Remedy("item", f"store a number at {where}: `.item()`", frees=pile.storages))
        step = f"Store `.detach().cpu()` at {where} instead."
        if pile.is_scalar:
            step = f"Store `.item()` at {where} instead."
        elif device_of(model, pile.main.storages[0] if pile.main.storages else None) == "cpu":
            step = f"Store `.detach()` at {where}, and no more than is needed: the tensors themselves still add up."
        return pile_finding(
            self,
            model,
            pile,
            what=f"{pile.noun.capitalize()} made at {place(pile.made_at)} pile up with their autograd graph",
            step=step,
            remedies=remedies,
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

    code = TENSORS
    kind = Kind.LEAK
    _SHARE_THAT_MATTERS = 0.2

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        return findings_of_piles(self, model, lambda pile: self._judge(model, pile))

    def _judge(self, model: MemoryModel, pile: Pile) -> Finding | Skipped | None:
        if pile.each_time < MIN_GROWTH_BYTES or not pile.main.storages:
            return None
        if not emptied(model, pile):
            return self._finding(model, pile, "empty it each epoch")
        if not self._matters(model, pile):
            return Skipped(self.code, f"{pile.holder.text} is emptied during the run")
        found = self._finding(model, pile, "empty it more often")
        return replace(found, evidence={**found.evidence, "emptied": True})

    def _matters(self, model: MemoryModel, pile: Pile) -> bool:
        """Whether a container that is emptied now and then has a large share of the peak before it is."""
        peak = main_peak(model, device_of(model, pile.main.storages[0]))
        stored = (model.storages[storage] for storage in pile.main.storages if storage in model.storages)
        ages = [
            item.death_iteration - item.birth_iteration + 1
            for item in stored
            if item.death_iteration is not None and item.birth_iteration is not None
        ]
        kept_for = max(ages, default=0)
        return peak is not None and pile.per_iteration * kept_for >= self._SHARE_THAT_MATTERS * peak.allocated_bytes

    def _finding(self, model: MemoryModel, pile: Pile, or_else: str) -> Finding:
        device, where = device_of(model, pile.main.storages[0]), place(pile.stored)
        instead = "bound the container" if device == "cpu" else "move them to the host"
        return pile_finding(
            self,
            model,
            pile,
            what=f"{pile.noun.capitalize()} made at {place(pile.made_at)} pile up",
            step=f"Reduce them before storing at {where}, {instead}, or {or_else}.",
            remedies=(
                Remedy("move_to_cpu", f"store them on the host at {where}: `.cpu()`", frees=pile.storages),
                Remedy("bound_container", "bound it: `deque(maxlen=...)`, or clear it each epoch", frees=pile.storages),
                Remedy("del", "drop the tensors once they are used", frees=pile.storages),
            ),
        )
