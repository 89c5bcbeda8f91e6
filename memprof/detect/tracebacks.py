"""MP110: tensors kept by exceptions that are kept, and by a notebook's cache of outputs."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.evidence import largest_of_each_line, place
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pile_findings import pile_finding
from memprof.detect.pile_growth import checked, is_dear
from memprof.detect.piles import TRACEBACK, Pile
from memprof.detect.rule import Rule
from memprof.model.memory import MemoryModel


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
        findings = []
        for pile in checked(model, self.code):
            if isinstance(pile, Skipped):
                yield pile
                continue
            if not is_dear(pile):
                continue
            findings.append(self._finding(model, pile))
        yield from largest_of_each_line(findings)

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
            self,
            model,
            pile,
            what=what,
            step=step,
            remedies=(Remedy("del", text, frees=pile.storages),),
        )
