"""Random programs on the real caching allocator and on memprof's model of it, compared after every operation.

By hand, on the null device or a GPU that nothing else uses:

    python tests/cuda/allocator_fuzz.py --programs 20 --operations 2000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

STREAMS = 3
STATES = {"inactive": 0, "active_allocated": 1, "active_awaiting_free": 2, "active_pending_free": 2}
KINDS = (
    "",
    "max_split_size_mb:20",
    "max_split_size_mb:64",
    "max_split_size_mb:32,max_non_split_rounding_mb:48",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[1:4,4:8,16:2,64:16,>:1]",
    "roundup_power2_divisions:[256:2,64:8]",
    "garbage_collection_threshold:0.5,per_process_memory_fraction:0.8",
    "garbage_collection_threshold:0.3,per_process_memory_fraction:0.5,max_split_size_mb:40",
    "per_process_memory_fraction:0.3",
    "expandable_segments:True",
    "expandable_segments:True,per_process_memory_fraction:0.4,roundup_power2_divisions:8",
    "expandable_segments:True,max_split_size_mb:64",
    "expandable_segments:True,garbage_collection_threshold:0.4,per_process_memory_fraction:0.6",
    "large_segment_size_mb:64",
    "large_segment_size_mb:11",
    "large_segment_size_mb:33,expandable_segments:True",
    "large_segment_size_mb:40,max_split_size_mb:48",
)
"""Settings tried one after the other where none are given."""


UNORDERED = tuple(
    f"inactive_split{unit}.{pool}.{field}"
    for unit in ("", "_bytes")
    for pool in ("all", "small_pool", "large_pool")
    for field in ("allocated", "freed", "peak")
)
"""Depends on the order in which the allocator visits streams with events, that of a hash table."""


class Mismatch(AssertionError):
    """The model and the allocator disagree."""


def fuzz(
    programs: int = 1, operations: int = 1000, seed: int = 0, settings: str | None = None, toggle: bool = False
) -> dict[str, int]:
    """Run random programs on both.

    Args:
        programs: How many.
        operations: In each.
        seed: Of the first; each has the next.
        settings: In force since the process began (`PYTORCH_ALLOC_CONF`); None sets `KINDS` in turn.
        toggle: Change settings in the middle of programs too.

    Returns:
        What was compared.

    Raises:
        Mismatch: They disagree.
    """
    import torch

    from memprof.simulate import AllocatorSettings

    torch.cuda.init()
    counts = {"programs": 0, "operations": 0, "ooms": 0, "snapshots": 0, "statistics": 0}
    limited = False
    for index in range(programs):
        text = KINDS[(seed + index) % len(KINDS)] if settings is None else settings
        parsed = AllocatorSettings.parse(text)
        if settings is None:
            _apply(parsed, text)
            if parsed.per_process_memory_fraction is not None or limited:
                torch.cuda.set_per_process_memory_fraction(
                    1.0 if parsed.per_process_memory_fraction is None else parsed.per_process_memory_fraction
                )
            limited = limited or parsed.per_process_memory_fraction is not None
        program = Program(parsed, limited and settings is None, random.Random(seed + index))
        try:
            for step in range(operations):
                if toggle and settings is None and program.random.random() < 0.01:
                    flags = ",expandable_segments:" + program.random.choice(["True", "False"])
                    kind = text.replace(",expandable_segments:True", "").replace("expandable_segments:True,", "")
                    kind = (kind.replace("expandable_segments:True", "") + flags).strip(",")
                    parsed = AllocatorSettings.parse(kind)
                    _apply(parsed, kind)
                    program.model.configure(parsed)
                program.step(counts)
                if step % 40 == 0:
                    program.compare_snapshots(counts)
            program.end(counts)
        except Mismatch as mismatch:
            raise Mismatch(f"settings {text!r}, seed {seed + index}, operation {step}: {mismatch}") from None
        counts["programs"] += 1
    return counts


def _apply(parsed: Any, text: str) -> None:
    """Set settings at run time; those that torch leaves as they were are written out."""
    import torch

    mib = 1 << 20
    torch._C._accelerator_setAllocatorSettings(
        f"large_segment_size_mb:{parsed.large_segment_bytes // mib},"
        f"max_non_split_rounding_mb:{max(parsed.max_non_split_rounding_bytes, parsed.large_segment_bytes) // mib},"
        f"expandable_segments:{parsed.expandable_segments}"
        + "".join(f",{part}" for part in _without(text, "large_segment", "max_non_split", "expandable_segments"))
    )


def _without(text: str, *prefixes: str) -> list[str]:
    parts, depth, part = [], 0, ""
    for letter in text + ",":
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            if part and not part.startswith(prefixes):
                parts.append(part)
            part = ""
        else:
            part += letter
    return parts


class Program:
    """One random program, on both."""

    def __init__(self, settings: Any, limited: bool, chance: random.Random) -> None:
        import torch

        from memprof.simulate import CachingAllocator
        from memprof.simulate.driver import FirstFitDriver

        self.torch = torch
        self.random = chance
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.reset_accumulated_memory_stats()
        free, total = torch.cuda.mem_get_info()
        self.model = CachingAllocator(settings=settings, driver=FirstFitDriver(total, taken_bytes=total - free))
        if limited and settings.per_process_memory_fraction is None:
            self.model.set_memory_fraction(1.0)
        self.streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(STREAMS - 1))]
        self.tensors: dict[int, Any] = {}
        self.base = {key: value for key, value in torch.cuda.memory_stats().items() if key.startswith("num_")}
        self.large = chance.choice([8 << 20, 48 << 20, 160 << 20])
        self.keep = chance.choice([20, 100, 300])

    def step(self, counts: dict[str, int]) -> None:
        """One operation on both, and the comparison."""
        chance = self.random
        dice = chance.random()
        if dice < 0.004:
            self.torch.cuda.empty_cache()
            self.model.empty_cache()
            what = "empty_cache"
        elif dice < 0.006:
            self.torch.cuda.reset_peak_memory_stats()
            self.model.reset_peak()
            what = "reset_peak"
        elif dice < 0.10 and self.tensors:
            address = chance.choice(list(self.tensors))
            stream = chance.choice(self.streams)
            self.tensors[address].record_stream(stream)
            self.model.record_stream(address, stream.cuda_stream)
            what = "record_stream"
        elif self.tensors and dice < 0.10 + 0.9 * min(len(self.tensors) / (2 * self.keep), 1):
            addresses = list(self.tensors)
            address = addresses[-1] if chance.random() < 0.3 else chance.choice(addresses)
            del self.tensors[address]
            self.model.free(address)
            what = f"free {address:#x}"
        else:
            what = self._allocate(counts)
        counts["operations"] += 1
        self._compare(what, counts)

    def _size(self) -> int:
        chance = self.random
        kind = chance.random()
        if kind < 0.3:
            return chance.randrange(0, 1 << chance.randrange(1, 21))
        if kind < 0.4:
            return 1 << chance.randrange(9, 28)
        if kind < 0.5:
            return chance.choice([512, 1 << 20, 10 << 20, 20 << 20, 2 << 20, 1 << 26]) + chance.choice([-1, 0, 1])
        if kind < 0.8:
            return chance.randrange(1 << 20, 10 << 20)
        return chance.randrange(1 << 20, self.large)

    def _allocate(self, counts: dict[str, int]) -> str:
        from memprof.simulate import SimulatedOutOfMemory

        torch = self.torch
        nbytes = self._size()
        stream = self.random.choice(self.streams) if self.random.random() < 0.4 else self.streams[0]
        try:
            with torch.cuda.stream(stream):
                tensor = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
            real = tensor.data_ptr()
        except torch.OutOfMemoryError:
            tensor, real = None, -1
            counts["ooms"] += 1
        try:
            modelled = self.model.malloc(nbytes, stream.cuda_stream)
        except SimulatedOutOfMemory:
            modelled = -1
        what = f"malloc {nbytes} on {stream.cuda_stream:#x}"
        if real != modelled:
            raise Mismatch(f"{what}: the allocator gave {real:#x}, the model {modelled:#x}")
        if real > 0:
            self.tensors[real] = tensor
        return what

    def _compare(self, what: str, counts: dict[str, int]) -> None:
        real = self.torch.cuda.memory_stats()
        modelled = self.model.memory_stats()
        wrong = {}
        for key, value in real.items():
            if key not in modelled or key.startswith(UNORDERED) or key == "max_split_size":
                continue
            value -= self.base.get(key, 0)
            counts["statistics"] += 1
            if value != modelled[key]:
                wrong[key] = (value, modelled[key])
        if wrong or self.torch.cuda.mem_get_info()[0] != self.model.driver.free_bytes:
            raise Mismatch(f"after {what}: (allocator, model) {wrong}, free {self.torch.cuda.mem_get_info()[0]}")

    def compare_snapshots(self, counts: dict[str, int]) -> None:
        """Every segment and block."""
        real = [
            (
                segment["address"],
                segment["total_size"],
                segment["stream"],
                segment["segment_type"] == "large",
                segment["is_expandable"],
                [
                    (block["address"], block["size"], STATES[block["state"]])
                    + ((block["requested_size"],) if block["state"] != "inactive" else ())
                    for block in segment["blocks"]
                ],
            )
            for segment in self.torch.cuda.memory._snapshot()["segments"]
        ]
        modelled = [
            (
                segment.address,
                segment.nbytes,
                segment.stream,
                segment.large,
                segment.expandable,
                [
                    (block.address, block.nbytes, int(block.state)) + ((block.requested_bytes,) if block.state else ())
                    for block in segment.blocks
                ],
            )
            for segment in self.model.snapshot()
        ]
        if sorted(real, key=lambda row: row[0]) != modelled:
            raise Mismatch("the snapshots differ")
        counts["snapshots"] += 1

    def end(self, counts: dict[str, int]) -> None:
        """Free everything, and compare once more."""
        for address in list(self.tensors):
            del self.tensors[address]
            self.model.free(address)
        self._compare("the end", counts)
        self.torch.cuda.empty_cache()
        self.model.empty_cache()
        self._compare("emptying the cache at the end", counts)
        self.compare_snapshots(counts)


def main() -> None:
    """Run as a script."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=len(KINDS))
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings", help="in force already, as PYTORCH_ALLOC_CONF; else various, set one after another"
    )
    parser.add_argument("--toggle", action="store_true", help="change settings in the middle of programs too")
    arguments = parser.parse_args()
    start = time.perf_counter()
    counts = fuzz(arguments.programs, arguments.operations, arguments.seed, arguments.settings, arguments.toggle)
    print(", ".join(f"{name} {number:,}" for name, number in counts.items()), f"in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
