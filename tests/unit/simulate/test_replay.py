"""Histories lived through again."""

from __future__ import annotations

import random

import numpy as np
import pytest

from memprof.record.blocks import Block, BlockAction, BlockEvents, BlockState, Segment
from memprof.simulate import AllocatorSettings, BlockReplay, CachingAllocator
from memprof.simulate.driver import FirstFitDriver
from memprof.simulate.intervals import Intervals
from memprof.simulate.replay import replay

MIB = 1 << 20
A = BlockAction


def events(*rows):
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    action, address, nbytes = (np.array(column, np.int64) for column in columns)
    zeros = np.zeros(len(action), np.int64)
    return BlockEvents(action.astype(np.int8), zeros, address, nbytes, zeros, zeros.astype(np.int32))


def test_a_block_is_as_large_as_what_it_was_cut_from_where_the_rest_is_too_small():
    usage = BlockReplay().follow(
        events(
            (A.SEGMENT_ALLOC, 0, 20 * MIB),
            (A.ALLOC, 0, 19 * MIB + 100),
            (A.FREE_REQUESTED, 0, 19 * MIB + 100),
            (A.FREE_COMPLETED, 0, 19 * MIB + 100),
            (A.ALLOC, 0, 5 * MIB + 1),
            (A.SEGMENT_FREE, 0, 20 * MIB),
        )
    )
    assert usage.block_bytes.tolist() == [0, 20 * MIB, 20 * MIB, 20 * MIB, 5 * MIB + 512, 0]
    assert usage.allocated_bytes.tolist() == [0, 20 * MIB, 0, 0, 5 * MIB + 512, 5 * MIB + 512]
    assert usage.active_bytes.tolist() == [0, 20 * MIB, 20 * MIB, 0, 5 * MIB + 512, 5 * MIB + 512]
    assert usage.reserved_bytes.tolist() == [20 * MIB] * 5 + [0]


def test_blocks_of_neighbouring_segments_stay_apart():
    usage = BlockReplay().follow(
        events(
            (A.SEGMENT_ALLOC, 0, 2 * MIB),
            (A.SEGMENT_ALLOC, 2 * MIB, 2 * MIB),
            (A.ALLOC, 2 * MIB, 512),
            (A.FREE_COMPLETED, 2 * MIB, 512),
            (A.ALLOC, 0, 512),
        )
    )
    assert usage.block_bytes.tolist() == [0, 0, 512, 512, 512]


def test_it_starts_from_what_the_device_held():
    blocks = (
        Block(0, MIB + 512, MIB + 1, BlockState.ACTIVE_ALLOCATED, -1),
        Block(MIB + 512, 2 * MIB, 2 * MIB, BlockState.ACTIVE_AWAITING_FREE, -1),
        Block(3 * MIB + 512, 17 * MIB - 512, 0, BlockState.INACTIVE, -1),
    )
    follower = BlockReplay(segments=[Segment(0, 20 * MIB, 0, True, (0, 0), False, blocks)])
    assert (follower.allocated_bytes, follower.active_bytes, follower.reserved_bytes) == (
        MIB + 512,
        3 * MIB + 512,
        20 * MIB,
    )
    follower.follow(events((A.FREE_COMPLETED, MIB + 512, 2 * MIB)))
    assert follower.free_blocks == {MIB + 512: 19 * MIB - 512}
    assert follower.live_blocks == {0: MIB + 512}


def test_what_began_earlier_counts_as_its_request():
    follower = BlockReplay()
    usage = follower.follow(
        events(
            (A.FREE_REQUESTED, 512, 1000),
            (A.FREE_COMPLETED, 512, 1000),
            (A.ALLOC, 512, 700),
            (A.FREE_REQUESTED, 512, 700),
        )
    )
    assert usage.block_bytes.tolist() == [1024, 1024, 1024, 1024]
    assert follower.allocated_bytes == -1024


def test_no_events_change_nothing():
    follower = BlockReplay()
    assert len(follower.follow(events()).block_bytes) == 0
    assert follower.reserved_bytes == 0


class Recorder(FirstFitDriver):
    """Writes a history of what a model does, as the real allocator would."""

    def __init__(self, total_bytes):
        super().__init__(total_bytes)
        self.rows = []

    def malloc(self, nbytes):
        address = super().malloc(nbytes)
        if address is not None:
            self.rows.append((A.SEGMENT_ALLOC, address, nbytes))
        return address

    def free(self, address):
        self.rows.append((A.SEGMENT_FREE, address, self._memory._size[address]))
        super().free(address)


def record(settings, seed, operations=400):
    chance = random.Random(seed)
    driver = Recorder(1 << 30)
    allocator = CachingAllocator(settings=AllocatorSettings.parse(settings), driver=driver)
    live = {}
    for _ in range(operations):
        if live and chance.random() < 0.45:
            address = chance.choice(list(live))
            driver.rows.append((A.FREE_REQUESTED, address, live[address]))
            driver.rows.append((A.FREE_COMPLETED, address, live.pop(address)))
            allocator.free(address)
        else:
            nbytes = chance.choice([700, 1 << 19, 2 << 20, 19 << 20]) + chance.randrange(1 << 20)
            address = allocator.malloc(nbytes)
            driver.rows.append((A.ALLOC, address, nbytes))
            live[address] = nbytes
        if chance.random() < 0.01:
            allocator.empty_cache()
    return allocator, driver.rows


@pytest.mark.parametrize("settings", ["", "max_split_size_mb:20", "roundup_power2_divisions:8"])
@pytest.mark.parametrize("seed", range(5))
def test_a_recorded_model_is_followed_exactly_chunk_by_chunk(settings, seed):
    allocator, rows = record(settings, seed)
    follower = BlockReplay(AllocatorSettings.parse(settings))
    for start in range(0, len(rows), 37):
        follower.follow(events(*rows[start : start + 37]))
    held = {block.address: block.nbytes for segment in allocator.snapshot() for block in segment.blocks if block.state}
    assert follower.live_blocks == held
    assert (follower.allocated_bytes, follower.reserved_bytes) == (allocator.allocated_bytes, allocator.reserved_bytes)


def test_a_replay_under_the_same_settings_needs_the_same():
    allocator, rows = record("", 3)
    report = replay(events(*rows), total_bytes=1 << 30)
    stats = allocator.memory_stats()
    assert report.peak_allocated_bytes == stats["allocated_bytes.all.peak"]
    assert report.out_of_memory_event is None
    assert 0 <= report.fragmentation < 1


def test_a_smaller_device_runs_out_of_memory_at_an_event():
    rows = [(A.ALLOC, 0, 30 * MIB), (A.ALLOC, 30 * MIB, 30 * MIB)]
    report = replay(events(*rows), total_bytes=40 * MIB)
    assert report.out_of_memory_event == 1
    assert "30 MiB" in report.out_of_memory
    assert replay(events(), AllocatorSettings()).fragmentation == 0


def test_a_block_held_up_by_a_stream_is_held_up_again():
    rows = [
        (A.ALLOC, 0, 20 * MIB),
        (A.FREE_REQUESTED, 0, 20 * MIB),
        (A.ALLOC, 99, 20 * MIB),
        (A.FREE_COMPLETED, 0, 20 * MIB),
        (A.ALLOC, 0, 20 * MIB),
    ]
    assert replay(events(*rows)).peak_reserved_bytes == 40 * MIB
    rows = [rows[0], rows[1], rows[3], rows[2]]
    assert replay(events(*rows)).peak_reserved_bytes == 20 * MIB


def test_intervals():
    found = Intervals()
    found.add(10, 20)
    found.add(30, 40)
    found.add(20, 30)
    found.remove(15, 18)
    assert [number for number in range(50) if number in found] == [*range(10, 15), *range(18, 40)]
    found.remove(0, 100)
    assert 12 not in found
    found.remove(0, 1)
