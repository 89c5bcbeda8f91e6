"""MP203: a part of the model that is not trained, with autograd on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from memprof.detect.evidence import KIB, counted, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.module_paths import region, within
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.unused_graphs import MIN_BYTES, MIN_SHARE, unused_in_training
from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import ParameterShare, Pass, PassFlag, PassKind


class FrozenBackboneWithAutograd(Rule):
    """A part of the model that is not trained builds a graph or gets gradients.

    ## What it detects
    A backbone whose parameters no optimizer holds, but which still require gradients; a teacher or target
    network called without `torch.no_grad()` whose graph no backward uses.

    ## Why it costs memory
    As long as a parameter requires a gradient, everything up to it saves what its backward would need, and
    each backward allocates a gradient as large as the parameter. Nobody reads them: the optimizer was given the
    head's parameters only.

    ## Evidence
    Parameters that got a gradient in each of at least three training iterations, that no optimizer holds and
    that nothing changed in place, while others were stepped. Or a forward whose graph no backward ever used,
    of a module that is never trained, in at least three iterations. The bytes are the gradients and what the
    forward had saved when memory was highest.

    ## Remedy
    `backbone.requires_grad_(False)` before the optimizer is made. Where nothing before the backbone is
    trained, that also stops the graph; `torch.no_grad()` around its forward says the same.

    ## Example
    ```python
    import torch

    backbone = torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 64))
    head = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(6):
        features = backbone(torch.randn(512, 64))
        loss = head(features).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Use instead
    ```python
    import torch

    backbone = torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 64))
    backbone.requires_grad_(False)
    head = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(6):
        features = backbone(torch.randn(512, 64))
        loss = head(features).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    Gradients have to pass through the frozen part to reach something trainable before it (a prompt, a
    generator below a perceptual loss): then the graph is needed, and only the gradients of the frozen
    parameters are counted. Parameters that are updated by hand count as trained. Gradients that are read but
    never stepped (the importances of elastic weight consolidation) are a false alarm.
    """

    code = "MP203"
    kind = Kind.WASTE

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        if not model.passes:
            return
        evidence = PassEvidence(model)
        found = list(self._unowned(evidence))
        told = {finding.location for finding in found if isinstance(finding, Finding)}
        yield from found
        for forwards, rows in unused_in_training(evidence):
            first = forwards[0]
            if first.subject not in evidence.trained_roots and first.location not in told:
                yield self._unused_finding(evidence, forwards, rows)

    # ---- a graph that nobody used ----------------------------------------------------------

    def _unused_finding(self, evidence: PassEvidence, forwards: list[Pass], rows: list[IntArray]) -> Finding:
        model, where = evidence.model, forwards[0].location
        nbytes = typical(evidence.nbytes(part) for part in rows)
        share = peak_share(model, evidence.device, nbytes)
        return self.finding(
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"The module called at {place(where)} is not trained, but builds a graph that no backward uses, in "
                f"{counted(len(rows), 'watched iteration')}: {size(nbytes)} on {evidence.device} are still saved "
                "when memory is highest, "
                f"{share:.0%} of the peak. Its output holds the graph. Call it under `with torch.no_grad():`."
            ),
            holder="the output of the module, through its autograd graph",
            remedies=(
                Remedy("no_grad", f"call it at {place(where)} under `with torch.no_grad():`", frees=evidence.ids(rows)),
                Remedy("freeze", "`requires_grad_(False)` on the module, once, before the loop"),
            ),
            evidence={"forwards": len(forwards), "saved_bytes": nbytes, "graph_used": False},
        )

    # ---- parameters that nobody steps ------------------------------------------------------

    def _unowned(self, evidence: PassEvidence) -> Iterator[Finding | Skipped]:
        seen: dict[int, list[tuple[Pass, list[ParameterShare]]]] = defaultdict(list)
        stepped = {item.tick for item in evidence.of_kind(PassKind.STEP)}
        iterations_with_step = {
            iteration.index for tick in stepped if (iteration := evidence.iteration_of.get(tick)) is not None
        }
        always = _never_owned(evidence)
        for backward in evidence.of_kind(PassKind.BACKWARD):
            iteration = evidence.iteration(backward)
            if iteration is None or iteration.index not in iterations_with_step or not evidence.tracked(backward):
                continue
            shares = evidence.shares(backward)
            if not any(share.optimizer is not None and share.gradient_bytes for share in shares):
                continue
            idle: dict[int, list[ParameterShare]] = defaultdict(list)
            for share in shares:
                if (share.root, share.module.path) in always and share.gradient_bytes and share.optimizer is None:
                    idle[share.root].append(share)
            for root, found in idle.items():
                seen[root].append((backward, found))
        for root, cases in seen.items():
            iterations = {evidence.iteration_of[backward.tick].index for backward, _ in cases}
            gradient_bytes = typical(sum(share.gradient_bytes for share in shares) for _, shares in cases)
            if gradient_bytes < KIB:
                continue
            if len(iterations) < MIN_PASSES:
                yield Skipped(
                    self.code,
                    f"{size(gradient_bytes)} of gradients went to parameters no optimizer holds, but in "
                    f"{counted(len(iterations), 'watched iteration')} only; run at least {MIN_PASSES}",
                )
                continue
            finding = self._unowned_finding(evidence, root, cases, gradient_bytes)
            if finding is not None:
                yield finding

    def _unowned_finding(
        self,
        evidence: PassEvidence,
        root: int,
        cases: list[tuple[Pass, list[ParameterShare]]],
        gradient_bytes: int,
    ) -> Finding | None:
        model = evidence.model
        names = region(cases[-1][1], [share for share in evidence.shares(cases[-1][0]) if share.root == root])
        forwards: list[Pass] = []
        saved: list[IntArray] = []
        for backward, shares in cases:
            used = [evidence.by_id[item] for item in backward.uses if item in evidence.by_id]
            own = [item for item in used if item.subject == root]
            forwards += own
            if any(item.flags & (PassFlag.CHAINED | PassFlag.LEAF_INPUT) for item in own):
                continue  # the graph is needed for what comes before
            owned = {share.module for share in evidence.shares(backward) if share.root == root} - {
                share.module for share in shares
            }
            saved += [_before(evidence, item, {module.path for module in owned}) for item in own]
        if not forwards:
            return None
        activation_bytes = typical(evidence.nbytes(part) for part in saved)
        nbytes = gradient_bytes + activation_bytes
        where = forwards[-1].location
        peak = main_peak(model, evidence.device)
        share_of_peak = peak_share(model, evidence.device, nbytes)
        if nbytes < MIN_BYTES or share_of_peak < MIN_SHARE:
            return None
        part = f"`{'`, `'.join(names)}`" if names else "The module"
        activations = f" and {size(activation_bytes)} of activations saved for them" if activation_bytes else ""
        return self.finding(
            severity=share_severity(nbytes, peak),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            source=Source.MEASURED,
            message=(
                f"{part} called at {place(where)} gets gradients that no optimizer holds a parameter for: "
                f"{size(gradient_bytes)} of gradients{activations} on {evidence.device}, "
                f"{share_of_peak:.0%} of the peak. "
                f"The parameters' `.grad` and the graph hold them. Set `requires_grad_(False)` on "
                f"{part if names else 'it'} before the loop"
                + (", or give its parameters to the optimizer if it is meant to learn." if names else ".")
            ),
            holder="`.grad` of parameters that no optimizer holds",
            remedies=(
                Remedy(
                    "freeze",
                    f"`requires_grad_(False)` on {part if names else f'the module called at {place(where)}'}, once",
                    frees=evidence.ids(saved),
                ),
                Remedy("no_grad", f"run it under `with torch.no_grad():` at {place(where)}", frees=evidence.ids(saved)),
            ),
            evidence={
                "gradient_bytes": gradient_bytes,
                "activation_bytes": activation_bytes,
                "modules": names,
                "backwards": len(cases),
            },
        )


def _never_owned(evidence: PassEvidence) -> set[tuple[int, str]]:
    """Modules of which some parameters require gradients, but none was ever held by an optimizer or changed."""
    open_, closed = set(), set()
    for profile in evidence.model.parameters.values():
        for share in profile.shares:
            key = (share.root, share.module.path)
            if share.requires_grad:
                open_.add(key)
            if share.optimizer is not None or share.changed or share.written:
                closed.add(key)
    return open_ - closed


def _before(evidence: PassEvidence, forward: Pass, owned: set[str]) -> IntArray:
    """What a forward saved before it came to a module that is trained."""
    rows = evidence.saved(forward)
    table = evidence.table.lifetimes
    trained = [code for code, module in enumerate(table.modules) if module is not None and within(module.path, owned)]
    born = evidence.born(forward)
    births = table.birth_ns[born[np.isin(table.module[born], trained)]]
    return rows[table.birth_ns[rows] < np.min(births, initial=forward.end_ns + 1)]


__all__ = ["FrozenBackboneWithAutograd"]
