"""MP203 and MP204: graphs built while training that lead to no step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from memprof.detect.evidence import KIB, counted, main_peak, place, related, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, by_line, has_graph, peak_share, typical
from memprof.detect.rule import Rule
from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location, ParameterShare, Pass, PassFlag, PassKind

_MIN_BYTES = 256 * KIB
_MIN_SHARE = 0.05


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
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
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
        if nbytes < _MIN_BYTES or share_of_peak < _MIN_SHARE:
            return None
        part = f"`{'`, `'.join(names)}`" if names else "The module"
        activations = f" and {size(activation_bytes)} of activations saved for them" if activation_bytes else ""
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes, peak),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
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


def unused_in_training(evidence: PassEvidence) -> Iterator[tuple[list[Pass], list[IntArray]]]:
    """Forwards in training iterations whose graph no backward used, though it was alive when memory was highest.

    Yields:
        The forwards of one line and module, at least `MIN_PASSES`, and what each watched one had saved then.
    """
    candidates = (
        item
        for item in evidence.of_kind(PassKind.FORWARD)
        if has_graph(item) and item.id not in evidence.used and evidence.trains(item)
    )
    lines = by_line(evidence.of_kind(PassKind.FORWARD))
    for key, forwards in by_line(candidates).items():
        if len(forwards) < MIN_PASSES or 2 * len(forwards) < len(lines[key]):
            continue
        rows = [part for item in forwards if (part := _saved_at_highest(evidence, item)) is not None]
        nbytes = typical(evidence.nbytes(part) for part in rows)
        if len(rows) < 2 or nbytes < _MIN_BYTES or peak_share(evidence.model, evidence.device, nbytes) < _MIN_SHARE:
            continue
        yield forwards, rows


def _saved_at_highest(evidence: PassEvidence, forward: Pass) -> IntArray | None:
    iteration = evidence.iteration(forward)
    if iteration is None or not iteration.tracked:
        return None
    saved = evidence.saved(forward)
    highest = evidence.highest(iteration)
    if highest is None or evidence.freed_by_backward(saved) > 0.1:  # part of it was used in another way
        return None
    return evidence.alive_at(saved, highest[0])


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
    trained = [code for code, module in enumerate(table.modules) if module is not None and _within(module.path, owned)]
    inside = (table.birth_ns >= forward.start_ns) & (table.birth_ns <= forward.end_ns)
    births = table.birth_ns[inside & np.isin(table.module, trained)]
    return rows[table.birth_ns[rows] < np.min(births, initial=forward.end_ns + 1)]


def _within(path: str, owned: set[str]) -> bool:
    return any(path == item or (item and path.startswith(f"{item}.")) for item in owned)


def region(inside: Iterable[ParameterShare], whole: Iterable[ParameterShare]) -> list[str]:
    """The highest module paths all of whose parameters are inside; [] where that is the whole root.

    Args:
        inside: Parameters of the region.
        whole: All parameters of the root.
    """
    wanted = {share.module.path for share in inside}
    others = {share.module.path for share in whole} - wanted
    if not others:
        return []
    names: set[str] = set()
    for path in wanted:
        parts = path.split(".") if path else []
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            if not any(other == prefix or other.startswith(f"{prefix}.") for other in others):
                names.add(prefix)
                break
        else:
            names.add(path or "(the root's own parameters)")
    return sorted(names)


@dataclass(frozen=True, slots=True)
class _Discarded:
    """A backward that gave an optimizer's parameters gradients which were zeroed before a step."""

    backward: Pass
    optimizer: int
    stepped: frozenset[int]
    """Optimizers that stepped on gradients of the same backward."""


class GeneratorGraphInDiscriminatorStep(Rule):
    """The discriminator's loss goes backward through the generator, whose gradients are thrown away.

    ## What it detects
    `netD(fake)` without `fake.detach()` in the discriminator's step, and the same between any two networks:
    an actor's loss that goes on into the shared encoder, a decoder's that goes on into the code book.

    ## Why it costs memory
    The generator's activations stay until the discriminator's backward has gone through them, and it leaves
    gradients as large as the generator. `zero_grad()` clears them before the generator's own step: they are computed,
    kept through the next forward, and never read.

    ## Evidence
    In at least three iterations a backward wrote gradients for parameters of one optimizer, they were cleared
    before that optimizer stepped, another optimizer stepped on the same backward, and nothing before the first
    network needed its graph.

    ## Remedy
    `netD(fake.detach())` where `fake` is used again in the generator's step; `with torch.no_grad():` around the
    generator where it is not.

    ## Example
    ```python
    import torch

    generator = torch.nn.Sequential(torch.nn.Linear(16, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    discriminator = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    step_g = torch.optim.SGD(generator.parameters(), lr=0.01)
    step_d = torch.optim.SGD(discriminator.parameters(), lr=0.01)
    for _ in range(6):
        fake = generator(torch.randn(256, 16))
        step_d.zero_grad()
        (discriminator(fake).mean() - discriminator(torch.randn(256, 256)).mean()).backward()
        step_d.step()
        step_g.zero_grad()
        (-discriminator(generator(torch.randn(256, 16))).mean()).backward()
        step_g.step()
    ```

    ## Use instead
    ```python
    import torch

    generator = torch.nn.Sequential(torch.nn.Linear(16, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    discriminator = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    step_g = torch.optim.SGD(generator.parameters(), lr=0.01)
    step_d = torch.optim.SGD(discriminator.parameters(), lr=0.01)
    for _ in range(6):
        with torch.no_grad():
            fake = generator(torch.randn(256, 16))
        step_d.zero_grad()
        (discriminator(fake).mean() - discriminator(torch.randn(256, 256)).mean()).backward()
        step_d.step()
        step_g.zero_grad()
        (-discriminator(generator(torch.randn(256, 16))).mean()).backward()
        step_g.step()
    ```

    ## Not a problem when
    The gradients that are thrown away are those of the network in between: the generator's step has to go
    through the discriminator. memprof does not report that.
    """

    code = "MP204"
    kind = Kind.WASTE

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        groups: dict[tuple[Location | None, int], list[tuple[_Discarded, list[Pass]]]] = defaultdict(list)
        for case in _discarded(evidence):
            sources = self._sources(evidence, case)
            if sources:
                groups[sources[-1].location, case.optimizer].append((case, sources))
        for (_, optimizer), cases in groups.items():
            iterations = {evidence.iteration_of[case.backward.tick].index for case, _ in cases}
            if len(iterations) < MIN_PASSES:
                yield Skipped(
                    self.code,
                    "gradients of another network's step were thrown away in "
                    f"{counted(len(iterations), 'watched iteration')}; run at least {MIN_PASSES}",
                )
                continue
            finding = self._finding(evidence, optimizer, cases)
            if finding is not None:
                yield finding

    @staticmethod
    def _sources(evidence: PassEvidence, case: _Discarded) -> list[Pass]:
        """Forwards of the network whose gradients went, where nothing before it needed its graph."""
        shares = evidence.shares(case.backward)
        lost = {share.root for share in shares if share.optimizer == case.optimizer and share.gradient_bytes}
        kept = {share.root for share in shares if share.optimizer in case.stepped and share.gradient_bytes}
        used = [evidence.by_id[item] for item in case.backward.uses if item in evidence.by_id]
        sources = sorted((item for item in used if item.subject in lost - kept), key=lambda item: item.start_ns)
        onward = [item for item in used if item.subject in kept and item.flags & PassFlag.CHAINED]
        if not sources or any(item.flags & (PassFlag.CHAINED | PassFlag.LEAF_INPUT) for item in sources):
            return []
        return sources if any(item.start_ns > sources[0].start_ns for item in onward) else []

    def _finding(
        self, evidence: PassEvidence, optimizer: int, cases: list[tuple[_Discarded, list[Pass]]]
    ) -> Finding | None:
        model = evidence.model
        gradient_bytes = typical(
            sum(share.gradient_bytes for share in evidence.shares(case.backward) if share.optimizer == optimizer)
            for case, _ in cases
        )
        users: dict[int, int] = defaultdict(int)
        for backward in evidence.of_kind(PassKind.BACKWARD):
            for forward in set(backward.uses):
                users[forward] += 1
        last, sources = cases[-1]
        reused = any(users[item.id] > 1 for item in sources)
        watched = [item for case, found in cases if evidence.tracked(case.backward) for item in found]
        saved = [] if reused else [evidence.saved(item) for item in watched]
        nbytes = gradient_bytes + typical(evidence.nbytes(part) for part in saved)
        peak = main_peak(model, evidence.device)
        share = peak_share(model, evidence.device, nbytes)
        if nbytes < _MIN_BYTES or share < _MIN_SHARE:
            return None
        made = sources[-1].location
        where = self._onward(evidence, last, sources) or made
        detach = Remedy("detach", f"give the output of {place(made)} on as `.detach()` at {place(where)}")
        no_grad = Remedy(
            "no_grad", f"call the network at {place(made)} under `with torch.no_grad():`", frees=evidence.ids(saved)
        )
        how = (
            f"Pass its output on with `.detach()` at {place(where)}."
            if reused
            else f"Call it under `with torch.no_grad():` at {place(made)}, or pass its output on with `.detach()`."
        )
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes, peak),
            location=where if reused else made,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
            source=Source.MEASURED,
            message=(
                f"The backward at {place(last.backward.location)} goes on into the network called at {place(made)}, "
                "but "
                f"only the other network steps: {size(nbytes)} of gradients and saved activations on {evidence.device} "
                f"are thrown away, {share:.0%} of the peak. The graph of its output and its parameters' `.grad` hold "
                f"them. {how}"
            ),
            holder="the graph of the first network's output, and `.grad` of its parameters",
            remedies=(detach, no_grad) if reused else (no_grad, detach),
            related=related(made, where),
            evidence={
                "gradient_bytes": gradient_bytes,
                "saved_bytes": nbytes - gradient_bytes,
                "output_used_again": reused,
                "backwards": len(cases),
            },
        )

    @staticmethod
    def _onward(evidence: PassEvidence, case: _Discarded, sources: list[Pass]) -> Location | None:
        """The line that passes the first network's output to the one that steps."""
        stepped = {share.root for share in evidence.shares(case.backward) if share.optimizer in case.stepped}
        used = (evidence.by_id[item] for item in case.backward.uses if item in evidence.by_id)
        after = [
            item
            for item in used
            if item.subject in stepped and item.flags & PassFlag.CHAINED and item.start_ns > sources[0].start_ns
        ]
        return min(after, key=lambda item: item.start_ns).location if after else None


def _discarded(evidence: PassEvidence) -> Iterator[_Discarded]:
    """Gradients that were cleared before their optimizer stepped, with who stepped meanwhile."""
    waiting: dict[int, list[tuple[Pass, set[int]]]] = defaultdict(list)
    for item in evidence.model.passes:
        if item.kind is PassKind.BACKWARD:
            for optimizer in {share.optimizer for share in evidence.shares(item) if share.gradient_bytes}:
                if optimizer is not None:
                    waiting[optimizer].append((item, set()))
        elif item.kind is PassKind.STEP and item.subject is not None:
            owners = {id(backward) for backward, _ in waiting.pop(item.subject, [])}
            for pending in waiting.values():
                for backward, stepped in pending:
                    if id(backward) in owners:
                        stepped.add(item.subject)
        elif item.kind is PassKind.ZERO_GRAD:
            if item.subject is None:
                waiting.clear()
                continue
            for backward, stepped in waiting.pop(item.subject, []):
                if stepped and evidence.trains(backward):
                    yield _Discarded(backward, item.subject, frozenset(stepped))


__all__ = ["FrozenBackboneWithAutograd", "GeneratorGraphInDiscriminatorStep", "region", "unused_in_training"]
