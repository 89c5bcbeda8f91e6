"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof import UsageError
from memprof.units import format_bytes, parse_bytes

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (1536, "1.5 KiB"),
        (10 * KIB + 100, "10.1 KiB"),
        (1000 * KIB, "1000 KiB"),
        (MIB, "1 MiB"),
        (int(38.2 * MIB), "38.2 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (5 * TIB, "5 TiB"),
        (5000 * TIB, "5000 TiB"),
        (-3 * MIB, "-3 MiB"),
    ],
)
def test_format(nbytes: int, text: str) -> None:
    assert format_bytes(nbytes) == text


def test_signed() -> None:
    assert format_bytes(MIB, signed=True) == "+1 MiB"
    assert format_bytes(-MIB, signed=True) == "-1 MiB"
    assert format_bytes(0, signed=True) == "0 B"


@pytest.mark.parametrize("nbytes", [1023.6, KIB * 1023.99, MIB - 1, GIB - 1, MIB * 999.96, MIB * 9.996])
def test_rounding_up_never_shows_five_digits_or_1024(nbytes: float) -> None:
    text = format_bytes(nbytes)
    number = float(text.split()[0])
    assert number < 1024, text
    assert len(text.split()[0].replace(".", "")) <= 4, text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1024", 1024),
        ("512 MiB", 512 * MIB),
        ("8GiB", 8 * GIB),
        ("8g", 8 * GIB),
        ("1k", KIB),
        ("1KB", KIB),
        ("1.5 kib", 1536),
        ("  7 B ", 7),
        ("2T", 2 * TIB),
        ("0", 0),
    ],
)
def test_parse(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "x", "-1", "1 PiB", "1.5.2", "1e3", "MiB", "1 2", "12 i", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes(text)


@given(st.integers(0, 1 << 50))
def test_what_is_shown_can_be_read_and_is_close(nbytes: int) -> None:
    assert parse_bytes(format_bytes(nbytes)) == pytest.approx(nbytes, rel=0.006)
