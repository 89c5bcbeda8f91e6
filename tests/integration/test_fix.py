"""`memprof fix`: edits that were tried, and written only where they can be taken back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memprof.advise.trial import Results
from memprof.advise.verify import Status
from tests.corpus.fixes import Mender, samples, told, unnoticed_changes
from tests.integration.programs import TINY, memprof, said, write

LEAKY = TINY + "history = []\nfor _ in range(12):\n    history.append(step())\nprint(float(sum(history)))\n"


def fix(
    folder: Path, *args: str, status: int = 0, **options: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = memprof("fix", "--format", "json", "--output", "fix.json", *args, cwd=folder, **options)
    assert done.returncode == status, said(done)
    return done, json.loads((folder / "fix.json").read_text(encoding="utf-8"))


def test_an_edit_is_tried_and_written_with_a_backup(tmp_path: Path) -> None:
    file = write(tmp_path, "train.py", LEAKY)
    _, found = fix(tmp_path, "--apply", "--backup", "train.py")
    (finding,) = found["findings"]
    assert (finding["code"], finding["status"], finding["remedy"]) == ("MP102", "verified", "item")
    assert finding["results"] in ("identical", "equal but for rounding")
    assert found["runs"] >= 2
    assert found["after"]["backwards"] == found["before"]["backwards"] == 12
    assert file.read_text(encoding="utf-8") == LEAKY.replace("append(step())", "append(step().item())")
    assert file.with_name("train.py.orig").read_text(encoding="utf-8") == LEAKY
    assert found["files"][0]["written"] is True


def test_a_module_is_edited_where_the_script_imports_it(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("12", encoding="utf-8")
    body = LEAKY.replace("range(12)", "range(int((Path(__file__).parent / '../data.txt').read_text()))")
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/loop.py", "from pathlib import Path\n" + body)
    write(tmp_path, "train.py", "import pkg.loop\n")
    done = memprof("fix", "train.py", cwd=tmp_path)
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, said(done)
    assert "+++ pkg/loop.py" in text
    assert "+ history.append(step().item())" in text
    assert "item, verified: the script was run with it" in text
    assert "peak on cpu" in text
    assert ".item()" not in (tmp_path / "pkg" / "loop.py").read_text(encoding="utf-8")


def test_without_a_run_an_edit_is_called_so(tmp_path: Path) -> None:
    file = write(tmp_path, "train.py", LEAKY)
    _, found = fix(tmp_path, "--no-verify", "--select", "MP102", "train.py")
    assert [finding["status"] for finding in found["findings"]] == ["unverified"]
    assert (found["after"], found["runs"]) == (None, None)
    assert file.read_text(encoding="utf-8") == LEAKY


def test_nothing_to_fix_is_success(tmp_path: Path) -> None:
    write(tmp_path, "train.py", TINY + "for _ in range(6):\n    step()\n")
    _, found = fix(tmp_path, "train.py")
    assert (found["findings"], found["complete"], found["after"]) == ([], True, None)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "name a script"),
        (("--backup", "train.py"), "give both"),
    ],
)
def test_what_cannot_work_is_told(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    done = memprof("fix", *args, cwd=tmp_path)
    assert done.returncode == 2, said(done)
    assert says in done.stderr


# ---- the samples -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mender() -> Iterator[Mender]:
    with Mender(jobs=1) as made:
        yield made


@pytest.mark.parametrize(
    ("sample", "edits", "results"),
    [
        ("tabular_mlp_leaky", {("MP101", "item")}, Results.IDENTICAL),
        ("resnet_argparse_leaky", {("MP101", "item"), ("MP201", "no_grad")}, Results.IDENTICAL),
        ("lstm_language_model_leaky", {("MP104", "detach")}, Results.CHANGED_BY_DESIGN),
        ("super_resolution_leaky", {("MP202", "del")}, Results.IDENTICAL),
    ],
)
def test_samples_are_mended(mender: Mender, sample: str, edits: set[tuple[str, str]], results: Results) -> None:
    (problem,) = (item for item in samples() if item.path.stem == sample)
    answer = mender.mend(problem)

    assert answer.failure == ""
    (fix,) = answer.fixes
    said = "\n".join(told(answer))
    made = {
        (outcome.finding.code, outcome.candidate.remedy.slug)
        for outcome in fix.outcomes
        if outcome.status is Status.VERIFIED and outcome.candidate is not None
    }
    assert edits <= made, said
    assert {outcome.results for outcome in fix.outcomes} == {results}, said
    assert fix.before is not None
    assert fix.after is not None
    assert (fix.after.peak_bytes or 0) < (fix.before.peak_bytes or 0)
    assert unnoticed_changes([answer]) == []


def test_analyze_shows_edits_below_its_report(tmp_path: Path) -> None:
    file = write(tmp_path, "train.py", LEAKY)
    done = memprof("analyze", "--fix", "train.py", cwd=tmp_path)
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, said(done)
    assert text.index("Peak on cpu") < text.index("item, not verified") < text.index("append(step().item())")
    assert file.read_text(encoding="utf-8") == LEAKY
    done = memprof("analyze", "--fix", "--format", "json", "train.py", cwd=tmp_path)
    assert done.returncode == 2, said(done)
    assert "memprof fix --no-verify" in done.stderr
