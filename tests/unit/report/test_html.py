"""The report as a page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from memprof.report.html_report import HtmlOptions, HtmlReporter
from tests import factories


def words(page: str) -> str:
    """What a reader sees of a page, apart from its picture."""
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_page_says_what_the_terminal_says() -> None:
    diagnosis = factories.leaking()
    said = words(HtmlReporter().to_text(diagnosis))

    for finding in diagnosis.findings:
        assert f"{finding.code} {finding.severity.value}" in said
        for remedy in finding.remedies:
            assert remedy.slug in said
    [peak] = diagnosis.model.peaks.values()
    assert peak.by_category
    assert all(category in said for category in peak.by_category)
    assert f"Growth on {peak.device}: " in said


def test_page_needs_nothing_else() -> None:
    page = HtmlReporter().to_text(factories.leaking())
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert [link.partition(",")[0] for link in links] == ["data:image/png;base64"]


def test_markup_of_a_program_is_text() -> None:
    page = HtmlReporter().to_text(factories.hostile())
    assert "<script" not in page
    assert "&lt;" in page


def test_code_in_a_sentence_is_set_as_code_and_stays_text() -> None:
    whole = factories.leaking()
    finding = replace(whole.findings[0], message="Store `loss.item()` or `<b>` in `history`.")
    page = HtmlReporter().to_text(replace(whole, findings=(finding,)))

    said = "<p>Store <code>loss.item()</code> or <code>&lt;b&gt;</code> in <code>history</code>.</p>"
    assert said in page


@pytest.mark.parametrize("scenario", ["empty", "steps_only", "simulated"])
def test_scarce_facts_are_called_unknown(scenario: str) -> None:
    page = HtmlReporter(HtmlOptions(edge_iterations=1)).to_text(factories.SCENARIOS[scenario]())
    assert "None" not in words(page)


def test_only_edges_of_many_iterations_are_listed() -> None:
    page = HtmlReporter(HtmlOptions(edge_iterations=1)).to_text(factories.leaking())
    assert re.search(r'colspan="8">\d+ more<', page)
