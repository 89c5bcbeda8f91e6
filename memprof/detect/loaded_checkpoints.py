"""MP209: a loaded checkpoint that stays beside the model that was filled from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from memprof.detect.evidence import KIB, counted, main_peak, place, share_severity, size
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.pass_evidence import PassEvidence, peak_share
from memprof.detect.rule import Rule
from memprof.detect.source import statement_at, targets_assigned_at
from memprof.model.memory import MemoryModel, Source, Storage
from memprof.record.events import Location, PassKind, Role


class CheckpointKeptAfterLoading(Rule):
    """A loaded checkpoint stays on the device next to the model that was filled from it.

    ## What it detects
    `checkpoint = torch.load(path)` without `map_location`, whose tensors come back to the GPU they were saved from and
    stay there for as long as the variable does.

    ## Why it costs memory
    All parameters, and often two moments of the optimizer for each, are on the device twice for the whole training.

    ## Evidence
    Tensors that a statement with a call to load made before the first iteration, or between two trainings, as large as
    the model's parameters one by one, no parameters themselves, last used before the iterations that follow, and alive
    when memory was highest.

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
        table = evidence.table.lifetimes
        loading = [code for code, op in enumerate(table.ops) if op.startswith(self._LOADING_OPS)]
        rows = evidence.rows_of()
        loaded_ns = table.birth_ns[rows[np.isin(table.op[rows], loading) & (table.role[rows] == 0)]]
        forwards = [item for item in evidence.of_kind(PassKind.FORWARD) if self._loops(evidence, item.tick)]
        loop = next((item for item in forwards if len(loaded_ns) and item.start_ns > loaded_ns.max()), None)
        peak = main_peak(model, evidence.device)
        if loop is None or peak is None or peak.iteration is None or not model.last_uses:
            return
        highest = evidence.highest(model.iterations[peak.iteration])
        moment = highest[0] if highest is not None else loop.end_ns
        by_line: dict[Location, list[Storage]] = defaultdict(list)
        rows = evidence.alive(max(moment, loop.end_ns))
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
        names = sorted(targets_assigned_at(where))
        variable = ", ".join(f"`{name}`" for name in names) or "the variable it was loaded into"
        frees = tuple(storage.id for storage in storages)
        delete = Remedy(
            "del", f"`del {', '.join(names) or 'the checkpoint'}` after `load_state_dict`, before the loop", frees=frees
        )
        remap = Remedy("map_location", f'`torch.load(..., map_location="cpu")` at {place(where)}', frees=frees)
        return self.finding(
            severity=share_severity(nbytes, main_peak(evidence.model, evidence.device)),
            location=where,
            device=evidence.device,
            bytes=nbytes,
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
