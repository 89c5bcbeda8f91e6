"""What the tests run in a process of its own; arguments and results are JSON values."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from tests.cuda import workloads


def numbers(device: int) -> dict[str, int]:
    stats = torch.cuda.memory_stats(device)
    return {
        "allocated": stats["allocated_bytes.all.current"],
        "active": stats["active_bytes.all.current"],
        "reserved": stats["reserved_bytes.all.current"],
        "peak": stats["allocated_bytes.all.peak"],
        "peak_reserved": stats["reserved_bytes.all.peak"],
    }


def _prepared(name: str) -> tuple[workloads.Workload, range, int]:
    """A workload, its devices, and how often to resume it."""
    workload = workloads.WORKLOADS[name]
    torch.backends.cudnn.enabled = workload.settings.get("cudnn", True)
    torch.manual_seed(0)
    return workload, range(workload.settings.get("devices", 1)), 1 + workload.settings.get("iters", workloads.ITERS)


def bare(name: str) -> list[list[dict[str, int]]]:
    """Run a workload alone: what the allocator says of each device after each iteration."""
    workload, devices, turns = _prepared(name)
    rows = []
    for _ in workload("cuda"):
        rows.append([numbers(device) for device in devices])
        if len(rows) == turns:
            break
    return rows


def replayed(name: str) -> list[dict[str, Any]]:
    """Run a workload at level `blocks`, and replay its history under the settings it had."""
    import memprof

    workload, _, turns = _prepared(name)
    profiler = memprof.Profiler("blocks", output=os.path.join(os.getcwd(), "run.memprof"))
    with profiler:
        for count, _ in enumerate(workload("cuda"), 1):
            profiler.step()
            if count == turns:
                break
    return [
        {
            outcome.label: [outcome.peak_allocated_bytes, outcome.peak_reserved_bytes, outcome.device_allocs]
            for outcome in device.outcomes
        }
        for device in memprof.what_if(profiler.recording)
    ]


def profiled(name: str, level: str) -> dict[str, Any]:
    """Run a workload under memprof: what the allocator says, and what the model says."""
    import memprof

    workload, devices, turns = _prepared(name)
    rows, phases = [], []
    reached: list[tuple[str, list[int]]] = []
    workloads.HOOK = lambda phase: reached.append((phase, [torch.cuda.memory_allocated(d) for d in devices]))
    profiler = memprof.Profiler(level, output=os.path.join(os.getcwd(), "run.memprof"))
    live: dict[int, dict[int, int]] = {}
    with profiler:
        for _ in workload("cuda"):
            rows.append([numbers(device) for device in devices])
            if len(rows) == turns:
                live = {device: _live(device) for device in devices}
                profiler.step()
                break
            profiler.step()
            phases.append(reached.copy())
            reached.clear()
    model = memprof.diagnose(profiler.recording).model
    last = model.iterations[turns - 1].ticks[1]
    found = []
    for device in devices:
        name_of = f"cuda:{device}"
        iterations = [row.devices.get(name_of) for row in model.iterations[:turns]]
        peak = model.peaks.get(name_of)
        alive = [
            storage
            for storage in model.storages.values()
            if storage.device == name_of
            and storage.birth_tick <= last
            and (storage.death_tick is None or storage.death_tick > last)
        ]
        found.append(
            {
                "allocated": [row and row.allocated_bytes_end for row in iterations],
                "reserved": [row and row.reserved_bytes_end for row in iterations],
                "sources": [row and row.source.value for row in iterations],
                "peak": peak and peak.allocated_bytes,
                "peak_source": peak and peak.source.value,
                "composition": peak and peak.by_category,
                "live_blocks": sorted(storage.nbytes for storage in alive if storage.nbytes),
                "real_blocks": sorted(live[device].values()),
                "states": [
                    [account.state.allocated_bytes, account.state.active_bytes, account.state.reserved_bytes]
                    for account in model.accounts.get(name_of, ())
                ],
            }
        )
    return {
        "rows": rows,
        "devices": found,
        "notes": list(model.run.notes),
        "codes": [finding.code for finding in profiler.findings],
    }


def _live(device: int) -> dict[int, int]:
    """Address -> size of the blocks in use, by torch's own snapshot."""
    return {
        block["address"]: block["size"]
        for segment in torch.cuda.memory._snapshot()["segments"]
        if segment["device"] == device
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }


def out_of_memory(level: str) -> dict[str, Any]:
    """Ask for too much twice, catching it, and go on."""
    import memprof

    profiler = memprof.Profiler(level, output=os.path.join(os.getcwd(), "run.memprof"))
    caught = 0
    with profiler:
        model = torch.nn.Linear(256, 256).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for i in range(6):
            try:
                x = torch.empty(1 << 20 if i in (2, 3) else 256, 1 << 20 if i in (2, 3) else 256, device="cuda")
                model(x).sum().backward()
                optimizer.step()
            except torch.OutOfMemoryError:
                caught += 1
            profiler.step()
    diagnosis = memprof.diagnose(profiler.recording)
    return {
        "caught": caught,
        "ooms": [
            {
                "device": oom.device,
                "requested": oom.requested_bytes,
                "free": oom.free_bytes,
                "total": oom.total_bytes,
                "line": oom.location and oom.location.line,
                "file": oom.location and os.path.basename(oom.location.file),
                "allocated": oom.allocated_bytes,
            }
            for oom in diagnosis.model.ooms
        ],
        "codes": [finding.code for finding in profiler.findings],
        "messages": [finding.message for finding in profiler.findings],
        "report": profiler.report(),
        "iterations": len(diagnosis.model.iterations),
    }


def own_history(when: str) -> dict[str, Any]:
    """A user who records history, before memprof or in the middle of its run."""
    import memprof

    record = torch.cuda.memory._record_memory_history
    torch.cuda.init()
    if when == "before":
        record(max_entries=5000, stacks="python")
    profiler = memprof.Profiler("blocks", output=os.path.join(os.getcwd(), "run.memprof"))
    kept = []
    with profiler:
        for i in range(4):
            kept.append(torch.empty(1 << 20, device="cuda"))
            if i == 1 and when == "meanwhile":
                record(max_entries=5000, stacks="python")
            profiler.step()
    events = torch.cuda.memory._snapshot()["device_traces"][0]
    enabled = torch._C._cuda_isHistoryEnabled()
    record(enabled=None)
    return {
        "enabled": enabled,
        "allocations": sum(event["action"] == "alloc" for event in events),
        "notes": list(profiler.recording.run.notes),
        "restored": torch._C._cuda_record_memory_history.__name__,
    }


def forked(level: str) -> dict[str, Any]:
    """A program that has not used CUDA yet forks a child that does: what the profiler of the parent does there."""
    import memprof

    read, write = os.pipe()
    recorder = torch._C._cuda_record_memory_history.__name__
    with memprof.Profiler(level) as profiler:
        child = os.fork()
        if child == 0:
            torch.ones(1024, device="cuda")
            found = f"{torch._C._cuda_isHistoryEnabled()} {torch._C._cuda_record_memory_history.__name__ == recorder}"
            os.write(write, found.encode())
            os._exit(0)
        os.waitpid(child, 0)
        torch.ones(1024, device="cuda")
        parent = torch._C._cuda_isHistoryEnabled()
    return {
        "child": os.read(read, 100).decode(),
        "parent": parent,
        "devices": list(profiler.diagnosis.model.peaks),
    }


def overflow() -> dict[str, Any]:
    """More events in one tick than the ring buffer holds."""
    import memprof
    from memprof.capture import blocks

    profiler = memprof.Profiler("blocks", output=os.path.join(os.getcwd(), "run.memprof"))
    blocks.MAX_ENTRIES = 64
    rows = []
    with profiler:
        torch.cuda.init()
        kept = []
        for i in range(5):
            for _ in range(200 if i == 2 else 2):
                kept.append(torch.empty(600, device="cuda"))
            rows.append(torch.cuda.memory_allocated())
            profiler.step()
    model = memprof.diagnose(profiler.recording).model
    return {
        "rows": rows,
        "allocated": [row.devices["cuda:0"].allocated_bytes_end for row in model.iterations[:5]],
        "notes": list(model.run.notes),
    }


def drained(iterations: int, drain_ns: int) -> dict[str, Any]:
    """Train at level `blocks` with two backwards an iteration, counting snapshots."""
    import memprof
    from memprof.capture import blocks

    blocks.DRAIN_NS = drain_ns
    path = os.path.join(os.getcwd(), "run.memprof")
    model = torch.nn.Linear(256, 256, device="cuda")
    x = torch.ones(64, 256, device="cuda")
    taken, rows = 0, []
    snapshot = torch.cuda.memory._snapshot

    def counting(*args: Any) -> Any:
        nonlocal taken
        taken += 1
        return snapshot(*args)

    torch.cuda.memory._snapshot = counting
    profiler = memprof.Profiler("blocks", output=path)
    with profiler:
        for _ in range(iterations):
            model(x).sum().backward()
            model(x).mean().backward()
            rows.append(torch.cuda.memory_allocated())
            profiler.step()
        inside = taken
    with memprof.open_recording(path) as recording:
        log = recording.block_log()
        assert log is not None
        lines = {
            line and line.line
            for stack in set(log.events[:, 6].tolist())
            if len(log.stacks.get(stack, ())) == 1 and (line := log.user_lines[stack])
        }
        flags = [bool(tick.flags & tick.flags.BLOCKS) for tick in recording.ticks]
    model_of_run = memprof.diagnose(profiler.recording).model
    return {
        "snapshots": inside,
        "ticks_with_blocks": flags,
        "backward_lines": sorted(lines),
        "rows": rows,
        "allocated": [row.devices["cuda:0"].allocated_bytes_end for row in model_of_run.iterations[:iterations]],
    }


def backward_places(level: str, drain_ns: int) -> dict[str, Any]:
    """What the backward of a small model allocates, by module and by line of the forward."""
    import memprof
    from memprof.capture import blocks
    from memprof.record.events import Phase

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(512, 1024), torch.nn.Linear(1024, 512)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.softplus(self.up(x))
            z: torch.Tensor = self.down(y) + x
            return z

    blocks.DRAIN_NS = drain_ns
    profiler = memprof.Profiler(level, output=os.path.join(os.getcwd(), "run.memprof"))
    model = torch.nn.Sequential(Block(), torch.nn.Tanh(), Block()).cuda()
    x = torch.ones(4096, 512, device="cuda")
    with profiler:
        for _ in range(8):
            model(x).square().mean().backward()
            model.zero_grad()
            profiler.step()
    modules: dict[str, int] = {}
    lines: dict[str, int] = {}
    for storage in memprof.diagnose(profiler.recording).model.storages.values():
        # Small blocks: cuBLAS has a workspace, which is no tensor.
        if storage.birth_phase == Phase.BACKWARD and storage.birth_iteration == 6 and storage.nbytes >= 1 << 20:
            module = "" if storage.module is None else storage.module.path
            line = "" if storage.forward_location is None else str(storage.forward_location.line)
            modules[module] = modules.get(module, 0) + storage.nbytes
            lines[line] = lines.get(line, 0) + storage.nbytes
    return {"modules": modules, "lines": lines, "notes": list(profiler.recording.run.notes)}


def backward_places_on_two_devices() -> dict[str, dict[str, int]]:
    """Modules of what backward allocates on each of two devices that share a model."""
    import memprof
    from memprof.record.events import Phase

    class Split(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.Tanh()).to("cuda:0")
            self.second = torch.nn.Sequential(torch.nn.Linear(1024, 512), torch.nn.Sigmoid()).to("cuda:1")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z: torch.Tensor = self.second(self.first(x).to("cuda:1"))
            return z

    profiler = memprof.Profiler("blocks", output=os.path.join(os.getcwd(), "run.memprof"))
    model, x = Split(), torch.ones(4096, 512, device="cuda:0")
    with profiler:
        for _ in range(6):
            model(x).sum().backward()
            model.zero_grad()
            profiler.step()
    found: dict[str, dict[str, int]] = {"cuda:0": {}, "cuda:1": {}}
    for storage in memprof.diagnose(profiler.recording).model.storages.values():
        if storage.birth_phase == Phase.BACKWARD and storage.birth_iteration == 4 and storage.nbytes >= 1 << 20:
            module = "" if storage.module is None else storage.module.path
            of_device = found[storage.device]
            of_device[module] = of_device.get(module, 0) + storage.nbytes
    return found


def nested(level: str) -> dict[str, Any]:
    """A profiler inside a profiler, and what is left installed afterwards."""
    import memprof

    outer = memprof.Profiler(level, output=os.path.join(os.getcwd(), "outer.memprof"))
    with outer:
        for _ in range(2):
            with memprof.Profiler(level) as inner:
                torch.ones(1000, device="cuda")
                inner.step()
            outer.step()
        during = torch._C._cuda_isHistoryEnabled()
    return {
        "during": during,
        "after": torch._C._cuda_isHistoryEnabled(),
        "iterations": len(memprof.diagnose(outer.recording).model.iterations),
        "peak": memprof.diagnose(outer.recording).model.peaks["cuda:0"].allocated_bytes,
    }


def rule_block(code: str, heading: str, level: str, program: str = "") -> dict[str, Any]:
    """Run a program of a rule's page, or another one, with a step after each turn of its loop, as its iterations."""
    import runpy

    import memprof
    from memprof.detect import rule_of
    from memprof.detect.finding import Kind

    rule = rule_of(code)
    assert rule is not None
    # What an error's rule explains may end the program.
    expected = (RuntimeError,) if rule.kind is Kind.ERROR and heading == "Example" else ()
    with open("block.py", "w", encoding="utf-8") as file:
        file.write(program or rule.code_block(heading))
    profiler = memprof.Profiler(level, output=os.path.join(os.getcwd(), "run.memprof"))
    with contextlib.suppress(*expected), profiler:
        runpy.run_path(os.path.join(os.getcwd(), "block.py"))
    found = [finding for finding in profiler.findings if finding.code == code]
    return {
        "messages": [finding.message for finding in found],
        "files": [finding.location and os.path.basename(finding.location.file) for finding in found],
        "report": profiler.report(),
        "notes": list(profiler.recording.run.notes),
    }


def retried(form: str) -> dict[str, Any]:
    """Train on batches that are too large for the device, through `memprof.oom.retry`."""
    import memprof

    model = torch.nn.Sequential(
        torch.nn.Linear(256, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 4096), torch.nn.ReLU()
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(16384, 256, device="cuda"),) for _ in range(3)]
    sizes: list[int] = []

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return model(rows).sum()

    profiler = memprof.Profiler("steps", output=os.path.join(os.getcwd(), "run.memprof"))
    steps, alive = 0, []
    with profiler:
        if form == "function":
            step = memprof.oom.retry(loss_of, model=model, reduction="sum")
            for batch in batches:
                optimizer.zero_grad()
                step(*batch)
                optimizer.step()
                steps += 1
                alive.append(torch.cuda.memory_allocated())
        else:
            for part in memprof.oom.retry(batches, model=model):
                with part as (rows,):
                    loss = loss_of(rows)
                    loss.backward()
                if part.last:
                    optimizer.step()
                    optimizer.zero_grad()
                    steps += 1
                    del loss
                    alive.append(torch.cuda.memory_allocated())
    return {
        "steps": steps,
        "sizes": sizes,
        "alive": alive,
        "codes": [finding.code for finding in profiler.findings],
        "notes": list(profiler.recording.run.notes),
    }
