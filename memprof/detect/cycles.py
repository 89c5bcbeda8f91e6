"""MP109: tensors that wait in a reference cycle for the garbage collector."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import place
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import findings_of_piles, pile_finding
from memprof.detect.pile_growth import is_dear
from memprof.detect.piles import CYCLE, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel


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
        return findings_of_piles(self, model, lambda pile: self._finding(model, pile) if is_dear(pile) else None)

    def _finding(self, model: MemoryModel, pile: Pile) -> Finding:
        owner = pile.holder.owner
        return pile_finding(
            self,
            model,
            pile,
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
