"""The unpickler of plain values: what it reads equals what Python's reads, and code is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memprof.record.plain_pickle import PlainUnpickler, RefusedError

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=300)
)
_PLAIN = st.recursive(
    _SCALARS | st.lists(_SCALARS, max_size=4).map(tuple),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_SCALARS, inner, max_size=5),
    max_leaves=30,
)


def load(path: Path) -> Any:
    with open(path, "rb") as file:
        return PlainUnpickler(file).load()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), again=st.booleans())
def test_plain_values_come_back(tmp_path: Path, value: Any, protocol: int, again: bool) -> None:
    path = tmp_path / "plain.pickle"
    path.write_bytes(pickle.dumps([value, value] if again else value, protocol))
    found = load(path)
    assert found == ([value, value] if again else value)
    if again and isinstance(value, (list, dict)):
        assert found[0] is found[1]


def test_values_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    value = {"text": "ä" * (1 << 20), "number": 1 << (8 << 18), "many": list(range(200_000)), "last": "x" * 256}
    path = tmp_path / "large.pickle"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(value, protocol))
        assert load(path) == value


def test_a_list_may_hold_itself(tmp_path: Path) -> None:
    value: list[Any] = [1]
    value.append(value)
    path = tmp_path / "recursive.pickle"
    path.write_bytes(pickle.dumps(value))
    found = load(path)
    assert found[0] == 1
    assert found[1] is found


class _Thing:
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_object_is_refused_by_the_name_of_what_it_needs(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "object.pickle"
    path.write_bytes(pickle.dumps({"a": [_Thing()]}, protocol))
    wanted = r"copyreg\._reconstructor|copy_reg\._reconstructor" if protocol < 2 else r"test_plain_pickle\._Thing"
    with pytest.raises(RefusedError, match=wanted):
        load(path)


@pytest.mark.parametrize("value", [{(1, 2): 3}, ((1, 2), 3), b"bytes", {1, 2}, frozenset({1}), bytearray(b"x")])
def test_what_no_snapshot_holds_is_an_error(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "other.pickle"
    path.write_bytes(pickle.dumps(value, 5))
    with pytest.raises((TypeError, ValueError, RefusedError)):
        load(path)


def test_what_follows_the_value_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "two.pickle"
    path.write_bytes(pickle.dumps([1]) + b"cos\nsystem\n.")
    assert load(path) == [1]
