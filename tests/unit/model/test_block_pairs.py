"""Which event frees which block, beside the loop that says what is meant."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memprof.model.blocks import pair_lifetimes

_MADE, _FOUND, _FREED = range(3)


def naive(events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Follow the events one by one."""
    born: list[list[int]] = []
    live: dict[int, int] = {}
    for number, (where, kind) in enumerate(events):
        if kind == _MADE or (kind == _FOUND and where not in live):
            live[where] = len(born)
            born.append([number, -1])
        elif kind == _FREED and where in live:
            born[live.pop(where)][1] = number
    return [(begun, freed) for begun, freed in born]


@settings(max_examples=300, deadline=None)
@given(events=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=40))
def test_pairs_are_those_of_following_the_events(events: list[tuple[int, int]]) -> None:
    where = np.array([where for where, _ in events], np.int64)
    kind = np.array([kind for _, kind in events], np.int64)
    born, by = pair_lifetimes(where, kind != _FREED, kind == _FOUND)
    assert list(zip(born.tolist(), by.tolist(), strict=True)) == naive(events)
