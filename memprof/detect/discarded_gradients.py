"""MP204: gradients of another network's step that are thrown away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memprof.detect.evidence import counted, main_peak, place, related, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import MIN_PASSES, PassEvidence, peak_share, typical
from memprof.detect.rule import Rule
from memprof.detect.unused_graphs import MIN_BYTES, MIN_SHARE
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location, Pass, PassFlag, PassKind


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
        if nbytes < MIN_BYTES or share < MIN_SHARE:
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
        return self.finding(
            severity=share_severity(nbytes, peak),
            location=where if reused else made,
            device=evidence.device,
            bytes=nbytes,
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


__all__ = ["GeneratorGraphInDiscriminatorStep"]
