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


def test_a_snapshot_is_summed_up_as_in_the_terminal() -> None:
    said = words(HtmlReporter().to_text(factories.snapshot()))

    assert "cuda:0 when the snapshot was taken" in said
    assert "reserved 20 MiB in 1 segment" in said
    assert "awaiting free 1 MiB that the program freed and another stream still used" in said
    assert "3 MiB /project/&lt;/b&gt;train.py:45 in train 1 block, " in said
    assert "2 MiB line unknown 1 block, older than the trace" in said


def test_the_sum_of_a_device_says_when_that_was_and_needs_no_peak() -> None:
    whole = factories.on_cuda()

    for model in (whole.model, replace(whole.model, peaks={})):
        said = words(HtmlReporter().to_text(replace(whole, model=model)))
        assert "Where the memory of cuda:0 was after iteration 11" in said
        assert "used on the device, of 1.95 GiB 1000 MiB" in said


def test_a_peak_that_is_an_estimate_says_so_in_its_row() -> None:
    page = HtmlReporter().to_text(factories.on_cuda())
    row = page.partition('<td class="number">0</td>')[2].partition("</tr>")[0]

    assert [cell.endswith(" (estimated)") for cell in re.findall(r'<td class="number">([^<]*)<', row)][:3] == [
        False,
        False,
        True,
    ]
