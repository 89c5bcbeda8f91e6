"""`memprof lint` as a command, and on the samples."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from memprof.lint import Confidence, LintOptions, check_paths, lint_paths
from tests.corpus.labels import load
from tests.corpus.score import THRESHOLDS, score, table
from tests.corpus.tools import lint
from tests.integration.sample_labels import SAMPLES, SAMPLES_DIR, line_number

SEEN = {
    "autoencoder_feature_bank_leaky.py": {"MP103"},
    "average_meter_leaky.py": {"MP101"},
    "cnn_classifier_leaky.py": {"MP201"},
    "dqn_replay_leaky.py": {"MP102"},
    "early_stopping_leaky.py": {"MP113"},
    "ema_weights_leaky.py": {"MP112"},
    "gan_leaky.py": {"MP102"},
    "gradient_accumulation_leaky.py": {"MP101"},
    "gru_streaming_leaky.py": {"MP104"},
    "lstm_language_model_leaky.py": {"MP104"},
    "metrics_dict_leaky.py": {"MP101"},
    "quickstart.py": {"MP102", "MP201"},
    "regression_notebook_leaky.py": {"MP102", "MP201"},
    "resnet_argparse_leaky.py": {"MP101", "MP201"},
    "tabular_mlp_leaky.py": {"MP101"},
    "text_embedding_bag_leaky.py": {"MP205"},
    "trainer_class_leaky.py": {"MP102", "MP103"},
    "transformer_hooks_leaky.py": {"MP107"},
}
"""Codes given for each sample; nothing is said of the others, for which only a run can tell."""


def run(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memprof", "lint", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )


@pytest.mark.parametrize("label", SAMPLES, ids=lambda label: label.name)
def test_samples(label) -> None:
    found = lint_paths([label.path])

    assert {item.code for item in found} == SEEN.get(label.name, set())
    found = [item for item in found if item.code != "MP205"]  # on the line that joins, not on the one that keeps
    lines = {line_number(label.path, item.line) for item in label.expected if item.line is not None}
    lines |= {line_number(label.path, item.line) for item in label.allowed if item.line is not None}
    assert {item.line for item in found} <= lines


def test_corpus() -> None:
    scripts = load()
    whole = score(scripts, lint(scripts, Namespace()), static=True)
    shares = whole.total.shares

    assert whole.failures == []
    for name in ("precision", "lines", "remedies"):
        share = shares[name]
        assert share is not None
        assert share >= THRESHOLDS[name], f"{table(whole)}\n" + "\n".join(whole.problems)
    assert whole.silent >= 0.97 * whole.clean, whole.problems


def test_a_finding_is_exit_status_1() -> None:
    result = run("quickstart.py", cwd=SAMPLES_DIR)

    assert result.returncode == 1
    assert result.stderr == ""
    first, second, last = result.stdout.splitlines()
    assert first.startswith("quickstart.py:32:18: MP201 ")
    assert second.startswith("quickstart.py:34:9: MP102 ")
    assert last == "Found 2 problems in 1 file."


def test_nothing_found_is_exit_status_0() -> None:
    result = run("quickstart_fixed.py", cwd=SAMPLES_DIR)

    assert (result.returncode, result.stdout) == (0, "No problem found in 1 file.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing.py",),
        ("--statistics", "--output-format", "json", "quickstart.py"),
        ("--select", "MP999", "quickstart.py"),
        ("-", "quickstart.py"),
        ("--stdin-filename", "x.py", "quickstart.py"),
        ("--confidence", "sure", "quickstart.py"),
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, cwd=SAMPLES_DIR)

    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_file_that_cannot_be_parsed_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("for x in:\n", encoding="utf-8")
    (tmp_path / "good.py").write_text("import torch\n", encoding="utf-8")

    result = run(".", cwd=tmp_path)

    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "bad.py:1:1: error: cannot be parsed: invalid syntax",
        "No problem found in 1 file; 1 could not be checked.",
    ]


def test_options_of_the_command_line_and_of_the_project(tmp_path: Path) -> None:
    text = (SAMPLES_DIR / "quickstart.py").read_text(encoding="utf-8")
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train.py").write_text(text, encoding="utf-8")
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.memprof.lint]\nignore = ['MP201']\n", encoding="utf-8")
    other = tmp_path / "other.toml"
    other.write_text("[tool.memprof.lint]\nselect = ['MP201']\nconfidence = 'high'\n", encoding="utf-8")

    def codes(*arguments: str) -> list[str]:
        result = run(".", "--output-format", "json", *arguments, cwd=tmp_path)
        return sorted(f"{item['file']} {item['code']}" for item in json.loads(result.stdout)["findings"])

    assert codes() == ["old/train.py MP102", "train.py MP102"]
    assert codes("--exclude", "old") == ["train.py MP102"]
    assert codes("--ignore", "MP102") == []
    assert codes("--select", "MP201", "--exclude", "old") == []
    assert codes("--config", "other.toml", "--exclude", "old") == ["train.py MP201"]
    assert codes("--config", "other.toml", "--select", "MP1", "--exclude", "old") == ["train.py MP102"]
    assert codes("--confidence", "high", "--exclude", "old") == ["train.py MP102"]

    project.write_text("[tool.memprof.lint]\nignoer = []\n", encoding="utf-8")
    assert run(".", cwd=tmp_path).returncode == 2


def test_standard_input(tmp_path: Path) -> None:
    text = (SAMPLES_DIR / "tabular_mlp_leaky.py").read_text(encoding="utf-8")

    named = run("-", "--stdin-filename", "train.py", stdin=text, cwd=tmp_path)
    unnamed = run("-", stdin=text, cwd=tmp_path)

    assert named.returncode == unnamed.returncode == 1
    assert named.stdout.startswith("train.py:48:9: MP101 ")
    assert unnamed.stdout.startswith("stdin.py:48:9: MP101 ")


def test_the_current_folder_without_a_path(tmp_path: Path) -> None:
    text = (SAMPLES_DIR / "quickstart.py").read_text(encoding="utf-8")
    (tmp_path / "train.py").write_text(text, encoding="utf-8")

    plain = run(cwd=tmp_path)
    counted = run("--statistics", "--exit-zero", cwd=tmp_path)
    left_out = run("--exclude", "train.py", "--force-exclude", "train.py", cwd=tmp_path)

    assert plain.returncode == 1
    assert plain.stdout.startswith("train.py:32:18: MP201 ")
    assert counted.returncode == 0
    assert [line[:8] for line in counted.stdout.splitlines()] == ["1  MP102", "1  MP201", "Found 2 "]
    assert (left_out.returncode, left_out.stdout) == (0, "No problem found in 0 files.\n")


def test_the_hook_for_pre_commit_is_a_command_that_exists() -> None:
    text = (Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    (entry,) = re.findall(r"entry: memprof (.*)", text)
    (args,) = re.findall(r"args: (.*)", text)

    result = run(*json.loads(args), cwd=SAMPLES_DIR)

    assert entry == "lint"
    assert (result.returncode, result.stderr) == (1, "")


def test_an_answer_in_a_file(tmp_path: Path) -> None:
    target = tmp_path / "lint.sarif"

    result = run(str(SAMPLES_DIR / "quickstart.py"), "--output-format", "sarif", "--output", str(target))

    assert (result.returncode, result.stdout, result.stderr) == (1, "", "Found 2 problems in 1 file.\n")
    assert len(json.loads(target.read_text(encoding="utf-8"))["runs"][0]["results"]) == 2


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from memprof.lint import lint_paths; import memprof.report.lint_formats;"
        f"lint_paths([{str(SAMPLES_DIR / 'quickstart.py')!r}]);"
        "print([name for name in ('torch', 'matplotlib', 'libcst') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_nothing_is_said_of_memprof_itself() -> None:
    package = Path(__file__).parents[2] / "memprof"

    result = check_paths(
        [package / "capture", package / "lint", package / "cli"], LintOptions(confidence=Confidence.LOW)
    )

    assert result.findings == ()
    assert result.unreadable == ()
    assert result.files > 50


def test_edits_are_shown_as_a_diff(tmp_path: Path) -> None:
    """No graph is left in the patched samples but that of states, which must change; the files are not written."""
    for label in SAMPLES:
        (tmp_path / label.name).write_bytes(label.path.read_bytes())
    before = lint_paths([tmp_path])

    done = run("--diff", ".", cwd=tmp_path)

    assert done.returncode == 1
    assert f"Found {len(before)} problems" in done.stderr
    assert len(lint_paths([tmp_path])) == len(before)
    patched = subprocess.run(
        ["git", "apply", "-p0", "-"], cwd=tmp_path, input=done.stdout, text=True, capture_output=True, check=False
    )
    assert patched.returncode == 0, patched.stderr
    count = re.search(r"(\d+) have an edit that nobody has tried, (\d+) have none", done.stderr)
    assert count is not None
    assert int(count[1]) + int(count[2]) == len(before)
    assert int(count[1]) > 15
    graphs = {"MP101", "MP102", "MP104", "MP112", "MP201"}
    assert {item.code for item in lint_paths([tmp_path])} & graphs == {"MP104"}


def test_a_diff_has_a_form_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("import torch\n", encoding="utf-8")

    clean = run("--diff", "fine.py", cwd=tmp_path)
    assert (clean.returncode, clean.stdout) == (0, "")
    for arguments in (("--diff", "--output-format", "json"), ("--diff", "--statistics"), ("--diff", "-")):
        refused = run(*arguments, cwd=tmp_path, stdin="import torch\n")
        assert refused.returncode == 2
        assert "--diff" in refused.stderr
