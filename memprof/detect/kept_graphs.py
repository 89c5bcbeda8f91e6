"""MP105 and MP106: graphs and gradients that are kept although nothing goes back through them."""

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
)
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.piles import GRADIENTS, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel, Source
from memprof.record.census import GradientGraph, KeptGraph
from memprof.record.events import Location

_MIN_CALLS = MIN_ITERATIONS
_MIN_SHARE = 0.05


def kept_graphs(model: MemoryModel, *, create_graph: bool) -> list[KeptGraph]:
    """What each line's backwards kept, as it was known last."""
    last: dict[Location | None, KeptGraph] = {}
    for census in model.censuses:
        for kept in census.kept_graphs:
            if kept.create_graph == create_graph:
                last[kept.location] = kept
    return list(last.values())


class GraphRetainedWithoutNeed(Rule):
    """`retain_graph=True` keeps a graph that no other backward ever uses.

    ## What it detects
    A call of `backward` or `torch.autograd.grad` with `retain_graph=True`, after which nothing goes through that graph
    again: not in the same iteration, and not in the next.

    ## Why it costs memory
    Without it, backward frees each saved tensor as soon as it has passed it, and the peak falls while it runs. With it,
    everything the forward saved stays until the loss and the outputs are assigned again: after the next forward. Two
    iterations' activations are then alive at once.

    ## Evidence
    The nodes of the graph are remembered by number when backward is called with `retain_graph=True`; no later backward
    reached one of them. The bytes are those the graph had saved.

    ## Remedy
    Drop `retain_graph=True`. Where two losses share a graph, add them and call backward once, or retain in all but the
    last call.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = model(torch.randn(64, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        loss = model(torch.randn(64, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    Several losses share a part of the graph and each is back-propagated by itself; only the last of them need not
    retain. memprof is silent where any call of the line was needed.
    """

    code = "MP105"
    kind = Kind.WASTE

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for kept in kept_graphs(model, create_graph=False):
            if kept.used_again or not kept.nbytes:
                continue
            if kept.calls < _MIN_CALLS:
                yield Skipped(
                    self.code,
                    f"{place(kept.location)} retains its graph, but too few iterations were watched to say why",
                )
                continue
            yield self._finding(model, kept)

    def _finding(self, model: MemoryModel, kept: KeptGraph) -> Finding:
        device = device_of(model, kept.storages[0] if kept.storages else None)
        where = place(kept.location)
        return self.finding(
            severity=share_severity(kept.nbytes, main_peak(model, device)),
            location=kept.location,
            device=device,
            bytes=kept.nbytes,
            source=Source.MEASURED,
            message=(
                f"`retain_graph=True` at {where} keeps {size(kept.nbytes)} of saved activations on {device} "
                f"that backward "
                f"would have freed, and no later backward uses them ({kept.calls} calls watched). The graph is held by "
                f"the loss until it is assigned again. Drop `retain_graph=True`."
            ),
            holder="the loss, through its autograd graph",
            remedies=(
                Remedy("remove_retain_graph", f"drop `retain_graph=True` at {where}", frees=kept.storages),
                Remedy("del", "if it is needed sometimes: `del` the loss and outputs before the next forward"),
            ),
            evidence={"calls": kept.calls, "used_again": kept.used_again, "nodes": kept.nodes, "bytes": kept.nbytes},
        )


class GradientsKeptWithGraph(Rule):
    """Gradients are made with a graph of their own, and kept with it.

    ## What it detects
    `create_graph=True` where no second derivative is taken; gradients or penalties made with it and stored with their
    graph (`penalties.append(penalty)`); and parameters whose `.grad` carries a graph into the next iteration.

    ## Why it costs memory
    With `create_graph=True` backward keeps the whole graph of the forward and builds one of itself, about twice as
    large. A `.grad` with a `grad_fn` refers to the parameter and the parameter to it: a reference cycle that PyTorch
    warns of.

    ## Evidence
    The nodes of a graph whose backward was called with `create_graph=True` were not reached by any later backward; or
    tensors made in backward are alive with their graph iterations later; or `.grad` has a `grad_fn` at the ends of
    iterations.

    ## Remedy
    Drop `create_graph=True` where the gradient is only looked at. Store `.detach()` or `.item()`. Where second
    derivatives are needed use `torch.autograd.grad`, and set `.grad` to None after the step.

    ## Example
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        x = torch.randn(256, 64, requires_grad=True)
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        print(slope.norm().item())
        loss = model(x.detach()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        x = torch.randn(256, 64, requires_grad=True)
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x)
        print(slope.norm().item())
        loss = model(x.detach()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The gradient is part of the loss (a gradient penalty, meta-learning) and a backward goes through it in the same
    iteration.
    """

    code = GRADIENTS
    kind = Kind.WASTE

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        piled = list(findings_of_piles(self, model, lambda pile: self._stored(model, pile)))
        yield from piled
        if any(isinstance(item, Finding) for item in piled):
            return  # the same gradients
        unused = {kept.location for kept in kept_graphs(model, create_graph=True) if not kept.used_again}
        gradients = self._gradients(model)
        if gradients is not None and self._matters(model, gradients):
            yield self._on_parameters(model, gradients, needed=gradients.location not in unused)
            unused.discard(gradients.location)
        for kept in kept_graphs(model, create_graph=True):
            if kept.location in unused and kept.nbytes and kept.calls >= _MIN_CALLS:
                yield self._unused(model, kept)

    def _gradients(self, model: MemoryModel) -> GradientGraph | None:
        """Gradients that carry a graph at the ends of several iterations, as last seen."""
        iterations = iteration_of_ticks(model)
        seen = {iterations.get(census.tick): census.gradients for census in model.censuses if census.gradients}
        return list(seen.values())[-1] if len(seen) >= MIN_ITERATIONS - 1 else None

    def _matters(self, model: MemoryModel, gradients: GradientGraph) -> bool:
        peak = main_peak(model, device_of(model, gradients.storages[0] if gradients.storages else None))
        return peak is not None and gradients.nbytes >= max(4 * KIB, _MIN_SHARE * peak.allocated_bytes)

    def _stored(self, model: MemoryModel, pile: Pile) -> Finding:
        where = place(pile.stored)
        number = (
            (Remedy("item", f"store a number at {where}: `.item()`", frees=pile.storages),) if pile.is_scalar else ()
        )
        return pile_finding(
            self,
            model,
            pile,
            what=f"Gradients ({pile.noun}) made at {place(pile.made_at)} pile up with a graph of their own",
            step=f"Store `{'.item()' if pile.is_scalar else '.detach()'}` at {where}.",
            remedies=(
                *number,
                Remedy("detach", f"store gradients without history at {where}: `.detach()`", frees=pile.storages),
                Remedy("remove_create_graph", "drop `create_graph=True` where no second derivative is taken"),
            ),
        )

    def _on_parameters(self, model: MemoryModel, gradients: GradientGraph, *, needed: bool) -> Finding:
        where = place(gradients.location)
        drop = Remedy("remove_create_graph", f"drop `create_graph=True` at {where}", frees=gradients.storages)
        reset = Remedy(
            "zero_grad", "set `.grad` to None right after the step: `optimizer.zero_grad()`", frees=gradients.storages
        )
        return self._waste(
            model,
            gradients.location,
            gradients.nbytes,
            gradients.storages,
            message=(
                f"The gradients of {gradients.parameters} parameters carry a graph of {gradients.nodes} nodes "
                f"into the next "
                f"iteration, made by `create_graph=True` at {where}"
            ),
            step=(
                "Use `torch.autograd.grad`, or set `.grad` to None right after the step."
                if needed
                else "No second derivative is taken: drop `create_graph=True`."
            ),
            holder="`.grad` of the parameters",
            remedies=(reset, drop) if needed else (drop, reset),
            evidence={"parameters": gradients.parameters, "nodes": gradients.nodes, "needed": needed},
        )

    def _unused(self, model: MemoryModel, kept: KeptGraph) -> Finding:
        where = place(kept.location)
        return self._waste(
            model,
            kept.location,
            kept.nbytes,
            kept.storages,
            message=(
                f"`create_graph=True` at {where} keeps the graph it goes through and makes one of the "
                f"gradients, and no "
                f"later backward uses either ({kept.calls} calls watched)"
            ),
            step="Drop it, or `.detach()` what is only looked at.",
            holder="the gradients, through their autograd graph",
            remedies=(
                Remedy("remove_create_graph", f"drop `create_graph=True` at {where}", frees=kept.storages),
                Remedy("detach", "keep gradients without history: `.detach()`"),
            ),
            evidence={"calls": kept.calls, "used_again": kept.used_again, "nodes": kept.nodes},
        )

    def _waste(
        self,
        model: MemoryModel,
        location: Location | None,
        nbytes: int,
        storages: tuple[int, ...],
        *,
        message: str,
        step: str,
        holder: str,
        remedies: tuple[Remedy, ...],
        evidence: dict[str, object],
    ) -> Finding:
        device = device_of(model, storages[0] if storages else None)
        return self.finding(
            kind=Kind.WASTE,
            severity=share_severity(nbytes, main_peak(model, device)),
            location=location,
            device=device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=f"{message}: {size(nbytes)} stay on {device}, held by {holder}. {step}",
            holder=holder,
            remedies=remedies,
            evidence=evidence,
        )
