"""MP111: caches of tensors whose keys never come back."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import place
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.pile_growth import is_dear
from memprof.detect.piles import CACHE, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel


class CacheKeyedByTensors(Rule):
    """A cache keeps a tensor for every call, because its keys never come back.

    ## What it detects
    `functools.lru_cache` on a function of tensors, and dictionaries that are used as caches with tensors, `id(x)` or
    `x.data_ptr()` as keys.

    ## Why it costs memory
    Tensors are hashed by identity. A new batch is a new key even if its values are equal, so such a cache never hits:
    it keeps every argument and every result, up to its bound (128 entries by default) or for ever. An address may be
    used again for another tensor, and then the cache gives a wrong answer.

    ## Evidence
    Tensors of several iterations are kept by a `lru_cache` without hits, or by a dictionary whose keys are tensors or
    addresses (or whose name says it is a cache), and it goes on growing.

    ## Remedy
    Key the cache by what makes a value (an index, a shape, a length), bound it, or drop it.

    ## Example
    ```python
    import functools

    import torch

    model = torch.nn.Linear(64, 2048)


    @functools.lru_cache(maxsize=None)
    def normalised(x):
        return x / x.norm(dim=1, keepdim=True)


    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = model(normalised(torch.randn(256, 64))).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import functools

    import torch

    model = torch.nn.Linear(64, 2048)


    @functools.lru_cache(maxsize=8)
    def mask(length):
        return torch.ones(length, length).tril()


    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = model(mask(64) @ torch.randn(64, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The keys come back (shapes, lengths, indices): the cache fills up and stays as it is.
    """

    code = CACHE
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        return findings_of_piles(self, model, lambda pile: self._finding(model, pile), even_bounded=True)

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding | None:
        if not is_dear(pile) or (pile.holder.bounded and pile.holder.hits != 0):
            return None
        where = place(pile.stored)
        holder = pile.holder
        if holder.kind == "cache":
            location = holder.location
            where = place(location)
            name = f"The cache of `{holder.owner}()`"
            why = "and never had what was asked for" if holder.hits == 0 else "and has no bound"
        else:
            location = pile.stored
            name = f"Dictionary `{holder.name.partition('[')[0]}`"
            why = {"tensor": "keyed by tensors", "address": "keyed by addresses"}.get(
                holder.keyed_by, "whose keys do not come back"
            )
        return pile_finding(
            self,
            model,
            pile,
            what=f"{name} keeps {pile.noun}, {why}",
            step=f"Key it at {where} by what makes the value (an index, a shape), bound it, or drop it.",
            remedies=(
                Remedy("bound_container", f"bound the cache at {where}, keyed by index or shape", frees=pile.storages),
                Remedy("del", f"drop the cache at {where}: it never helps", frees=pile.storages),
                Remedy("detach", "cache `.detach()` results only", frees=pile.graph_storages),
            ),
            location=location,
        )
