"""The model of the caching allocator; it is compared with the real one in tests/cuda/test_allocator_fuzz.py."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof._errors import UsageError
from memprof.record.blocks import BlockState
from memprof.simulate import AllocatorSettings, CachingAllocator, SimulatedOutOfMemory
from memprof.simulate.driver import DEVICE_BASE

MIB = 1 << 20
KINDS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:20",
    "roundup_power2_divisions:4",
    "garbage_collection_threshold:0.3,per_process_memory_fraction:0.5",
)


def shape(allocator):
    return [[(block.nbytes, int(block.state)) for block in segment.blocks] for segment in allocator.snapshot()]


def test_a_large_segment_is_shared_and_divided_from_below():
    allocator = CachingAllocator()
    first, second = allocator.malloc(3 * MIB), allocator.malloc(5 * MIB)
    assert (first, second) == (DEVICE_BASE, DEVICE_BASE + 3 * MIB)
    assert shape(allocator) == [[(3 * MIB, 1), (5 * MIB, 1), (12 * MIB, 0)]]
    allocator.free(first)
    allocator.free(second)
    assert shape(allocator) == [[(20 * MIB, 0)]]


def test_what_is_left_of_a_large_block_must_exceed_one_mib():
    allocator = CachingAllocator()
    allocator.malloc(19 * MIB)
    assert allocator.allocated_bytes == 20 * MIB
    assert allocator.memory_stats()["requested_bytes.all.current"] == 19 * MIB


def test_small_and_large_requests_do_not_mix():
    allocator = CachingAllocator()
    allocator.malloc(MIB)
    allocator.malloc(MIB + 1)
    assert [segment.large for segment in allocator.snapshot()] == [False, True]


def test_streams_do_not_share():
    allocator = CachingAllocator()
    address = allocator.malloc(MIB, stream=1)
    allocator.free(address)
    assert allocator.malloc(MIB, stream=2) != address
    assert allocator.malloc(MIB, stream=1) == address


def test_of_equal_blocks_that_in_the_oldest_segment_is_taken():
    for version, taken in (((2, 14), 1), ((2, 9), 0)):
        allocator = CachingAllocator(torch_version=version)
        low = allocator.malloc(20 * MIB)
        old = allocator.malloc(20 * MIB)
        allocator.free(low)
        allocator.empty_cache()
        assert allocator.malloc(20 * MIB) == low
        allocator.free(low)
        allocator.free(old)
        assert allocator.malloc(20 * MIB) == (low, old)[taken]


def test_a_block_in_use_by_another_stream_waits():
    done = set()
    allocator = CachingAllocator(events=lambda stream, event: event in done)
    address = allocator.malloc(MIB)
    allocator.record_stream(address, 7)
    allocator.free(address)
    assert allocator.allocated_bytes == 0
    assert allocator.snapshot()[0].blocks[0].state == BlockState.ACTIVE_AWAITING_FREE
    assert allocator.malloc(MIB) != address
    done.add(0)
    assert allocator.malloc(MIB) == address


def test_no_memory_gives_everything_back_before_it_fails():
    allocator = CachingAllocator(100 * MIB)
    kept = allocator.malloc(40 * MIB)
    allocator.free(allocator.malloc(50 * MIB))
    address = allocator.malloc(60 * MIB)
    stats = allocator.memory_stats()
    assert (stats["num_alloc_retries"], stats["num_ooms"]) == (1, 0)
    with pytest.raises(SimulatedOutOfMemory, match="40 MiB were asked for") as caught:
        allocator.malloc(40 * MIB)
    assert (caught.value.allocated_bytes, caught.value.free_bytes) == (100 * MIB, 0)
    allocator.free(kept)
    allocator.free(address)


def test_a_memory_fraction_limits_what_is_reserved():
    allocator = CachingAllocator(100 * MIB, AllocatorSettings.parse("per_process_memory_fraction:0.5"))
    with pytest.raises(SimulatedOutOfMemory, match="may reserve 50 MiB"):
        allocator.malloc(52 * MIB)


def test_an_expandable_segment_grows_and_gives_back_whole_pages():
    allocator = CachingAllocator(1024 * MIB, AllocatorSettings(expandable_segments=True))
    first, second = allocator.malloc(30 * MIB), allocator.malloc(100 * MIB)
    assert second == first + 30 * MIB
    assert allocator.reserved_bytes == 140 * MIB
    allocator.free(second)
    allocator.empty_cache()
    assert shape(allocator) == [[(30 * MIB, 1), (10 * MIB, 0)]]
    allocator.free(first)
    allocator.empty_cache()
    assert allocator.snapshot() == ()


def test_mistakes_are_named():
    allocator = CachingAllocator()
    assert allocator.malloc(0) == 0
    allocator.free(0)
    with pytest.raises(UsageError, match="no block is allocated at 0x10"):
        allocator.free(16)
    with pytest.raises(UsageError, match="not modelled"):
        CachingAllocator(settings=AllocatorSettings.parse("backend:cudaMallocAsync"))
    with pytest.raises(SimulatedOutOfMemory):
        allocator.malloc(1 << 60)


def run(settings, seed, operations=120):
    chance = random.Random(seed)
    allocator = CachingAllocator(
        400 * MIB, AllocatorSettings.parse(settings), events=lambda stream, event: event % 3 > 0
    )
    live, told = [], []
    for _ in range(operations):
        dice = chance.random()
        if live and dice < 0.4:
            allocator.free(live.pop(chance.randrange(len(live))))
        elif live and dice < 0.45:
            allocator.record_stream(chance.choice(live), chance.randrange(3))
        elif dice < 0.47:
            allocator.empty_cache()
        else:
            try:
                live.append(
                    allocator.malloc(
                        chance.choice([300, 1 << 18, 3 << 20, 30 << 20]) + chance.randrange(1 << 16),
                        chance.randrange(2),
                    )
                )
            except SimulatedOutOfMemory:
                live.append(0)
        live = [address for address in live if address]
        told.append(allocator.memory_stats())
    return allocator, live, told


@pytest.mark.parametrize("settings", KINDS)
@given(seed=st.integers(0, 10_000))
def test_blocks_tile_their_segments_and_counters_agree(settings, seed):
    allocator, live, told = run(settings, seed)
    for stats in told:
        assert stats["allocated_bytes.all.current"] <= stats["active_bytes.all.current"]
        assert stats["active_bytes.all.current"] <= stats["reserved_bytes.all.current"]
        assert stats["requested_bytes.all.current"] <= stats["active_bytes.all.current"]
    segments = allocator.snapshot()
    allocated = 0
    for segment in segments:
        at = segment.address
        for block in segment.blocks:
            assert block.address == at
            at += block.nbytes
            allocated += block.nbytes * (block.state == BlockState.ACTIVE_ALLOCATED)
        assert at == segment.address + segment.nbytes
    for before, after in zip(segments, segments[1:], strict=False):
        assert before.address + before.nbytes <= after.address
    assert allocated == allocator.allocated_bytes
    assert sum(segment.nbytes for segment in segments) == allocator.reserved_bytes


@pytest.mark.parametrize("settings", KINDS)
@given(seed=st.integers(0, 10_000))
def test_nothing_is_left_after_everything_was_freed(settings, seed):
    allocator, live, _ = run(settings, seed)
    for address in live:
        allocator.free(address)
    allocator.synchronize()
    for segment in allocator.snapshot():
        assert segment.expandable or len(segment.blocks) == 1
    allocator.empty_cache()
    assert allocator.snapshot() == ()
    assert allocator.driver.free_bytes == 400 * MIB
    assert {value for key, value in allocator.memory_stats().items() if key.endswith(".current")} == {0}


@given(seed=st.integers(0, 10_000), settings=st.sampled_from(KINDS))
def test_the_same_program_gives_the_same_addresses(seed, settings):
    first, second = run(settings, seed), run(settings, seed)
    assert first[0].snapshot() == second[0].snapshot()
    assert first[1:] == second[1:]
