"""Every rule's page, and the programs on it."""

from __future__ import annotations

import contextlib
import gc
import linecache
import sys
import types
from pathlib import Path

import pytest

import memprof
from memprof.detect import RULES, rule_of, run_rules
from memprof.detect.evidence import growth_severity, share_severity
from memprof.detect.finding import REMEDY_SLUGS, Kind, Remedy, Severity
from memprof.detect.rule import HEADINGS, Rule
from memprof.model.build import build
from tests.unit.model.fake_recording import FakeRecording

MIB = 1 << 20


def run_block(rule: type[Rule], heading: str, level: str, folder: Path) -> memprof.Profiler:
    file = folder / f"{rule.code}_{heading.partition(' ')[0].lower()}.py"
    file.write_text(rule.code_block(heading))
    linecache.checkcache()
    program = compile(file.read_text(), str(file), "exec")
    module = types.ModuleType("example")
    module.__file__ = str(file)
    sys.modules["example"] = module  # globals have a name only in a module that is registered
    # What an error's rule explains may end the program.
    expected = (RuntimeError,) if rule.kind is Kind.ERROR and heading == "Example" else ()
    prof = memprof.Profiler(level=level)
    gc.collect()
    gc.disable()  # when it would run, and what it would free, depends on all that this process has done before
    try:
        with contextlib.suppress(*expected), prof:
            exec(program, vars(module))
    finally:
        gc.enable()
        del sys.modules["example"]
    vars(module).clear()
    return prof


HERE = tuple(rule for rule in RULES if not rule.needs_cuda)
"""The others run in tests/cuda."""


@pytest.mark.parametrize("level", ["tensors", "auto"])
@pytest.mark.parametrize("rule", HERE, ids=lambda rule: rule.code)
def test_the_example_fires_its_rule(rule: type[Rule], level: str, tmp_path: Path) -> None:
    prof = run_block(rule, "Example", level, tmp_path)
    found = [finding for finding in prof.findings if finding.code == rule.code]
    assert len(found) == 1, prof.report()
    (finding,) = found
    assert finding.name == rule.name()
    assert finding.kind is rule.kind
    assert finding.location is not None
    assert finding.location.file.startswith(str(tmp_path))
    assert not prof.recording.run.notes


@pytest.mark.parametrize("level", ["tensors", "auto"])
@pytest.mark.parametrize("rule", HERE, ids=lambda rule: rule.code)
def test_what_to_use_instead_fires_nothing_of_its_kind(rule: type[Rule], level: str, tmp_path: Path) -> None:
    prof = run_block(rule, "Use instead", level, tmp_path)
    codes = [finding.code for finding in prof.findings]
    assert rule.code not in codes, prof.report()
    if rule.kind is not Kind.PRESSURE:
        assert not [finding for finding in prof.findings if finding.kind is Kind.LEAK], prof.report()


_STATEMENT = {
    "MP101": "total_loss += loss",
    "MP102": "history.append(loss)",
    "MP103": "outputs.append(out.detach())",
    "MP201": "out = model(torch.randn(256, 64))",
}


@pytest.mark.parametrize("code", _STATEMENT)
def test_a_finding_points_at_the_statement_to_change(code: str, tmp_path: Path) -> None:
    rule = rule_of(code)
    assert rule is not None
    prof = run_block(rule, "Example", "tensors", tmp_path)
    location = next(finding.location for finding in prof.findings if finding.code == code)
    assert location is not None
    assert linecache.getline(location.file, location.line).strip() == _STATEMENT[code]


# ---- pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_page_has_its_headings_in_order_and_says_something_under_each(rule: type[Rule]) -> None:
    assert list(rule.sections()) == list(HEADINGS)
    assert all(rule.sections().values())
    assert rule.summary().endswith(".")
    assert rule.page().startswith(f"# {rule.code} {rule.name()}\n")


def _page(without: str = "") -> str:
    return "Summary.\n\n" + "\n\n".join(f"## {heading}\ntext" for heading in HEADINGS if heading != without)


def _make(name: str, code: str | None, page: str) -> type[Rule]:
    members = {"__doc__": page, "kind": Kind.WASTE, "check": lambda self, model: ()}
    if code is not None:
        members["code"] = code
    return type(name, (Rule,), members)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_page_without_a_heading_fails_when_the_class_is_made(heading: str) -> None:
    with pytest.raises(TypeError, match=f"has no section '{heading}'"):
        _make("Incomplete", f"MP9{HEADINGS.index(heading)}1", _page(heading))


@pytest.mark.parametrize("code", [None, "MP1", "XX101", "MP1011", "mp101"])
def test_a_code_has_its_form(code: str | None) -> None:
    with pytest.raises(TypeError, match="needs a code"):
        _make("Misnumbered", code, _page())


def test_a_code_belongs_to_one_rule() -> None:
    with pytest.raises(TypeError, match="takes code MP101, which belongs to GraphGrowsAcrossIterations"):
        _make("Usurper", "MP101", _page())


def test_a_section_without_a_program_is_told() -> None:
    rule = _make("NoProgram", "MP999", _page())
    with pytest.raises(TypeError, match="section 'Example' shows no program"):
        rule.code_block("Example")


def test_codes_and_names_are_unique_and_lead_to_their_rule() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name() for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule_of(rule.code.lower()) is rule
        assert rule_of(f" {rule.name()} ") is rule
    assert rule_of("MP000") is None
    assert rule_of("") is None


# ---- run_rules -------------------------------------------------------------------------------


def test_a_rule_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_rules(build(FakeRecording()))

    def fails(*_: object) -> object:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(RULES[0], "check", fails)
    with pytest.warns(RuntimeWarning, match=f"{RULES[0].code}: the rule met a problem of its own: ZeroDivisionError"):
        findings, skipped = run_rules(build(FakeRecording()))

    assert findings == before[0]
    assert [item for item in skipped if "by nothing" in item.reason] == [skipped[0]]


def test_a_run_that_was_not_watched_says_so_for_each_leak_rule() -> None:
    fake = FakeRecording(watching=False)
    for _ in range(3):
        fake.step()
    findings, skipped = run_rules(build(fake))
    assert not findings
    reasons = {item.code for item in skipped if "no storage was watched" in item.reason}
    assert reasons == {rule.code for rule in RULES if rule.code.startswith("MP1")}


def test_an_empty_run_has_no_findings() -> None:
    assert run_rules(build(FakeRecording()))[0] == []


# ---- severities and remedies -----------------------------------------------------------------


def _model_with_peak(nbytes: int) -> memprof.Diagnosis:
    fake = FakeRecording(counter_noise=0)
    fake.death(fake.birth(nbytes))
    fake.end_tick()
    return build(fake)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("growth", "peak", "expected"),
    [
        (0, 100 * MIB, Severity.INFO),
        (1023, 100 * MIB, Severity.INFO),
        (1024, 100 * MIB, Severity.WARNING),
        (MIB - 1, 1000 * MIB, Severity.WARNING),
        (MIB, 1000 * MIB, Severity.ERROR),
        (MIB // 2, 50 * MIB, Severity.ERROR),  # 1 % of the peak
        (MIB // 2 - 1, 50 * MIB, Severity.WARNING),
        (8 * 1024, 100 * 1024, Severity.WARNING),  # a large share of almost nothing
        (16 * 1024, 100 * 1024, Severity.ERROR),
    ],
)
def test_growth_severity(growth: int, peak: int, expected: Severity) -> None:
    model = _model_with_peak(peak)
    assert growth_severity(model, "cpu", growth) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nbytes", "peak", "expected"),
    [
        (50, 100, Severity.ERROR),
        (49, 100, Severity.WARNING),
        (5, 100, Severity.WARNING),
        (4, 100, Severity.INFO),
        (MIB, 1000 * MIB, Severity.WARNING),
        (MIB - 1, 1000 * MIB, Severity.INFO),
    ],
)
def test_share_severity(nbytes: int, peak: int, expected: Severity) -> None:
    model = _model_with_peak(peak)
    assert share_severity(nbytes, model.peaks["cpu"]) is expected  # type: ignore[attr-defined]


def test_share_of_an_unknown_peak_is_a_warning() -> None:
    assert share_severity(1, None) is Severity.WARNING


def test_severities_are_ordered() -> None:
    assert [item.rank for item in (Severity.INFO, Severity.WARNING, Severity.ERROR)] == [0, 1, 2]


def test_a_remedy_has_a_known_slug() -> None:
    assert {Remedy(slug, "").slug for slug in REMEDY_SLUGS} == REMEDY_SLUGS
    with pytest.raises(ValueError, match="unknown remedy slug 'pray'"):
        Remedy("pray", "")
