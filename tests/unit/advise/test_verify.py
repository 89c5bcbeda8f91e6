"""Edits tried on runs that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from memprof.advise.trial import Results, SeenFinding, Trial, compare
from memprof.advise.verify import Status, Verifier, fixable, unverified
from memprof.detect.finding import Finding, Kind, Remedy, Severity
from memprof.model.memory import Source
from memprof.record.events import Location

MIB = 1 << 20
SOURCE = "import torch\nfor x in loader:\n    total += loss\n    history.append(out)\n    out, h = rnn(x, h)\n"


def trial(**changes: object) -> Trial:
    base = Trial(
        exit_status=0,
        exception=None,
        losses=(1.0, 0.5),
        output="loss 0.5000\n",
        device="cuda:0",
        peak_bytes=10 * MIB,
        peak_source="measured",
        bytes_per_iteration=1000.0,
        growth_source="measured",
        iteration_ns=1_000_000,
        iterations=2,
        findings=(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def finding(file: Path, line: int, code: str, *slugs: str, growth: float | None = 1000.0) -> Finding:
    return Finding(
        code=code,
        name="",
        kind=Kind.LEAK,
        severity=Severity.WARNING,
        location=Location(str(file), line, ""),
        device="cuda:0",
        bytes=None,
        bytes_per_iteration=growth,
        source=Source.MEASURED,
        message="",
        holder="",
        remedies=tuple(Remedy(slug, "") for slug in slugs),
    )


def seen(found: Finding, **changes: object) -> SeenFinding:
    where = found.location
    assert where is not None
    base = SeenFinding(
        found.code, found.kind.value, "warning", where.file, where.line, found.bytes_per_iteration, found.device
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "train.py"
    file.write_text(SOURCE, encoding="utf-8")
    return file


class Script:
    """Runs by looking at the text: `answer` says what a run of it gives."""

    def __init__(self, file: Path, answer: Callable[[str], Trial]) -> None:
        self.file = file
        self.answer = answer
        self.texts: list[str] = []

    def __call__(self, texts: Mapping[str, bytes]) -> Trial:
        text = texts.get(str(self.file.resolve()), SOURCE.encode()).decode()
        self.texts.append(text)
        return self.answer(text)


# ---- what two runs computed ------------------------------------------------------------------


def test_the_same_is_identical() -> None:
    assert compare(trial(losses=(math.nan, 1.0)), trial(losses=(math.nan, 1.0))) == (Results.IDENTICAL, "")


def test_one_bit_of_a_loss_is_a_change() -> None:
    verdict, note = compare(trial(), trial(losses=(1.0, math.nextafter(0.5, 1))))
    assert verdict is Results.CHANGED
    assert "backward 2 of 2" in note
    assert compare(trial(), trial(losses=(1.0,)))[1] == "1 backwards instead of 2"


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("loss 0.123456", "loss 0.123457", Results.ROUNDING),
        ("loss tensor(0.1235, grad_fn=<AddBackward0>)", "loss 0.12345679", Results.ROUNDING),
        ("loss tensor(2.5, device='cuda:0')", "loss 2.5", Results.ROUNDING),
        ("loss 0.12", "loss 0.13", Results.CHANGED),
        ("accuracy 0.91", "accuracy 0.92", Results.CHANGED),
        ("17 right", "18 right", Results.CHANGED),
        ("well", "bad", Results.CHANGED),
        ("one", "one\ntwo", Results.CHANGED),
    ],
)
def test_printed_figures_may_differ_by_rounding_only(old: str, new: str, verdict: Results) -> None:
    assert compare(trial(output=old), trial(output=new))[0] is verdict


def test_what_differs_from_run_to_run_is_not_compared() -> None:
    before, after = trial(output="took 1.2 s\nloss 0.5"), trial(output="took 1.3 s\nloss 0.5")
    assert compare(before, after)[0] is Results.CHANGED
    assert compare(before, after, again=trial(output="took 1.4 s\nloss 0.5"))[0] is Results.IDENTICAL
    changed = replace(after, output="took 1.3 s\nloss 0.6")
    assert compare(before, changed, again=trial(output="took 1.4 s\nloss 0.5"))[0] is Results.CHANGED
    losses = trial(losses=(3.0, 4.0))
    verdict, note = compare(trial(), losses, again=trial(losses=(5.0, 6.0)))
    assert verdict is Results.IDENTICAL
    assert "were not compared" in note


def test_a_script_that_says_nothing_is_not_called_compared() -> None:
    silent = trial(losses=(), output="\n")
    assert "only how it ends was compared" in compare(silent, silent)[1]


# ---- edits tried -----------------------------------------------------------------------------


def test_edits_that_pass_together_take_one_run(script: Path) -> None:
    found = [finding(script, 3, "MP101", "item"), finding(script, 4, "MP102", "detach")]
    run = Script(script, lambda text: trial(findings=() if ".item()" in text else (seen(found[0]),)))
    fix = Verifier(run, trial(findings=tuple(map(seen, found)))).verify(found)
    assert [outcome.status for outcome in fix.outcomes] == [Status.VERIFIED] * 2
    assert (fix.runs, fix.complete, len(run.texts)) == (2, True, 1)
    assert fix.outcomes[0].results is Results.IDENTICAL
    assert "loss.item()" in run.texts[0]
    assert "out.detach()" in run.texts[0]


EVALUATION = "import torch\ndef evaluate():\n    for x in loader:\n        out = model(x)\n        kept.append(out)\n"


@pytest.mark.parametrize("missed", [False, True])
def test_a_detach_under_no_grad_is_taken_back_if_nothing_is_missed(script: Path, missed: bool) -> None:
    script.write_text(EVALUATION, encoding="utf-8")
    found = [finding(script, 5, "MP102", "detach"), finding(script, 4, "MP201", "no_grad")]

    def answer(text: str) -> Trial:
        line = 2 + text.splitlines().index("def evaluate():")
        bare = missed and ".detach()" not in text
        return trial(findings=(seen(found[0], line=line + 2),) if bare else ())

    run = Script(script, answer)
    fix = Verifier(run, trial(findings=tuple(map(seen, found)))).verify(found)

    assert [outcome.status for outcome in fix.outcomes] == [Status.VERIFIED] * 2
    assert (fix.runs, fix.complete) == (3, True)
    assert [".detach()" in text for text in run.texts] == [True, False]
    (text,) = fix.edited.texts.values()
    assert (b".detach()" in text) is missed
    assert b"@torch.no_grad()" in text
    if not missed:
        assert fix.outcomes[0].candidate is None
        assert "autograd is turned off around it" in fix.outcomes[0].note
        assert fix.after is not None


def test_a_detach_elsewhere_takes_no_run_of_its_own(script: Path) -> None:
    script.write_text(EVALUATION + "for x in loader:\n    history.append(model(x))\n", encoding="utf-8")
    found = [finding(script, 7, "MP102", "detach"), finding(script, 4, "MP201", "no_grad")]

    fix = Verifier(Script(script, lambda text: trial()), trial()).verify(found)

    assert fix.runs == 2
    assert all(outcome.candidate is not None for outcome in fix.outcomes)


def test_an_edit_that_changes_results_is_not_offered_and_spoils_no_other(script: Path) -> None:
    found = [finding(script, 3, "MP101", "item"), finding(script, 4, "MP102", "detach")]
    run = Script(script, lambda text: trial(losses=(1.0, 0.7 if ".detach()" in text else 0.5)))
    fix = Verifier(run, trial()).verify(found)
    assert [outcome.status for outcome in fix.outcomes] == [Status.VERIFIED, Status.REJECTED]
    (attempt,) = fix.outcomes[1].attempts
    assert attempt.tried
    assert "losses differ from backward 2" in attempt.reason
    (text,) = fix.edited.texts.values()
    assert b".detach()" not in text
    assert not fix.complete


def test_where_one_remedy_fails_the_next_is_tried(script: Path) -> None:
    found = [finding(script, 3, "MP101", "item", "detach")]

    def answer(text: str) -> Trial:
        if ".item()" in text or "float(" in text:
            return trial(exit_status=1, exception="AttributeError: 'float' object has no attribute 'item'")
        return trial()

    fix = Verifier(Script(script, answer), trial()).verify(found)
    (outcome,) = fix.outcomes
    assert outcome.status is Status.VERIFIED
    assert outcome.candidate is not None
    assert outcome.candidate.remedy.slug == "detach"
    assert [attempt.reason[:13] for attempt in outcome.attempts] == ["the run fails"]  # told once
    assert fix.runs == 4


def test_a_recipe_that_would_fail_for_the_same_reason_is_not_tried(script: Path) -> None:
    found = [finding(script, 3, "MP101", "item", "detach")]

    def answer(text: str) -> Trial:
        if ".detach()" not in text:
            return trial(exit_status=1, exception="ValueError: only one element tensors can be converted")
        return trial()

    fix = Verifier(Script(script, answer), trial()).verify(found)
    assert fix.outcomes[0].status is Status.VERIFIED
    assert len(fix.outcomes[0].attempts) == 1


def test_what_must_change_together_is_tried_together(script: Path) -> None:
    found = [finding(script, 3, "MP103", "move_to_cpu"), finding(script, 4, "MP103", "move_to_cpu")]

    def answer(text: str) -> Trial:
        if text.count(".cpu()") == 1:
            return trial(exit_status=1, exception="RuntimeError: found at least two devices")
        return trial(findings=(seen(found[1], device="cpu", line=9),))

    class Grouped(Script):
        """Fails in the first joint run, as it would beside another edit that fails."""

        def __call__(self, texts: Mapping[str, bytes]) -> Trial:
            result = super().__call__(texts)
            return trial(exit_status=1, exception="other") if len(self.texts) == 1 else result

    fix = Verifier(Grouped(script, answer), trial()).verify(found)
    assert [outcome.status for outcome in fix.outcomes] == [Status.VERIFIED] * 2


def test_what_is_left_on_another_device_was_moved_there(script: Path) -> None:
    found = [finding(script, 4, "MP103", "move_to_cpu")]
    left = seen(found[0], device="host")
    fix = Verifier(Script(script, lambda _: trial(findings=(left,))), trial()).verify(found)
    assert fix.outcomes[0].status is Status.VERIFIED
    found = [finding(script, 4, "MP102", "detach")]
    fix = Verifier(Script(script, lambda _: trial(findings=(left,))), trial()).verify(found)
    assert fix.outcomes[0].status is Status.REJECTED


def test_an_edit_that_does_not_help_is_told(script: Path) -> None:
    found = [finding(script, 4, "MP103", "move_to_cpu")]
    run = Script(script, lambda _: trial(findings=(seen(found[0]),)))
    fix = Verifier(run, trial()).verify(found)
    assert fix.outcomes[0].status is Status.REJECTED
    assert "does not help" in fix.outcomes[0].attempts[0].reason
    assert not fix.edited.files


def test_an_edit_that_halves_the_growth_is_progress(script: Path) -> None:
    found = [finding(script, 4, "MP102", "detach")]
    left = seen(found[0], code="MP103", bytes_per_iteration=250.0)
    fix = Verifier(Script(script, lambda _: trial(findings=(left,))), trial()).verify(found)
    assert fix.outcomes[0].status is Status.VERIFIED
    assert "MP103 is left with 25% of the growth" in fix.outcomes[0].note


def test_a_higher_peak_is_no_help(script: Path) -> None:
    found = [finding(script, 4, "MP102", "detach")]
    fix = Verifier(Script(script, lambda _: trial(peak_bytes=12 * MIB)), trial()).verify(found)
    assert "the peak rises" in fix.outcomes[0].attempts[0].reason


def test_what_must_change_results_says_so_and_is_the_measure_of_what_follows(script: Path) -> None:
    found = [finding(script, 5, "MP104", "detach"), finding(script, 3, "MP101", "item")]
    run = Script(script, lambda text: trial(losses=(1.0, 0.6 if "h.detach()" in text else 0.5)))
    fix = Verifier(run, trial()).verify(found)
    assert [outcome.status for outcome in fix.outcomes] == [Status.VERIFIED] * 2
    assert fix.outcomes[0].results is Results.CHANGED_BY_DESIGN
    assert "no longer flow" in fix.outcomes[0].note
    assert fix.outcomes[1].results is Results.IDENTICAL


def test_a_change_that_makes_losses_infinite_is_refused(script: Path) -> None:
    found = [finding(script, 5, "MP104", "detach")]
    run = Script(script, lambda text: trial(losses=(1.0, math.inf if "detach" in text else 0.5)))
    assert Verifier(run, trial()).verify(found).outcomes[0].status is Status.REJECTED


def test_a_script_that_fails_anyway_may_go_on_failing(script: Path) -> None:
    failing = trial(exit_status=1, exception="RuntimeError: out of data")
    fix = Verifier(Script(script, lambda _: failing), failing).verify([finding(script, 3, "MP101", "item")])
    assert fix.outcomes[0].status is Status.VERIFIED


def test_an_error_is_mended_by_what_ends_well(script: Path) -> None:
    script.write_text("fc = nn.Linear(3, 2)\ntotal += loss\n", encoding="utf-8")
    shape = replace(finding(script, 1, "MP402", "fix_shape", growth=None), kind=Kind.ERROR)
    shape = replace(shape, remedies=(Remedy("fix_shape", "write `nn.Linear(5, 2)`"),))
    failing = trial(exit_status=1, exception="RuntimeError: shapes", losses=())

    def answer(text: str) -> Trial:
        if "Linear(5, 2)" not in text:
            return failing
        return trial(exit_status=1, exception="TypeError: item") if "item" in text else trial(peak_bytes=99 * MIB)

    fix = Verifier(Script(script, answer), failing).verify([shape, finding(script, 2, "MP101", "item")])
    assert fix.outcomes[0].status is Status.VERIFIED
    assert fix.outcomes[0].results is Results.CHANGED_BY_DESIGN
    assert fix.outcomes[1].status is Status.REJECTED
    assert "TypeError: item" in fix.outcomes[1].attempts[0].reason
    found_again = replace(failing, findings=(seen(shape),))
    still = Verifier(Script(script, lambda _: found_again), failing).verify([shape])
    assert "does not help" in still.outcomes[0].attempts[0].reason


def test_no_edit_is_not_a_failed_one(script: Path) -> None:
    found = [finding(script, 3, "MP115", "freeze"), finding(script, 2, "MP101", "item")]
    fix = Verifier(Script(script, lambda _: trial()), trial()).verify(found)
    assert [outcome.status for outcome in fix.outcomes] == [Status.NO_EDIT] * 2
    assert "head of a block" in fix.outcomes[1].attempts[0].reason
    assert fix.runs == 1


# ---- without runs ----------------------------------------------------------------------------


def test_edits_without_a_run_are_called_unverified(script: Path) -> None:
    fix = unverified([finding(script, 3, "MP101", "item"), finding(script, 2, "MP101", "item")])
    assert [outcome.status for outcome in fix.outcomes] == [Status.UNVERIFIED, Status.NO_EDIT]
    assert fix.after is None
    assert len(fix.edited.files) == 1


def test_only_what_can_be_mended_is_looked_at(script: Path) -> None:
    leak, other = finding(script, 3, "MP101", "item"), finding(script, 3, "MP201", "no_grad")
    pressure = replace(leak, code="MP301", kind=Kind.PRESSURE)
    assert fixable([leak, pressure, other]) == [leak, other]
    assert fixable([leak, pressure, other], ["MP2", "MP3"]) == [other]
