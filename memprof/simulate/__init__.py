"""The CUDA caching allocator as a state machine: no torch, no GPU."""

from __future__ import annotations

from memprof.simulate.allocator import CachingAllocator
from memprof.simulate.block_replay import BlockReplay, BlockUsage
from memprof.simulate.out_of_memory import SimulatedOutOfMemory
from memprof.simulate.settings import AllocatorSettings

__all__ = ["AllocatorSettings", "BlockReplay", "BlockUsage", "CachingAllocator", "SimulatedOutOfMemory"]
