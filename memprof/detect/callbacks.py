"""MP107, MP108 and MP117: tensors stored by code that torch calls: hooks, autograd functions, datasets."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import (
    KIB,
    MIN_ITERATIONS,
    device_of,
    iteration_of_ticks,
    main_peak,
    place,
    share_severity,
    size,
    user_files,
)
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.pile_growth import MIN_GROWTH_BYTES, checked
from memprof.detect.piles import CONTEXT, DATASET, HOOK, Pile
from memprof.detect.rule import Rule
from memprof.detect.surroundings import context_assignment
from memprof.model.memory import MemoryModel, Source
from memprof.record.census import ContextTensor
from memprof.record.events import Location


class HookStoresActivations(Rule):
    """A hook stores what passes through it, call after call.

    ## What it detects
    A forward hook, backward hook or gradient hook that appends activations or gradients to a list, a dictionary or
    an attribute (`activations.append(output)`), and is called in every forward or backward.

    ## Why it costs memory
    A hook runs for every batch, also for those nobody looks at. Each activation keeps its storage and, if it was
    not detached, the graph behind it; without a backward that is everything the forward saved up to there.

    ## Evidence
    Tensors that outlive their iteration are kept by a container or a closure that a registered hook writes to.
    memprof reads from the modules which functions are hooks, and from the source which statement stores.

    ## Remedy
    Keep the last activation only (`activations[name] = output.detach()`), empty the container in every iteration, or
    remove the hook (`handle.remove()`) once you have what you need. Store a statistic where one will do.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    activations = []


    def keep(module, args, output):
        activations.append(output)


    model[1].register_forward_hook(keep)
    for _ in range(8):
        loss = model(torch.randn(64, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    activations = {}


    def keep(module, args, output):
        activations["relu"] = output.detach()


    model[1].register_forward_hook(keep)
    for _ in range(8):
        loss = model(torch.randn(64, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The hook overwrites what it stored before, stores numbers, or the container is emptied in every iteration.
    """

    code = HOOK
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        return findings_of_piles(self, model, lambda pile: self._finding(model, pile))

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding | None:
        if not pile.with_graph and pile.each_time < KIB:
            return None
        where = place(pile.stored)
        hook = pile.region.text if pile.region is not None else pile.holder.text.partition(",")[0]
        keep = Remedy("move_to_cpu", f"store them on the host at {where}: `.detach().cpu()`", frees=pile.storages)
        bound = Remedy(
            "bound_container",
            f"keep the last only, or empty `{pile.holder.name}` in every iteration",
            frees=pile.storages,
        )
        cut = Remedy("detach", f"store a copy without history at {where}: `.detach()`", frees=pile.graph_storages)
        remedies = (cut, bound, keep) if pile.with_graph else (bound, keep)
        return pile_finding(
            self,
            model,
            pile,
            what=f"A {hook} stores {pile.noun} in every call" + (", with their graph" if pile.with_graph else ""),
            step=(
                f"Overwrite instead of adding at {where}, "
                + ("store `.detach()`, " if pile.with_graph else "")
                + "or remove the hook once it is not needed."
            ),
            remedies=(*remedies, Remedy("remove_hook", "keep the hook's handle and call `handle.remove()`")),
        )


class TensorStoredOnContext(Rule):
    """An autograd function keeps a tensor as an attribute of `ctx` instead of saving it for backward.

    ## What it detects
    `ctx.x = x` in the `forward` of a `torch.autograd.Function`, where `ctx.save_for_backward(x)` belongs.

    ## Why it costs memory
    What `save_for_backward` keeps is freed as soon as backward has passed. An attribute stays for as long as the
    node does: as long as anything that was computed with it. An *output* stored on `ctx` refers to the node, which
    refers to the output: a reference cycle, which stays until the garbage collector happens to run. An *input* keeps
    the graph that made it.

    ## Evidence
    At the end of iterations, nodes of the user's autograd functions whose backward has run still have tensors in
    their attributes.

    ## Remedy
    `ctx.save_for_backward(x)` in `forward`, `x, = ctx.saved_tensors` in `backward`. Numbers and shapes may be
    attributes.

    ## Example
    ```python
    import torch


    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.result = x.exp()
            return ctx.result

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.result


    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = Exp.apply(model(torch.randn(64, 64))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            result = x.exp()
            ctx.save_for_backward(result)
            return result

        @staticmethod
        def backward(ctx, grad):
            (result,) = ctx.saved_tensors
            return grad * result


    model = torch.nn.Linear(64, 2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = Exp.apply(model(torch.randn(64, 64))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The attribute is a small constant. memprof stays silent below 5 % of the peak and 1 MiB, unless it piles up.
    """

    code = CONTEXT
    kind = Kind.LEAK
    _MIN_SHARE = 0.05
    _MIN_BYTES = 1 << 20

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        found: dict[Location | None, Finding] = {}
        for pile in checked(model, self.code):
            if isinstance(pile, Skipped):
                yield pile
            elif pile.holder.kind == "context":
                where = self._place(pile.holder.name, pile.region.file if pile.region else None, model) or pile.stored
                finding = self._growing(model, pile, where)
                if where not in found or (finding.bytes or 0) > (found[where].bytes or 0):
                    found[where] = finding
        for item, ticks, iterations in self._kept(model):
            where = self._place(item.attribute, None if item.location is None else item.location.file, model)
            where = where or item.location
            if where in found or iterations < MIN_ITERATIONS - 1:
                continue
            device = device_of(model, item.storages[0] if item.storages else None)
            peak = main_peak(model, device)
            share = item.nbytes / peak.allocated_bytes if peak is not None and peak.allocated_bytes else 0.0
            if share >= self._MIN_SHARE or item.nbytes >= self._MIN_BYTES:
                found[where] = self._staying(model, item, where, device, ticks)
        yield from found.values()

    def _kept(self, model: MemoryModel) -> Iterable[tuple[ContextTensor, list[int], int]]:
        """The largest sighting of each attribute, the ticks it was seen in and the number of iterations."""
        iterations = iteration_of_ticks(model)
        seen: dict[tuple[str, str], list[tuple[int, ContextTensor]]] = {}
        for census in model.censuses:
            for item in census.contexts:
                seen.setdefault((item.function, item.attribute), []).append((census.tick, item))
        for sightings in seen.values():
            ticks = [tick for tick, _ in sightings]
            largest = max((item for _, item in sightings), key=lambda item: item.nbytes)
            yield largest, ticks, len({iterations.get(tick) for tick in ticks})

    def _place(self, attribute: str, file: str | None, model: MemoryModel) -> Location | None:
        """The line `ctx.attribute = ...`."""
        return context_assignment(attribute, [file] if file else user_files(model))

    def _remedies(self, where: Location | None, attribute: str, frees: tuple[int, ...]) -> tuple[Remedy, ...]:
        text = f"`ctx.save_for_backward({attribute})` at {place(where)}, and `ctx.saved_tensors` in backward"
        return (Remedy("save_for_backward", text, frees=frees),)

    def _growing(self, model: MemoryModel, pile: Pile, where: Location | None) -> Finding:
        name = pile.holder.name
        return pile_finding(
            self,
            model,
            pile,
            what=f"Autograd function `{pile.holder.owner}` keeps {pile.noun} as `ctx.{name}`, and they pile up",
            step=f"Use `ctx.save_for_backward` at {place(where)}: backward then frees it.",
            remedies=self._remedies(where, name, pile.storages),
            location=where,
        )

    def _staying(
        self, model: MemoryModel, item: ContextTensor, where: Location | None, device: str, ticks: list[int]
    ) -> Finding:
        holder = f"`ctx.{item.attribute}` of autograd function `{item.function}`"
        return self.finding(
            kind=Kind.WASTE,
            severity=share_severity(item.nbytes, main_peak(model, device)),
            location=where,
            device=device,
            bytes=item.nbytes,
            source=Source.MEASURED,
            message=(
                f"{size(item.nbytes)} stay on {device} after backward, because {holder} keeps them: an attribute "
                f"lives as long as the graph's node. Use `ctx.save_for_backward` at {place(where)}: backward then "
                f"frees it."
            ),
            holder=holder,
            remedies=self._remedies(where, item.attribute, item.storages),
            evidence={"function": item.function, "attribute": item.attribute, "censuses": len(ticks)},
        )


class DatasetKeepsTensors(Rule):
    """A dataset or its collate function keeps every batch it has made.

    ## What it detects
    `__getitem__`, `__iter__` or a `collate_fn` that stores the tensors it returns (`self.seen.append(x)`), without a
    bound.

    ## Why it costs memory
    It is called for every sample of every epoch. A list grows without end; a cache whose keys never come back (a random
    crop, a new index each time) does the same. With workers each process has its own copy.

    ## Evidence
    Tensors that outlive their iteration are kept by a statement in the code of a `Dataset`, a sampler or a collate
    function, and go on piling up.

    ## Remedy
    Do not keep what is returned. If decoding is slow, cache by the sample's index, on the host, and no more than fits.

    ## Example
    ```python
    import torch


    class Samples(torch.utils.data.Dataset):
        def __init__(self):
            self.seen = []

        def __len__(self):
            return 64

        def __getitem__(self, index):
            x = torch.randn(4096)
            self.seen.append(x)
            return x


    model = torch.nn.Linear(4096, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.utils.data.DataLoader(Samples(), batch_size=8):
        loss = model(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch


    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            return torch.randn(4096)


    model = torch.nn.Linear(4096, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.utils.data.DataLoader(Samples(), batch_size=8):
        loss = model(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The data set is small and cached on purpose by its index: the cache is full after one epoch, and memprof sees that
    it has stopped growing.
    """

    code = DATASET
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        return findings_of_piles(self, model, lambda pile: self._judge(model, pile))

    def _judge(self, model: MemoryModel, pile: Pile) -> Finding | Skipped | None:
        if pile.each_time < MIN_GROWTH_BYTES:
            return None
        if pile.holder.container == "dict" and not self._outlasts_an_epoch(model, pile):
            return Skipped(self.code, f"{pile.holder.text} may be full after one epoch; run more than one")
        return self._finding(model, pile)

    def _outlasts_an_epoch(self, model: MemoryModel, pile: Pile) -> bool:
        """Whether a cache went on growing when every sample had been seen once."""
        epochs = {model.iterations[index].epoch for index in pile.iterations}
        return len(epochs) > 1

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
        where = place(pile.stored)
        code = pile.region.text if pile.region is not None else "the dataset"
        return pile_finding(
            self,
            model,
            pile,
            what=f"{code[0].upper()}{code[1:]} keeps {pile.noun}, and they pile up",
            step=f"Do not keep at {where} what is returned, or bound it.",
            remedies=(
                Remedy("del", f"do not store at {where} what is returned", frees=pile.storages),
                Remedy("bound_container", "cache by index and no more than fits", frees=pile.storages),
                Remedy("move_to_cpu", "keep it on the host", frees=pile.storages),
            ),
        )
