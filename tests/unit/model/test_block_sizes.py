"""Sizes of blocks, followed through splits and merges as the caching allocator makes them."""

from __future__ import annotations

import numpy as np
import pytest

from memprof.model.block_sizes import block_sizes
from memprof.record.blocks import BlockAction, BlockState
from memprof.record.schema import SEGMENT_COLUMNS

MIB = 1 << 20
BASE = 1 << 44
A, FREE, DONE = BlockAction.ALLOC, BlockAction.FREE_REQUESTED, BlockAction.FREE_COMPLETED
SEG, UNSEG, MAP, UNMAP = (
    BlockAction.SEGMENT_ALLOC,
    BlockAction.SEGMENT_FREE,
    BlockAction.SEGMENT_MAP,
    BlockAction.SEGMENT_UNMAP,
)


def sizes(*events: tuple[int, int, int], settings: dict[str, object] | None = None) -> list[int]:
    rows = np.array([(0, action, 0, address, nbytes, 0, -1) for action, address, nbytes in events], np.int64)
    return block_sizes([], rows, np.zeros(len(rows), np.int64), settings or {}).tolist()


def test_a_small_request_is_rounded_to_512() -> None:
    assert sizes((SEG, BASE, 2 * MIB), (A, BASE, 1), (A, BASE + 512, 1300)) == [0, 512, 1536]


def test_a_rest_of_the_large_pool_up_to_one_mib_stays_with_the_block() -> None:
    assert sizes((SEG, BASE, 20 * MIB), (A, BASE, 19 * MIB)) == [0, 20 * MIB]
    assert sizes((SEG, BASE, 20 * MIB), (A, BASE, 19 * MIB - 512)) == [0, 19 * MIB - 512]


def test_freed_neighbours_merge_and_are_given_again_as_one() -> None:
    found = sizes(
        (SEG, BASE, 20 * MIB),
        (A, BASE, 4 * MIB),
        (A, BASE + 4 * MIB, 4 * MIB),
        (FREE, BASE, 4 * MIB),
        (DONE, BASE, 4 * MIB),
        (FREE, BASE + 4 * MIB, 4 * MIB),
        (DONE, BASE + 4 * MIB, 4 * MIB),
        (A, BASE, 19 * MIB),
    )
    assert found == [0, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 20 * MIB]


def test_blocks_do_not_merge_across_segments() -> None:
    found = sizes(
        (SEG, BASE, 2 * MIB),
        (SEG, BASE + 2 * MIB, 2 * MIB),
        (A, BASE, 2 * MIB),
        (FREE, BASE, 2 * MIB),
        (DONE, BASE, 2 * MIB),
        (A, BASE, 3 * MIB),  # impossible in one segment: what is not known is rounded
    )
    assert found[-1] == 3 * MIB


def test_expandable_segments_split_finely_and_unmap() -> None:
    found = sizes(
        (MAP, BASE, 20 * MIB),
        (A, BASE, 19 * MIB),
        (FREE, BASE, 19 * MIB),
        (DONE, BASE, 19 * MIB),
        (UNMAP, BASE, 20 * MIB),
        (MAP, BASE, 20 * MIB),
        (A, BASE, 20 * MIB),
    )
    assert (found[1], found[-1]) == (19 * MIB, 20 * MIB)


def test_a_freed_segment_is_forgotten() -> None:
    assert (
        sizes((SEG, BASE, 20 * MIB), (UNSEG, BASE, 20 * MIB), (SEG, BASE, 30 * MIB), (A, BASE, 29 * MIB))[-1]
        == 30 * MIB
    )


def test_settings_change_rounding_and_splitting() -> None:
    divisions = {"roundup_power2_divisions": {str(1 << power): 4 for power in range(16)}}
    assert sizes((SEG, BASE, 20 * MIB), (A, BASE, 5 * MIB + 1), settings=divisions)[-1] == 6 * MIB
    limited = {"max_split_size": 20 * MIB}
    assert sizes((SEG, BASE, 60 * MIB), (A, BASE, 40 * MIB), settings=limited)[-1] == 60 * MIB


@pytest.mark.parametrize("state", [BlockState.ACTIVE_ALLOCATED, BlockState.ACTIVE_AWAITING_FREE])
def test_what_was_there_before_counts(state: BlockState) -> None:
    held = (0, BASE, 2 * MIB, 0, 0, 0, 0, 0, BASE, 1024, 1000, int(state), -1)
    free = (0, BASE, 2 * MIB, 0, 0, 0, 0, 0, BASE + 1024, 2 * MIB - 1024, 0, int(BlockState.INACTIVE), -1)
    start = np.array([held, free], np.int64).reshape(-1, len(SEGMENT_COLUMNS))
    events = np.array([(0, A, 0, BASE + 1024, 100, 0, -1), (0, DONE, 0, BASE, 1000, 0, -1)], np.int64)
    assert block_sizes([(0, start)], events, np.zeros(2, np.int64), {}).tolist() == [512, 1024]
