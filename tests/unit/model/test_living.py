"""What is alive at a moment: the index says what going through all storages would say."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memprof.model import living
from memprof.model.lifetimes import read_lifetimes
from memprof.model.living import Living
from memprof.record.events import Birth, Death, Phase

LIVES = st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 30))), max_size=40)


@given(lives=LIVES, apart=st.integers(1, 9))
def test_the_index_agrees_with_going_through_all(lives: list[tuple[int, int | None]], apart: int) -> None:
    births = [Birth(row, at, 0, Phase.OTHER, 8, "", "cpu", "", None, None, None) for row, (at, _) in enumerate(lives)]
    deaths = [Death(row, at, 0, Phase.OTHER) for row, (_, at) in enumerate(lives) if at is not None]
    table = read_lifetimes(births, deaths, ())
    with mock.patch.object(living, "_LEAST_APART", apart):
        index = Living(table)
    for time_ns in range(-1, 33):
        alive = (table.birth_ns <= time_ns) & (~table.died | (table.death_ns > time_ns))
        assert index.at(time_ns).tolist() == np.flatnonzero(alive).tolist()
        born = (table.birth_ns >= time_ns) & (table.birth_ns <= time_ns + 3)
        assert index.born(time_ns, time_ns + 3).tolist() == np.flatnonzero(born).tolist()


def test_notes_are_no_longer_than_the_table() -> None:
    # Nothing ever dies: notes at equal distances would be as long as the square of the table.
    count = 50_000
    births = (Birth(row, row, 0, Phase.OTHER, 8, "", "cpu", "", None, None, None) for row in range(count))
    index = Living(read_lifetimes(births, (), ()))
    assert sum(map(len, index._noted)) <= 3 * count
    assert index.at(count // 2).tolist() == list(range(count // 2 + 1))
