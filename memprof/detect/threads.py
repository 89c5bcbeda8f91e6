"""MP116: tensors kept by queues, futures and other threads."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import place
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.pile_growth import is_dear
from memprof.detect.piles import THREAD, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel


class TensorsHeldByThread(Rule):
    """A queue, a pool's futures or another thread keep tensors that the loop has finished with.

    ## What it detects
    Tensors in a `queue.Queue` that is filled faster than it is emptied, in the results or arguments of futures that are
    kept (`futures.append(pool.submit(...))`), and in variables of other threads.

    ## Why it costs memory
    A queue without `maxsize` takes what it is given. A finished `Future` keeps its result for as long as it lives. Both
    live on the device if the tensors do, and with the graph if nobody detached them.

    ## Evidence
    The way from tensors of several iterations up to a name of the user leads through a queue, a future, or the
    variable of a thread other than the one that trains, and they go on piling up.

    ## Remedy
    Put numbers or host copies into the queue (`loss.item()`, `out.detach().cpu()`), give it a `maxsize`, and drop
    futures once their result is read.

    ## Example
    ```python
    import queue

    import torch

    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    to_log = queue.Queue()
    for _ in range(8):
        out = model(torch.randn(64, 64))
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        to_log.put(out)
    ```

    ## Use instead
    ```python
    import queue

    import torch

    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    to_log = queue.Queue()
    for _ in range(8):
        out = model(torch.randn(64, 64))
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        to_log.put(out.mean().item())
    ```

    ## Not a problem when
    The queue has a `maxsize`, or its consumer keeps up: what is in it is a few batches old at most.
    """

    code = THREAD
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        return findings_of_piles(self, model, lambda pile: self._finding(model, pile) if is_dear(pile) else None)

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
        where, kind = place(pile.stored), pile.holder.kind
        keeper = {"queue": "in a queue", "future": "in futures", "thread": "in another thread"}[kind]
        step = {
            "queue": f"Put a number or a host copy into it at {where}, or give it a `maxsize`.",
            "future": f"Read the results and drop the futures kept at {where}.",
            "thread": f"Drop them in that thread, or hand it host copies at {where}.",
        }[kind]
        bound = Remedy("bound_container", "give the queue a `maxsize`; drop futures once read", frees=pile.storages)
        host = Remedy("move_to_cpu", f"hand over a host copy at {where}: `.detach().cpu()`", frees=pile.storages)
        cut = Remedy("detach", f"hand over `.detach()` at {where}", frees=pile.graph_storages)
        number = Remedy("item", f"hand over a number at {where}: `.item()`", frees=pile.storages)
        remedies = (number,) if pile.is_scalar else ()
        return pile_finding(
            self,
            model,
            pile,
            what=f"{pile.noun.capitalize()} made at {place(pile.made_at)} pile up {keeper}",
            step=step,
            remedies=(*remedies, cut, host, bound) if pile.with_graph else (bound, host),
        )
