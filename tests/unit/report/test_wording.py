"""Words and places all reports share."""

from __future__ import annotations

import linecache
import os
from dataclasses import replace
from pathlib import Path

import pytest

from memprof._errors import OutputError
from memprof.model.memory import Source, Trend
from memprof.record.events import Location
from memprof.record.run_info import RunInfo
from memprof.report.destination import write_output
from memprof.report.growth import is_steady, trend_sentence
from memprof.report.source_lines import place, short_path, source_line
from memprof.report.wording import (
    duration,
    escape_controls,
    headline,
    main_device,
    outcome,
    per_iteration,
    percent,
    size,
)
from tests import factories


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("été 训练 🔥", "été 训练 🔥"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31m\x9b\x7f", "\\x1b[31m\\x9b\\x7f"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\udcff", "\\udcff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
    ],
)
def test_control_characters_are_escaped(raw: str, shown: str) -> None:
    assert escape_controls(raw) == shown


@pytest.mark.parametrize(
    ("nbytes", "source", "shown"),
    [
        (None, None, "unknown"),
        (float("nan"), Source.MEASURED, "unknown"),
        (0, Source.MEASURED, "0 B"),
        (3 << 20, Source.SIMULATED, "3 MiB (simulated)"),
        (3 << 20, Source.ESTIMATED, "3 MiB (estimated)"),
    ],
)
def test_size_names_its_source(nbytes: float | None, source: Source | None, shown: str) -> None:
    assert size(nbytes, source) == shown


@pytest.mark.parametrize(
    ("duration_ns", "shown"),
    [
        (0, "0.00 us"),
        (850_000, "850 us"),
        (12_300_000, "12.3 ms"),
        (4_210_000_000, "4.21 s"),
        (125_000_000_000, "2 min 05 s"),
    ],
)
def test_duration(duration_ns: int, shown: str) -> None:
    assert duration(duration_ns) == shown


def test_growth_below_one_byte_is_none() -> None:
    assert per_iteration(0.4) == "+0 B/iteration"
    assert per_iteration(-2048.0) == "-2 KiB/iteration"


def test_trend_is_told_in_a_sentence() -> None:
    trend = Trend(2048.0, 3, 40, 38, 0.75, Source.ESTIMATED)

    assert trend_sentence(trend) == "+2 KiB/iteration over iterations 3 to 40, rising in 75 % (estimated)"
    assert trend_sentence(replace(trend, bytes_per_iteration=0.0)) == "steady over iterations 3 to 40 (estimated)"
    assert trend_sentence(replace(trend, bytes_per_iteration=float("inf"))) == "unknown over iterations 3 to 40"


def test_growth_that_leaves_no_mark_on_the_peak_is_none() -> None:
    trend = Trend(1024.0, 0, 50, 51, 0.5, Source.MEASURED)  # 50 KiB in all

    assert trend_sentence(trend, 50 << 20) == "steady over iterations 0 to 50"
    assert trend_sentence(trend, 1 << 20) == "+1 KiB/iteration over iterations 0 to 50, rising in 50 %"
    assert is_steady(replace(trend, bytes_per_iteration=-1024.0), 50 << 20)


def test_outcome_tells_a_notebook_from_a_killed_run() -> None:
    assert outcome(RunInfo(exit_status=3, finished=True)) == "exit status 3"
    assert outcome(RunInfo(exit_status=None, finished=True)) == ""
    assert outcome(RunInfo(exit_status=None, finished=False)) == "did not finish"


def test_headline_counts_all_iterations() -> None:
    said = headline(factories.clean().model)

    assert said == "train.py | torch 2.13.0 | level tensors | cpu | 30 iterations | exit status 0"


def test_main_device_has_the_largest_peak() -> None:
    assert main_device(factories.two_devices().model) == "cuda:1"
    assert main_device(factories.empty().model) is None


def test_small_shares_are_not_zero() -> None:
    assert percent(1, 1000) == "<1 %"
    assert percent(0, 1000) == "0 %"
    assert percent(1, 0) == "-"


def test_path_is_relative_only_where_shorter() -> None:
    assert short_path("/home/me/project/train.py", "/home/me/project") == "train.py"
    assert short_path("/a.py", "/home/me/project") == "/a.py"
    assert short_path("<stdin>", "/home") == "<stdin>"
    assert place(Location("/p/a.py", 3, "<module>"), "/p") == "a.py:3"


def test_source_of_a_notebook_cell_is_read_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "<ipython-input-1-abc>"
    monkeypatch.setitem(linecache.cache, cell, (10, None, ["x = 1\n", "  y = 2\n"], cell))

    assert source_line(Location(cell, 2, "<module>")) == "y = 2"
    assert source_line(Location("<unknown>", 1, "f")) is None


def test_source_that_is_no_text_is_no_error(tmp_path: Path) -> None:
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00\n" * 3)
    fifo = tmp_path / "fifo.py"
    os.mkfifo(fifo)

    assert source_line(Location(str(binary), 1, "f")) is None
    assert source_line(Location(str(fifo), 1, "f")) is None  # reading it would wait for ever
    assert source_line(Location(str(tmp_path), 1, "f")) is None
    assert source_line(Location("\0", 1, "f")) is None
    assert source_line(Location(__file__, 10**6, "f")) is None
    assert source_line(Location(__file__, 0, "f")) is None


def test_source_changed_meanwhile_is_read_again(tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.write_text("old = 1\n")
    assert source_line(Location(str(script), 1, "f")) == "old = 1"
    script.write_text("newer = 22\n")
    assert source_line(Location(str(script), 1, "f")) == "newer = 22"


def test_output_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old and longer")

    assert write_output(target, b"new") == target
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["no/such/folder.json", "null\0byte.json", "x" * 300])
def test_unwritable_output_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write '.*\. (Create|Choose)"):
        write_output(tmp_path / name, b"")
