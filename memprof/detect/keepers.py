"""MP109, MP110, MP111 and MP116: tensors kept by cycles, tracebacks, caches, threads and queues."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import KIB, place
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.piles import CACHE, CYCLE, THREAD, TRACEBACK, Pile, checked, pile_finding, without_aliases
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel

_MIN_GROWTH = 4 * KIB


def _worth(pile: Pile) -> bool:
    return pile.with_graph or pile.per_iteration >= _MIN_GROWTH


class TensorsInReferenceCycle(Rule):
    """Objects that refer to each other keep tensors until the garbage collector runs.

    ## What it detects
    Tensors that are reachable only through a reference cycle: an object with a method of its own in an attribute, a
    child that knows its parent, a closure that refers to itself. Nothing uses them any more.

    ## Why it costs memory
    Python frees an object when its last reference goes. In a cycle there is always one left, so the tensors stay until
    the cyclic collector happens to run. It counts Python objects, not bytes: with a few hundred objects an iteration
    it comes every few iterations, and by then gigabytes may wait. The peak is higher by all that waits.

    ## Evidence
    All objects from which the tensor can be reached were followed upwards, and none of them has more references than
    the others have to it: the collector's own test. The collector itself is not run.

    ## Remedy
    Break the cycle: drop the reference back when the work is done (`self.callback = None`), or make it weak
    (`weakref.ref(parent)`). `gc.collect()` now and then only treats the symptom.

    ## Example
    ```python
    import torch


    class Step:
        def __init__(self, model, batch):
            self.output = model(batch)
            self.forward = self.run

        def run(self):
            return self.output.pow(2).mean()


    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = Step(model, torch.randn(64, 64)).forward()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class Step:
        def __init__(self, model, batch):
            self.output = model(batch)

        def run(self):
            return self.output.pow(2).mean()


    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = Step(model, torch.randn(64, 64)).run()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The objects in the cycle are small, or are in use: memprof reports only what nothing can reach any more.
    """

    code = CYCLE
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        findings = []
        for pile in checked(model, self.code):
            if isinstance(pile, Skipped):
                yield pile
            elif _worth(pile):
                findings.append(((pile.grows, pile.tensors), self._finding(model, pile)))
        yield from without_aliases(findings)

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
        owner = pile.holder.owner
        return pile_finding(
            model,
            pile,
            code=self.code,
            name=self.name(),
            what=(
                f"{pile.noun.capitalize()} made at {place(pile.made_at)} wait for the garbage collector, because "
                f"objects of class `{owner}` refer to each other"
            ),
            step=(
                "Nothing else refers to them. Break the cycle: set the reference back to None when done, or make it "
                "weak (`weakref`)."
            ),
            remedies=(
                Remedy("break_cycle", f"drop or weaken the reference back in `{owner}`", frees=pile.storages),
                Remedy("gc", "as a stopgap, `gc.collect()` every few iterations", frees=pile.storages),
            ),
        )


class TensorsHeldByTraceback(Rule):
    """An exception that is kept, or a notebook's output cache, keeps tensors alive.

    ## What it detects
    Exceptions stored in a list, an attribute or `sys.last_value`, whose tracebacks hold the frames of the functions
    they passed; and IPython's `Out[...]`, `_`, `__`, which hold the value of every cell that ends in an expression.

    ## Why it costs memory
    A traceback keeps every frame from the `raise` up to the `except`, and each frame all its variables: the batch,
    the activations, the loss. After an out-of-memory error that is why nothing can be freed.

    ## Evidence
    The way from the tensor up to a name of the user leads through the frame of a function that has ended, or ends in
    IPython's cache of outputs.

    ## Remedy
    Keep the message (`str(error)`, `traceback.format_exc()`), not the exception; or
    `error.with_traceback(None)`. In a notebook end a cell with `;`, run `%reset out`, or assign the value.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 2048)
    failures = []


    def train_step(batch):
        out = model(batch)
        loss = out.pow(2).mean()
        loss.backward()
        raise ValueError("a bad label")


    for _ in range(8):
        try:
            train_step(torch.randn(64, 64))
        except ValueError as error:
            failures.append(error)
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 2048)
    failures = []


    def train_step(batch):
        out = model(batch)
        loss = out.pow(2).mean()
        loss.backward()
        raise ValueError("a bad label")


    for _ in range(8):
        try:
            train_step(torch.randn(64, 64))
        except ValueError as error:
            failures.append(str(error))
    ```

    ## Not a problem when
    Only the last exception is kept: it goes when the next one comes.
    """

    code = TRACEBACK
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        best: dict[object, Finding] = {}
        for pile in checked(model, self.code):
            if isinstance(pile, Skipped):
                yield pile
                continue
            if not _worth(pile):
                continue
            finding = self._finding(model, pile)
            known = best.get(finding.location)
            if known is None or (finding.bytes or 0) > (known.bytes or 0):
                best[finding.location] = finding
        yield from best.values()

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
        where = place(pile.stored)
        if pile.holder.kind == "notebook":
            what = f"The notebook's output cache keeps {pile.noun} made at {place(pile.made_at)}"
            step = "End the cell with `;` or assign its value, and run `%reset out` to free what is there."
            text = "end the cell with `;`, or run `%reset out`"
        else:
            what = f"Exceptions keep the frames they passed, and with them {pile.noun} made at {place(pile.made_at)}"
            step = f"Store the message (`str(error)`) at {where}, not the exception."
            text = f"store `str(error)` or `traceback.format_exc()` at {where}"
        return pile_finding(
            model,
            pile,
            code=self.code,
            name=self.name(),
            what=what,
            step=step,
            remedies=(Remedy("del", text, frees=pile.storages),),
        )


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
        findings = []
        for pile in checked(model, self.code, even_bounded=True):
            if isinstance(pile, Skipped):
                yield pile
            elif _worth(pile) and not (pile.holder.bounded and pile.holder.hits != 0):
                findings.append(((pile.grows, pile.tensors), self._finding(model, pile)))
        yield from without_aliases(findings)

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
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
            model,
            pile,
            code=self.code,
            name=self.name(),
            what=f"{name} keeps {pile.noun}, {why}",
            step=f"Key it at {where} by what makes the value (an index, a shape), bound it, or drop it.",
            remedies=(
                Remedy("bound_container", f"bound the cache at {where}, keyed by index or shape", frees=pile.storages),
                Remedy("del", f"drop the cache at {where}: it never helps", frees=pile.storages),
                Remedy("detach", "cache `.detach()` results only", frees=pile.graph_storages),
            ),
            location=location,
        )


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
        findings = []
        for pile in checked(model, self.code):
            if isinstance(pile, Skipped):
                yield pile
            elif _worth(pile):
                findings.append(((pile.grows, pile.tensors), self._finding(model, pile)))
        yield from without_aliases(findings)

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
            model,
            pile,
            code=self.code,
            name=self.name(),
            what=f"{pile.noun.capitalize()} made at {place(pile.made_at)} pile up {keeper}",
            step=step,
            remedies=(*remedies, cut, host, bound) if pile.with_graph else (bound, host),
        )
