"""The terminal report: what it says, and that it can be read everywhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from memprof.detect.finding import Remedy, Skipped
from memprof.model.memory import Source
from memprof.record.events import Location
from memprof.report.terminal import TerminalOptions, TerminalReporter, make_console
from tests import factories

ESCAPE = "\x1b"


def text_of(diagnosis, width: int = 80, **options: object) -> str:
    return TerminalReporter(TerminalOptions(text_width=width, cwd="/project", **options)).to_text(diagnosis)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("scenario", ["leaking", "clean", "empty", "steps_only", "hostile", "two_devices"])
def test_report_reads_as_agreed(scenario: str, width: int, golden: Callable[[str, str], None]) -> None:
    text = text_of(factories.SCENARIOS[scenario](), width, verbose=width == 120)

    golden(f"report/{scenario}_{width}.txt", text)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("scenario", sorted(factories.SCENARIOS))
def test_no_line_is_wider_than_the_page(scenario: str, width: int) -> None:
    text = text_of(factories.SCENARIOS[scenario](), width, verbose=True)

    assert max(len(line) for line in text.splitlines()) <= width


def test_verdict_comes_before_findings_and_findings_before_the_peak() -> None:
    text = text_of(factories.leaking())

    order = [text.index(part) for part in ("1 error, 1 warning", "MP101 error", "MP401 warning", "Peak on cpu")]
    assert order == sorted(order)


def test_clean_run_says_so_and_still_shows_its_peak() -> None:
    text = text_of(factories.clean())

    assert "no problem found\n" in text
    assert "Peak on cpu: 276 MiB allocated" in text
    assert re.search(r"ACTIVATION +█+.* +\d+(\.\d+)? MiB +\d+ %", text)


def test_nothing_recorded_is_not_called_no_problem() -> None:
    text = text_of(factories.empty())

    assert "no problem" not in text
    assert "nothing recorded" in text


def test_savings_show_their_source_and_unknown_ones_are_left_out() -> None:
    text = words(text_of(factories.leaking()))

    assert "item: append `loss.item()`, a number without a graph - saves about 1.42 GiB of the peak (simulated)" in text
    assert re.search(r"smaller_batch: halve the batch (?!- saves)", text)


@pytest.mark.parametrize(
    ("saves_bytes", "said"),
    [(0, "leaves the peak as it is (estimated)"), (-2048, "costs about 2 KiB more (estimated)"), (None, None)],
)
def test_a_saving_of_zero_is_not_an_unknown_one(saves_bytes: int | None, said: str | None) -> None:
    source = None if saves_bytes is None else Source.ESTIMATED
    whole = factories.leaking()
    finding = replace(whole.findings[0], remedies=(Remedy("item", "do it", saves_bytes, source),))

    text = text_of(replace(whole, findings=(finding,)))

    remedy = next(line for line in text.splitlines() if "do it" in line)
    assert remedy.endswith(f"- {said}" if said else "item: do it")


def test_unknown_figures_are_dashes_or_unknown_never_zero() -> None:
    text = text_of(factories.steps_only())

    assert re.search(r"^ +3 +train +- +- +- +- ", text, re.MULTILINE)
    assert re.search(r"^ +size +unknown on cpu$", text, re.MULTILINE)
    assert "composition unknown" in text
    assert not re.search(r"\b0 B\b|\bnan\b|\bNone\b", text)


def test_every_figure_of_a_simulated_run_says_so() -> None:
    text = text_of(factories.simulated(), 120)

    assert re.search(r"size +1\.42 GiB, \+38\.2 MiB/iteration on cuda:0 \(simulated\)", text)
    assert re.search(r"Peak on cuda:0: .* \(simulated\)\n", text)
    assert "memory of cuda:0 (simulated)\n" in text
    assert re.search(r"growth +\+38\.2 MiB/iteration over .* \(simulated\)\n", text)


def test_mixed_sources_get_a_column() -> None:
    whole = factories.leaking()
    first = whole.model.iterations[0]
    guessed = replace(first, devices={"cpu": replace(first.devices["cpu"], source=Source.ESTIMATED)})
    model = replace(whole.model, iterations=(guessed, *whole.model.iterations[1:]))

    text = text_of(replace(whole, model=model))

    assert re.search(r"^ +0 +train .* estimated$", text, re.MULTILINE)
    assert re.search(r"^ +1 +train .* measured$", text, re.MULTILINE)


def test_narrow_pages_leave_columns_out_and_cut_no_figure() -> None:
    diagnosis = factories.leaking()

    for width in (40, 50, 60):
        text = text_of(diagnosis, width)
        table = text[text.index("Peak on") :]
        assert "1.59 GiB" in table  # where the last iteration ends
        assert "1.76 GiB" in table  # its peak
        assert "OPTIMIZER_STATE" in table
        assert max(map(len, text.splitlines())) <= width
    assert " start " not in text_of(diagnosis, 40)
    assert " start " in text_of(diagnosis, 80)


def test_many_undecided_rules_are_counted() -> None:
    skipped = tuple(Skipped(f"MP10{number}", "not watched") for number in range(1, 8))
    diagnosis = replace(factories.clean(), skipped=skipped)

    assert "no problem found (7 rules could not decide; -v tells why)\n" in text_of(diagnosis)


def test_a_headline_breaks_between_its_parts() -> None:
    lines = text_of(factories.clean(), 40).splitlines()

    assert lines[:3] == ["train.py | torch 2.13.0 | level tensors", "cpu | 30 iterations | exit status 0", ""]


def test_notes_name_files_from_where_the_page_is_read() -> None:
    whole = factories.clean()
    run = replace(whole.model.run, notes=("dry run: .item() at /project/train.py:60 gave 0",))
    diagnosis = replace(whole, model=replace(whole.model, run=run))

    assert ".item() at train.py:60 gave 0" in TerminalReporter(TerminalOptions(cwd="/project")).to_text(diagnosis)
    assert ".item() at /project/train.py:60" in TerminalReporter(TerminalOptions(cwd="/")).to_text(diagnosis)


def test_skipped_rules_are_explained_only_when_verbose() -> None:
    assert "no evaluation was seen" not in text_of(factories.leaking())
    assert "could not decide: MP103, MP201" in text_of(factories.leaking())
    assert re.search(r"MP103 +no evaluation was seen", text_of(factories.leaking(), verbose=True))


def test_notes_of_the_capture_are_shown() -> None:
    assert "Notes\n  -  memory is the resident set size" in text_of(factories.steps_only())


def test_exception_and_exit_status_are_shown() -> None:
    text = words(text_of(factories.crashed()))

    assert "exit status 1" in text
    assert "the script stopped with OutOfMemoryError: CUDA out of memory." in text


def test_names_are_never_markup() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system="truecolor")  # markup is on here

    TerminalReporter(TerminalOptions(cwd="/project", verbose=True)).print(factories.hostile(), console)

    text = out.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    for name in ("[red]x$_y^2$", "[bold]x[/bold]", "dict `[/]`", "[link=x]y[/link]", "[blink]</script>"):
        assert name in plain
    assert ESCAPE not in plain
    assert "\\x1b[31m.py" in plain
    assert "\\u202e" in plain


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1", "TERM": "xterm-256color"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"]
)
def test_no_colour_where_none_is_wanted(environment: dict[str, str]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, _environ=environment)

    TerminalReporter().print(factories.leaking(), console)

    assert "MP101 error" in re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    # Bold may stay; colours (30 to 37, 38, 90 to 97) may not.
    codes = {code for codes in re.findall(r"\x1b\[([0-9;]*)m", out.getvalue()) for code in codes.split(";")}
    assert not codes & {str(code) for code in (*range(30, 39), *range(90, 98))}


def test_no_escapes_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    out = io.StringIO()

    TerminalReporter().print(factories.leaking(), make_console(out))

    assert ESCAPE not in out.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("scenario", ["leaking", "non_ascii", "hostile", "windows"])
def test_a_terminal_without_unicode_is_enough(scenario: str, encoding: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="strict")

    TerminalReporter().print(factories.SCENARIOS[scenario](), Console(file=out, width=80))
    out.flush()

    text = raw.getvalue().decode(encoding)
    assert "MP101 error" in text
    if scenario == "non_ascii":
        assert "\\u8bad" in text
    if scenario == "leaking":
        assert re.search(r"ACTIVATION +#{5,} ", text)


def test_source_line_is_shown_where_it_can_be_read(tmp_path) -> None:
    script = tmp_path / "loop.py"
    script.write_text("import torch\n\tfoo = [bar]  # [red]\n", encoding="utf-8")
    whole = factories.leaking()
    finding = replace(whole.findings[0], location=Location(str(script), 2, "train"))
    reporter = TerminalReporter(TerminalOptions(cwd=str(tmp_path), text_width=120))

    text = reporter.to_text(replace(whole, findings=(finding,)))

    assert re.search(r"at +loop\.py:2 in train\n +> foo = \[bar\]  # \[red\]\n", text)


def test_missing_source_is_no_error() -> None:
    assert "\n    at         train.py:41 in train\n    size" in text_of(factories.leaking())


def test_iterations_in_the_middle_are_left_out_but_not_the_peak() -> None:
    whole = factories.windows()
    peak = replace(whole.model.peaks["cpu"], iteration=77)

    text = text_of(replace(whole, model=replace(whole.model, peaks={"cpu": peak})))

    listed = [int(n) for n in re.findall(r"^ +(\d+) +(?:train|evaluate) ", text, re.MULTILINE)]
    assert listed == [0, 1, 2, 3, 77, 196, 197, 198, 199]
    assert re.findall(r"… +(\d+) more", text) == ["73", "118"]


def test_table_is_about_the_device_with_the_largest_peak() -> None:
    text = text_of(factories.two_devices())

    assert "memory of cuda:1\n" in text
    assert re.search(r"cuda:0 +▄+ +96 MiB\n +growth +steady", text)
    assert re.search(r"cuda:1 +▁.*█ +112 MiB to 416 MiB\n", text)


def test_partly_watched_peak_keeps_its_percentages_honest() -> None:
    whole = factories.clean()
    peak = whole.model.peaks["cpu"]
    halved = {name: nbytes // 2 for name, nbytes in (peak.by_category or {}).items()}
    model = replace(whole.model, peaks={"cpu": replace(peak, by_category=halved)})

    text = text_of(replace(whole, model=model))

    assert re.search(r"not watched +█+ +138 MiB +50 %", text)


def test_long_run_is_quick_and_short() -> None:
    text = text_of(factories.long_run(2000, 5))

    assert len(text.splitlines()) < 60
    assert "1,992 more" in text or "1,991 more" in text


def test_evidence_is_shown_in_its_units_and_stays_short() -> None:
    whole = factories.leaking()
    evidence = {
        "truncated": True,
        "wait_ns": 2_500_000,
        "bytes_per_iteration": 2048.0,
        "shape": [8, 3],
        "ends": list(range(50)),
        "nothing": None,
        "nested": {"a": 1},
        "nodes": 12_345,
        "seventh": "not shown",
    }

    text = words(text_of(replace(whole, findings=(replace(whole.findings[0], evidence=evidence),)), 120))

    assert (
        "evidence truncated yes, wait 2.50 ms, bytes per iteration +2 KiB, shape [8, 3], ends (50 values), "
        "nodes 12,345 remedy"
    ) in text


def test_what_remedies_save_together_is_said_of_several() -> None:
    leaking = factories.leaking()
    combined = leaking.combined
    assert combined is not None
    both = replace(combined, remedies=combined.remedies * 2)

    assert "together" not in text_of(leaking)
    assert (
        "The first remedies of 2 leaks and wastes together save about 1.42 GiB of the peak on cpu "
        "and end +38.2 MiB/iteration (simulated)." in words(text_of(replace(leaking, combined=both)))
    )


def test_where_a_script_came_to_its_end_nothing_was_cut_off() -> None:
    killed = factories.steps_only()
    ended = replace(killed, model=replace(killed.model, run=replace(killed.model.run, finished=True, exit_status=0)))
    failed = replace(killed, model=replace(killed.model, run=replace(killed.model.run, finished=True, exit_status=1)))

    assert "train, cut off" in text_of(killed)
    assert "train, cut off" in text_of(failed)
    assert "cut off" not in text_of(ended)


def test_text_has_colours_only_where_they_are_asked_for() -> None:
    assert ESCAPE not in text_of(factories.leaking())
    assert f"{ESCAPE}[1;31mMP101 error" in text_of(factories.leaking(), text_color=True)


def test_a_long_exception_is_told_by_its_beginning() -> None:
    whole = factories.crashed()
    exception = "UnpicklingError: \x1b[1mcannot load\x1b[0m. " + "why " * 100 + "\n\t(1) do this"
    run = replace(whole.model.run, exception=exception)
    text = words(text_of(replace(whole, findings=(), model=replace(whole.model, run=run))))

    assert "the script stopped with UnpicklingError: cannot load. why why" in text
    assert " ... " in text
    assert "do this" not in text


def test_a_narrow_page_leaves_out_other_columns_before_it_hides_what_is_an_estimate() -> None:
    whole = factories.clean()
    first, *rest = whole.model.iterations
    estimated = replace(first, devices={"cpu": replace(first.devices["cpu"], source=Source.ESTIMATED)})
    text = text_of(replace(whole, model=replace(whole.model, iterations=(estimated, *rest))), 60)

    [row] = re.findall(r"^ +0 .*$", text, re.MULTILINE)
    assert row.rstrip().endswith("estimated")
