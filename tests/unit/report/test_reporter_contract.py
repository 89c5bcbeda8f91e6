"""What every registered reporter must do with every kind of diagnosis."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

import memprof.report
from memprof._errors import UsageError
from memprof.report import REPORTERS, Reporter, load_reporter
from tests import factories

SCENARIOS = sorted(factories.SCENARIOS)
MAGIC = {
    "rich": b"",
    "json": b"{",
    "html": b"<!doctype html>",
    "png": b"\x89PNG\r\n",
    "snapshot": b"\x80\x04",
    "perfetto": b"{",
}


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_reporter_fulfils_the_protocol_with_default_options(name: str) -> None:
    reporter = load_reporter(name)()

    assert isinstance(reporter, Reporter)
    assert reporter.name == name
    assert all(suffix.startswith(".") for suffix in reporter.suffixes)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_reporter_renders_every_scenario_the_same_way_twice(name: str, scenario: str) -> None:
    reporter = load_reporter(name)()
    diagnosis = factories.SCENARIOS[scenario]()

    first = reporter.render(diagnosis)

    assert len(first) > 50
    assert first.startswith(MAGIC[name])
    assert reporter.render(factories.SCENARIOS[scenario]()) == first


@pytest.mark.parametrize("name", ["rich", "json", "html", "perfetto"])
def test_text_never_holds_raw_control_characters(name: str) -> None:
    text = load_reporter(name)().render(factories.hostile()).decode("utf-8")

    # The newline is the report's own; everything else came from the user's program.
    raw = {character for character in text if not character.isprintable()} - {"\n"}
    assert raw == set()


@pytest.mark.parametrize("name", ["rich", "json", "html", "perfetto"])
@pytest.mark.parametrize("scenario", ["simulated", "steps_only"])
def test_text_shows_sources_that_are_not_measurements(name: str, scenario: str) -> None:
    text = load_reporter(name)().render(factories.SCENARIOS[scenario]()).decode()

    assert {"simulated": "simulated", "steps_only": "estimated"}[scenario] in text


def test_unknown_reporter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no reporter named 'docx'; known: rich, json, html, png, snapshot, perfetto"):
        load_reporter("docx")


def test_reporter_of_another_distribution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("outside", "memprof.report.json_report:JsonReporter", memprof.report.ENTRY_POINT_GROUP)
    monkeypatch.setattr(memprof.report, "entry_points", lambda group: EntryPoints([entry]).select(group=group))

    assert load_reporter("outside").__name__ == "JsonReporter"


@pytest.mark.parametrize("name", ["rich", "json"])
def test_another_distribution_cannot_replace_a_reporter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name, "os:getcwd", memprof.report.ENTRY_POINT_GROUP)
    monkeypatch.setattr(memprof.report, "entry_points", lambda group: EntryPoints([entry]))

    assert load_reporter(name).name == name


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, memprof.report\n"
        "heavy = {'rich', 'matplotlib', 'torch', 'numpy', 'memprof.capture'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for load in memprof.report.REPORTERS.values(): load()\n"
        "heavy = {'torch', 'memprof.capture', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
