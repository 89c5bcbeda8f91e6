"""Timing: short blocks of iterations, the bare loop before and after each subject, ratios per round."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.subjects import AUTO, SUBJECTS, NotHereError, Subject, bare
from benchmarks.workloads import Workload

BARE = Subject("bare", "bare loop", bare)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: Turns through all subjects.
        block_ns: Aim for the length of one timed block.
        auto_rounds: Runs of level `auto`.
        auto_iterations: Iterations of each such run.
        limit_s: No further round begins that would end later than so long after a workload's first.
        auto_limit_s: The same for the runs of level `auto`.
    """

    rounds: int = 18
    block_ns: int = 100_000_000
    auto_rounds: int = 3
    auto_iterations: int = 200
    limit_s: float = 70
    auto_limit_s: float = 50


QUICK = Plan(rounds=1, block_ns=5_000_000, auto_rounds=1, auto_iterations=10)


@dataclass
class Block:
    """One timed block: nanoseconds an iteration of the wall clock and of this process's processor time."""

    wall_ns: float
    cpu_ns: float
    enter_ns: int = 0
    exit_ns: int = 0


@dataclass
class Series:
    """Blocks of one subject with the bare loop around each."""

    subject: Subject
    blocks: list[Block] = field(default_factory=list)
    wall_ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    missing: str = ""

    def add(self, number: int, before: Block, block: Block, after: Block) -> None:
        self.rounds.append(number)
        self.blocks.append(block)
        self.wall_ratios.append(2 * block.wall_ns / (before.wall_ns + after.wall_ns))
        self.cpu_ratios.append(2 * block.cpu_ns / (before.cpu_ns + after.cpu_ns))

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "title": self.subject.title,
            "note": self.missing or self.subject.note,
            "rounds": len(self.blocks),
        }
        if self.blocks:
            result |= {
                "median_ms": median(block.wall_ns for block in self.blocks) / 1e6,
                "ratio": spread(self.wall_ratios),
                "cpu_ratio": spread(self.cpu_ratios),
                "enter_ms": median(block.enter_ns for block in self.blocks) / 1e6,
                "exit_ms": median(block.exit_ns for block in self.blocks) / 1e6,
            }
        return result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def run_block(subject: Subject, work: Workload, folder: Path, iterations: int, warm_up: int) -> Block:
    """Attach, warm up, collect garbage, time, let go."""
    begin = time.perf_counter_ns()
    context = subject.attach(work, folder)
    step = context.__enter__()
    entered = time.perf_counter_ns()
    try:
        wall = cpu = 0
        for index in range(warm_up + iterations):
            if index == warm_up:
                gc.collect()
                cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            step()  # one call site, so that memprof sees one loop
        wall = time.perf_counter_ns() - wall
        cpu = time.process_time_ns() - cpu
    finally:
        leaving = time.perf_counter_ns()
        context.__exit__(None, None, None)
    left = time.perf_counter_ns()
    if torch._C._len_torch_dispatch_stack():
        raise RuntimeError(f"{subject.name} left a dispatch mode behind")
    return Block(wall / iterations, cpu / iterations, entered - begin, left - leaving)


def measure(work: Workload, folder: Path, plan: Plan, *, progress: Any) -> dict[str, Any]:
    """Measure every subject on one workload."""
    for _ in range(5):
        work.step()
    once = run_block(BARE, work, folder, 3, 2)
    iterations = max(2, round(plan.block_ns / once.wall_ns))
    warm_up = 3 if iterations < 20 else 8
    series = {subject.name: Series(subject) for subject in SUBJECTS}
    bares: list[Block] = []
    begin = time.perf_counter()
    for number in range(plan.rounds):
        if number and (time.perf_counter() - begin) * (number + 1) / number > plan.limit_s:
            break
        turn = number % len(SUBJECTS)
        order = [subject for subject in SUBJECTS[turn:] + SUBJECTS[:turn] if number % subject.every == 0]
        before = run_block(BARE, work, folder, iterations, 1)
        for subject in order:
            line = series[subject.name]
            if line.missing:
                continue
            few = iterations if subject.every == 1 else max(2, iterations // 3)
            try:
                block = run_block(subject, work, folder, few, warm_up)
            except NotHereError as error:
                line.missing = str(error)
                continue
            after = run_block(BARE, work, folder, iterations, 1)
            line.add(number, before, block, after)
            bares += [before]
            before = after
        progress(f"{work.name}: round {number + 1} of {plan.rounds}")
    result: dict[str, Any] = {
        "iterations_per_block": iterations,
        "bare": {
            "title": BARE.title,
            "median_ms": median(block.wall_ns for block in bares) / 1e6,
            "rounds": len(bares),
        },
        "subjects": {name: line.summary() for name, line in series.items()},
    }
    nothing, tensors = series["nothing"], series["tensors"]
    pairs = [after.wall_ns / before.wall_ns for before, after in zip(nothing.blocks, tensors.blocks, strict=True)]
    result["tensors_over_nothing"] = spread(pairs)
    result["subjects"]["auto"] = measure_auto(work, folder, plan, progress=progress)
    return result


def measure_auto(work: Workload, folder: Path, plan: Plan, *, progress: Any) -> dict[str, Any]:
    """Level `auto` over a whole run, entry and exit included, between two halves of as many bare iterations."""
    half = max(1, plan.auto_iterations // 2)
    whole, loop = Series(AUTO), Series(AUTO)
    begin = time.perf_counter()
    for number in range(plan.auto_rounds):
        if number and (time.perf_counter() - begin) * (number + 1) / number > plan.auto_limit_s:
            break
        before = run_block(BARE, work, folder, half, 1)
        block = run_block(AUTO, work, folder, plan.auto_iterations, 0)
        after = run_block(BARE, work, folder, half, 1)
        loop.add(number, before, block, after)
        once = (block.enter_ns + block.exit_ns) / plan.auto_iterations
        all_in = Block(block.wall_ns + once, block.cpu_ns + once, block.enter_ns, block.exit_ns)
        whole.add(number, before, all_in, after)
        progress(f"{work.name}: auto {number + 1} of {plan.auto_rounds}")
    result = whole.summary()
    result["iterations"] = plan.auto_iterations
    result["loop_ratio"] = spread(loop.wall_ratios)
    result["note"] = f"over {plan.auto_iterations} iterations, entry and exit included"
    return result
