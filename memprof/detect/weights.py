"""MP112 and MP113: copies and averages of weights that keep a graph, or pile up."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from memprof.detect.chains import Chain, chain_finding, chains, enough, is_weight_average
from memprof.detect.evidence import device_of, largest_of_each_line, place, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.pile_growth import MIN_GROWTH_BYTES, emptied
from memprof.detect.piles import WEIGHTS, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel
from memprof.record.events import PassKind


class WeightsUpdatedWithGraph(Rule):
    """An average of weights, a feature bank or a buffer is updated with autograd on, and keeps all of its history.

    ## What it detects
    `shadow[name] = decay * shadow[name] + (1 - decay) * parameter` (EMA, mean teacher, target network), and
    `bank[index] = features` or `queue = torch.cat([features, queue])[:size]`, outside `torch.no_grad()`.

    ## Why it costs memory
    The new value hangs on the old one by its graph, and that on the one before. Nothing ever calls backward through it,
    so it grows with every update: nodes in host memory for an average of weights; the activations behind the features
    on the device for a bank.

    ## Evidence
    From one iteration to the next the tensor's graph contains the node its own line made before. It is made from a
    parameter of its own shape by element-wise operations alone, or by writing into a tensor that keeps its size.

    ## Remedy
    Put the update under `with torch.no_grad():`, or store `.detach()`.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in model.named_parameters():
            average[name] = 0.99 * average[name] + 0.01 * p
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                average[name].mul_(0.99).add_(p, alpha=0.01)
    ```

    ## Not a problem when
    The update is meant to be differentiated (meta-learning with an inner loop) and a backward goes through it: memprof
    sees which backward uses a graph.
    """

    code = "MP112"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        findings = []
        for chain in chains(model):
            if not is_weight_average(chain, model):
                continue
            reason = enough(chain)
            if reason:
                yield Skipped(self.code, reason)
            elif reason is None:
                findings.append(self._finding(model, chain))
        yield from largest_of_each_line(findings)

    def _finding(self, model: MemoryModel, chain: Chain) -> Finding:
        def words(subject: str, growth: str, where: str, holder: str) -> str:
            return (
                f"{subject} is updated with autograd on and keeps the graph of every update: {growth}. {where} links "
                f"each to the last; held by {holder}. Put the update under `with torch.no_grad():`."
            )

        return chain_finding(
            self,
            model,
            chain,
            words=words,
            remedies=lambda where: (
                Remedy("no_grad", f"put the update at {where} under `with torch.no_grad():`"),
                Remedy("detach", f"store a value without history at {where}: `.detach()`"),
            ),
        )


class StateDictCopiesPileUp(Rule):
    """Copies of the model's weights pile up, one for each checkpoint.

    ## What it detects
    `checkpoints.append(copy.deepcopy(model.state_dict()))`, snapshots of weights for averaging or for early stopping, a
    list of best models: a whole model more each time, on the model's device. Whole models that stay behind: one for
    each trial of a search.

    ## Why it costs memory
    Each copy is as large as the model, and with the optimizer's state three times as large. `deepcopy` and `clone` make
    it on the device where the weights are.

    ## Evidence
    What one iteration added to a container matches the sizes of the model's parameters and buffers, and the container
    has such copies of several iterations. Or root modules of one class, with parameters of the same shapes, are alive
    that were made and called one after another, and are not called any more.

    ## Remedy
    Keep the best only (assign instead of append), keep copies on the host
    (`{k: v.cpu() for k, v in model.state_dict().items()}`), or write them to disk with `torch.save`.

    ## Example
    ```python
    import copy

    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoints = []
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        checkpoints.append(copy.deepcopy(model.state_dict()))
    ```

    ## Use instead
    ```python
    import copy

    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best, best_loss = None, float("inf")
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), loss.item()
    ```

    ## Not a problem when
    The last few are kept in a container with a bound (`deque(maxlen=3)`), or on the host beside a GPU. Models of an
    ensemble that are made one by one and called together later are recognised by that call.
    """

    code = WEIGHTS
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        return findings_of_piles(self, model, lambda pile: self._finding(model, pile))

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding | None:
        if pile.each_time < MIN_GROWTH_BYTES or emptied(model, pile):
            return None
        where = place(pile.stored)
        device = device_of(model, pile.main.storages[0] if pile.main.storages else None)
        if pile.of_models:
            return None if _used_again(model, pile) else self._of_models(model, pile)
        return pile_finding(
            self,
            model,
            pile,
            what=f"A copy of the weights ({size(pile.each_time)}) is added on {device} each time",
            step=f"At {where} keep the best only, copy to the host (`v.cpu()`), or write it to disk with `torch.save`.",
            remedies=(
                Remedy("move_to_cpu", f"copy to the host at {where}, or `torch.save`", frees=pile.storages),
                Remedy("bound_container", "keep the best or the last few only", frees=pile.storages),
            ),
        )

    def _of_models(self, model: MemoryModel, pile: Pile) -> Finding:
        where = place(pile.stored)
        return pile_finding(
            self,
            model,
            pile,
            what=f"{len(pile.iterations)} models that are no longer called are kept, with their gradients",
            step=f"At {where} keep the score and the best model only, or its `state_dict()` on the host.",
            remedies=(
                Remedy("bound_container", f"keep the best model only at {where}", frees=pile.storages),
                Remedy("move_to_cpu", f"keep `model.cpu()` at {where}, or `torch.save`", frees=pile.storages),
            ),
        )


def _used_again(model: MemoryModel, pile: Pile) -> bool:
    """Whether one of the models that a pile keeps was called again after the next one had been."""
    first_calls: dict[int, int] = {}
    """Tick -> the root module that was called there for the first time, the earliest of several: not its loss."""
    met: set[int] = set()
    last_ticks: dict[int, int] = {}
    for item in model.passes:
        if item.kind is PassKind.FORWARD and item.subject is not None:
            if item.subject not in met:
                met.add(item.subject)
                first_calls.setdefault(item.tick, item.subject)
            last_ticks[item.subject] = item.tick
    ticks = sorted({tick for group in pile.groups for tick in group.birth_ticks if tick in first_calls})
    return any(last_ticks[first_calls[tick]] > following for tick, following in pairwise(ticks))
