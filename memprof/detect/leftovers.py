"""MP205, MP208, MP209: outputs of a whole dataset in one tensor, and what was left on or left over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import KIB, MIB, counted, main_peak, place, related, share_severity, size, user_files
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence, peak_share
from memprof.detect.rule import Rule
from memprof.detect.source import arguments_named_at, calls_of, names_assigned_at, statement_at, stored_under
from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel, Source, Storage
from memprof.record.events import Location, PassFlag, PassKind, Phase, Role

_JOINING_OPS = ("aten.cat.", "aten.stack.")
_OFF_DEVICE = (".cpu(", ".numpy(", ".tolist(", '"cpu"', "'cpu'")


class OutputsConcatenatedOnDevice(Rule):
    """The outputs of a whole dataset are joined into one tensor on the device.

    ## What it detects
    `logits = torch.cat(all_logits)` at the end of an evaluation, with the outputs of every batch.

    ## Why it costs memory
    It grows with the dataset, not with the batch, and at the moment of `torch.cat` everything is there twice: in
    the list and in the result.

    ## Evidence
    The result of `torch.cat` or `torch.stack`, made outside forward and backward, is at least a tenth of the peak,
    and tensors made in at least four iterations were alive when it was made and add up to its size.

    ## Remedy
    Reduce each batch to what the metric needs (counts, sums, a confusion matrix); or `.cpu()` each output and join
    them in host memory.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 512)
    outputs = []
    with torch.no_grad():
        for _ in range(8):
            outputs.append(model(torch.randn(512, 64)))
    logits = torch.cat(outputs)
    print(logits.argmax(1).float().mean().item())
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 512)
    total, count = 0.0, 0
    with torch.no_grad():
        for _ in range(8):
            predicted = model(torch.randn(512, 64)).argmax(1)
            total, count = total + predicted.sum().item(), count + len(predicted)
    print(total / count)
    ```

    ## Not a problem when
    The outputs are in host memory already (`.cpu()`), or small beside the rest.
    """

    code = "MP205"
    kind = Kind.WASTE
    _MIN_BYTES = 1 * MIB
    _MIN_SHARE = 0.10
    _MIN_ITERATIONS = 4

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        table = evidence.table.lifetimes
        joins = [code for code, op in enumerate(table.ops) if op.startswith(_JOINING_OPS)]
        rows = evidence.rows_of()
        rows = rows[
            np.isin(table.op[rows], joins)
            & (table.birth_phase[rows] == int(Phase.OTHER))
            & (table.nbytes[rows] >= self._MIN_BYTES)
        ]
        told: set[Location | None] = set()
        for row in rows[np.argsort(-table.nbytes[rows], kind="stable")]:
            (joined,) = evidence.table.rows(np.array([row]))
            if joined.location in told or peak_share(model, evidence.device, joined.nbytes) < self._MIN_SHARE:
                continue
            parts = self._parts(evidence, joined)
            if len({storage.birth_iteration for storage in parts}) < self._MIN_ITERATIONS:
                continue
            if evidence.device == "cpu" and _meant_for_the_host(joined.location, parts):
                continue
            told.add(joined.location)
            yield self._finding(evidence, joined, parts)

    @staticmethod
    def _parts(evidence: PassEvidence, joined: Storage) -> list[Storage]:
        """What was joined: storages of one line, alive at that moment, that add up to the result."""
        table = evidence.table.lifetimes
        alive = evidence.alive_at(evidence.rows_of(), joined.birth_ns - 1)
        alive = alive[
            (table.dtype[alive] == table.dtypes.index(joined.dtype)) & (evidence.table.birth_iteration[alive] >= 0)
        ]
        by_line: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in alive.tolist():
            by_line[int(table.location[row]), int(table.op[row])].append(row)
        for lines in by_line.values():
            total = int(table.nbytes[lines].sum())
            if len(lines) > 1 and 0.8 * joined.nbytes <= total <= 1.25 * joined.nbytes:
                return evidence.storages(np.array(lines))
        return []

    def _finding(self, evidence: PassEvidence, joined: Storage, parts: list[Storage]) -> Finding:
        model, where, made = evidence.model, joined.location, parts[-1].location
        nbytes = joined.nbytes + sum(storage.nbytes for storage in parts)
        share = peak_share(model, evidence.device, nbytes)
        names = ", ".join(f"`{name}`" for name in sorted(names_assigned_at(where))) or "its result"
        frees = (joined.id, *(storage.id for storage in parts))
        text = "keep what the metric needs of each batch: counts, sums, a confusion matrix"
        reduce = Remedy("reduce_per_batch", text, frees=frees)
        move = Remedy(
            "move_to_cpu", f"`.cpu()` each output made at {place(made)}, and join them in host memory", frees=frees
        )
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
                f"{place(where)} joins the outputs of {counted(len(parts), 'batch')[:-1] + 'es'} into one tensor: "
                f"{size(nbytes)} on "
                f"{evidence.device} for the parts and the whole, {share:.0%} of the peak, and more with every batch. "
                "The parts "
                f"were made at {place(made)}; the list and {names} hold them. Reduce each batch to what the metric "
                "needs, or "
                f"move it off the device first."
            ),
            holder=f"{names} and the list that was joined at {place(where)}",
            remedies=(reduce, move) if evidence.device == "cpu" else (move, reduce),
            related=related(made, where),
            evidence={"joined_bytes": joined.nbytes, "parts": len(parts)},
        )


def _meant_for_the_host(joined: Location | None, parts: list[Storage]) -> bool:
    """Whether the source moves outputs to host memory: on a CPU that is where they are anyway."""
    texts = [statement_at(joined), *(statement_at(part.location) for part in parts[-1:])]
    if joined is not None:
        for function in ("cat", "stack"):
            for name in arguments_named_at(joined, function):
                texts += stored_under(joined.file, name)
    return any(mark in text for text in texts for mark in _OFF_DEVICE)


class AnomalyModeOn(Rule):
    """Autograd's anomaly mode was on for the whole training.

    ## What it detects
    `torch.autograd.set_detect_anomaly(True)` at the top of a script, left from hunting a NaN; or
    `Trainer(detect_anomaly=True)`.

    ## Why it costs memory
    Each node of the graph keeps the Python traceback of its forward in host memory, and each gradient is checked for
    NaN, which makes a mask as large as the gradient has elements. Both cost time, a multiple of the step in small
    models.

    ## Evidence
    The mode was on in every backward from some point to the end of the run, at least eight times. The bytes are those
    of the largest mask.

    ## Remedy
    Remove the line, or put `with torch.autograd.detect_anomaly():` around the step that is being debugged.

    ## Example
    ```python
    import torch

    torch.autograd.set_detect_anomaly(True)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        loss = model(torch.randn(512, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.autograd.set_detect_anomaly(False)
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10):
        with torch.autograd.set_detect_anomaly(step < 2):
            loss = model(torch.randn(512, 64)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    It is on for a few steps, or the run is there to find a NaN.
    """

    code = "MP208"
    kind = Kind.WASTE
    _MIN_BACKWARDS = 8

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        backwards = list(evidence.of_kind(PassKind.BACKWARD))
        on = 0
        for item in reversed(backwards):
            if not item.flags & PassFlag.ANOMALY:
                break
            on += 1
        if not on:
            return
        if on < self._MIN_BACKWARDS:
            yield Skipped(
                self.code,
                f"anomaly mode was on in the last {counted(on, 'backward')}; run at least {self._MIN_BACKWARDS} to "
                "tell "
                f"whether it stays on",
            )
            return
        yield self._finding(evidence, backwards[-1].location, on)

    def _finding(self, evidence: PassEvidence, backward: Location | None, on: int) -> Finding:
        model = evidence.model
        files = user_files(model)
        switched = [line for name in ("set_detect_anomaly", "detect_anomaly") for line in calls_of(files, name)]
        where = switched[0] if switched else backward
        rows = self._masks(evidence)
        nbytes = int(evidence.table.lifetimes.nbytes[rows].max()) if len(rows) else None
        mask = f"; each gradient is checked with a mask of up to {size(nbytes)} on {evidence.device}" if nbytes else ""
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes or 0, main_peak(model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
            source=Source.MEASURED,
            message=(
                f"Anomaly mode was on in {counted(on, 'backward')} up to the end of the run (switched on at "
                f"{place(where)}): every "
                f"node of the graph holds the traceback of its forward in host memory{mask}. Switch it off, or put "
                "it around "
                f"the step you debug."
            ),
            holder="the nodes of the autograd graph",
            remedies=(Remedy("anomaly_off", f"remove the switch at {place(where)}"),),
            related=related(None, backward),
            evidence={"backwards": on, "largest_mask_bytes": nbytes},
        )

    @staticmethod
    def _masks(evidence: PassEvidence) -> IntArray:
        table = evidence.table.lifetimes
        rows = evidence.rows_of()
        checks = [code for code, op in enumerate(table.ops) if op.startswith(("aten.isnan.", "aten.ne."))]
        found: IntArray = rows[np.isin(table.op[rows], checks) & (table.birth_phase[rows] == int(Phase.BACKWARD))]
        return found


class CheckpointKeptAfterLoading(Rule):
    """A loaded checkpoint stays on the device next to the model that was filled from it.

    ## What it detects
    `checkpoint = torch.load(path)` without `map_location`, whose tensors come back to the GPU they were saved from and
    stay there for as long as the variable does.

    ## Why it costs memory
    All parameters, and often two moments of the optimizer for each, are on the device twice for the whole training.

    ## Evidence
    Tensors that a statement with a call to load made before the first iteration, as large as the model's
    parameters one by one, no parameters
    themselves, last used before the first iteration, and alive when memory was highest.

    ## Remedy
    `torch.load(path, map_location="cpu")`, and `del checkpoint` after `load_state_dict`.

    ## Example
    ```python
    import io

    import torch

    file = io.BytesIO()
    torch.save(torch.nn.Linear(512, 512).state_dict(), file)
    file.seek(0)
    model = torch.nn.Linear(512, 512)
    checkpoint = torch.load(file)
    model.load_state_dict(checkpoint)
    for _ in range(6):
        model.zero_grad()
        model(torch.randn(64, 512)).pow(2).mean().backward()
    ```

    ## Use instead
    ```python
    import io

    import torch

    file = io.BytesIO()
    torch.save(torch.nn.Linear(512, 512).state_dict(), file)
    file.seek(0)
    model = torch.nn.Linear(512, 512)
    checkpoint = torch.load(file)
    model.load_state_dict(checkpoint)
    del checkpoint
    for _ in range(6):
        model.zero_grad()
        model(torch.randn(64, 512)).pow(2).mean().backward()
    ```

    ## Not a problem when
    The loaded tensors are used in training (a penalty on the distance to them), or became the parameters
    (`assign=True`).
    """

    code = "MP209"
    kind = Kind.WASTE
    _MIN_BYTES = 256 * KIB
    _MIN_SHARE = 0.05
    _LOADING_OPS = ("aten.set_.",)

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        evidence = PassEvidence(model)
        loop = next((item for item in evidence.of_kind(PassKind.FORWARD) if self._loops(evidence, item.tick)), None)
        peak = main_peak(model, evidence.device)
        if loop is None or peak is None or peak.iteration is None or not model.last_uses:
            return
        highest = evidence.highest(model.iterations[peak.iteration])
        moment = highest[0] if highest is not None else loop.end_ns
        by_line: dict[Location, list[Storage]] = defaultdict(list)
        table = evidence.table.lifetimes
        loading = [code for code, op in enumerate(table.ops) if op.startswith(self._LOADING_OPS)]
        rows = evidence.alive_at(evidence.rows_of(), max(moment, loop.end_ns))
        rows = rows[np.isin(table.op[rows], loading) & (table.birth_ns[rows] < loop.start_ns) & (table.role[rows] == 0)]
        for storage in evidence.storages(rows):
            loaded = storage.location is not None and "load" in statement_at(storage.location)
            if storage.location is not None and loaded and model.last_uses.get(storage.id, 0) < loop.start_ns:
                by_line[storage.location].append(storage)
        sizes = {storage.nbytes for storage in evidence.storages(evidence.rows_of(role=Role.PARAMETER))}
        for where, storages in by_line.items():
            nbytes = sum(storage.nbytes for storage in storages)
            like = sum(storage.nbytes for storage in storages if storage.nbytes in sizes)
            if (
                nbytes < self._MIN_BYTES
                or peak_share(model, evidence.device, nbytes) < self._MIN_SHARE
                or like < 0.5 * nbytes
            ):
                continue
            yield self._finding(evidence, where, storages, nbytes)

    @staticmethod
    def _loops(evidence: PassEvidence, tick: int) -> bool:
        iteration = evidence.iteration_of.get(tick)
        return iteration is not None and iteration.kind != "other"

    def _finding(self, evidence: PassEvidence, where: Location, storages: list[Storage], nbytes: int) -> Finding:
        share = peak_share(evidence.model, evidence.device, nbytes)
        names = sorted(names_assigned_at(where))
        variable = ", ".join(f"`{name}`" for name in names) or "the variable it was loaded into"
        frees = tuple(storage.id for storage in storages)
        delete = Remedy(
            "del", f"`del {', '.join(names) or 'the checkpoint'}` after `load_state_dict`, before the loop", frees=frees
        )
        remap = Remedy("map_location", f'`torch.load(..., map_location="cpu")` at {place(where)}', frees=frees)
        return Finding(
            code=self.code,
            name=self.name(),
            kind=self.kind,
            severity=share_severity(nbytes, main_peak(evidence.model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
            bytes_per_iteration=None,
            source=Source.MEASURED,
            message=(
                f"{counted(len(storages), 'tensor')} loaded at {place(where)} stay on {evidence.device} through the "
                "training, though "
                f"nothing uses them after it began: {size(nbytes)}, {share:.0%} of the peak. {variable} holds them. "
                "Load them to "
                f"host memory, and delete the variable after `load_state_dict`."
            ),
            holder=f"{variable} assigned at {place(where)}",
            remedies=(delete,) if evidence.device == "cpu" else (remap, delete),
            evidence={"tensors": len(storages), "bytes": nbytes},
        )


__all__ = ["AnomalyModeOn", "CheckpointKeptAfterLoading", "OutputsConcatenatedOnDevice"]
