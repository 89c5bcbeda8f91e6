"""For how many known problems `memprof fix` has an edit that passed: `python -m tests.corpus.fixes`.

Goes through the leaky scripts of the corpus and of `samples/`. A problem counts as mended when a finding with its code
has a verified edit. A script for which nothing passes on the CPU is tried once more on a simulated GPU, for tensors
that are moved to the host are no gain where all are there already.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memprof._errors import MemprofError
from memprof.advise.trial import Results
from memprof.advise.verify import Fix, Status, Verifier, fixable
from memprof.cli.trials import Ended, Trials
from tests.corpus.labels import load
from tests.corpus.runner import captured, places
from tests.integration.sample_labels import LEAKY
from tests.zygote import PayloadError, Zygote

GPU = "16GiB"
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Problem:
    """A script, and the codes of what is wrong with it."""

    path: Path
    codes: tuple[str, ...]
    args: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"


@dataclass(slots=True)
class Mended:
    """What `fix` made of a script.

    Attributes:
        problem: The script.
        fixes: The answer on the CPU, and on a simulated GPU where one was needed.
        failure: Why there is no answer, or ''.
        seconds: How long it took.
    """

    problem: Problem
    fixes: list[Fix] = field(default_factory=list)
    failure: str = ""
    seconds: float = 0.0

    @property
    def verified(self) -> set[str]:
        """Codes that have a verified edit."""
        return {
            outcome.finding.code for fix in self.fixes for outcome in fix.outcomes if outcome.status is Status.VERIFIED
        }


def samples() -> list[Problem]:
    """The leaky scripts of `samples/`."""
    return [Problem(item.path, tuple(dict.fromkeys(one.code for one in item.expected))) for item in LEAKY]


def problems(only: str = "") -> list[Problem]:
    """The leaky scripts, of the corpus and of the samples, that more than pressure is wrong with.

    Args:
        only: Text that the script's name, or one of its codes, must have in it.
    """
    corpus = [
        Problem(script.path, tuple(dict.fromkeys(item.code for item in script.expected)), script.args)
        for script in load()
        if script.expected and script.runs_on("cpu")
    ]
    found = []
    for item in (*corpus, *samples()):
        codes = tuple(code for code in item.codes if not code.startswith("MP3"))
        if codes and (only in item.name or only in codes):
            found.append(replace(item, codes=codes))
    return found


class Mender:
    """Runs `fix` with every run of a script in a child of a process that has imported torch.

    Args:
        jobs: How many scripts at a time.
    """

    def __init__(self, jobs: int = 2) -> None:
        environment, self._env = places("cpu")
        self._jobs = jobs
        self._free: queue.SimpleQueue[Zygote] = queue.SimpleQueue()
        self._zygotes = [Zygote(environment) for _ in range(jobs)]
        for zygote in self._zygotes:
            self._free.put(zygote)

    def __enter__(self) -> Mender:
        return self

    def __exit__(self, *_: object) -> None:
        for zygote in self._zygotes:
            zygote.close()

    def mend(self, problem: Problem, *, simulate: bool = True) -> Mended:
        """Find edits for a script.

        Args:
            problem: The script.
            simulate: Try a simulated GPU where nothing passes without one.
        """
        answer = Mended(problem)
        begin = time.monotonic()
        try:
            answer.fixes.append(self._fix(problem, None))
            uses_cuda = "cuda" in problem.path.read_text(encoding="utf-8")
            if simulate and uses_cuda and set(problem.codes) - answer.verified:
                answer.fixes.append(self._fix(problem, GPU))
        except (MemprofError, PayloadError) as error:
            answer.failure = str(error)
        answer.seconds = time.monotonic() - begin
        return answer

    def all(self, wanted: Sequence[Problem], *, simulate: bool = True) -> Iterator[Mended]:
        """Find edits for scripts beside each other; answers come in order."""
        with ThreadPoolExecutor(self._jobs) as pool:
            yield from pool.map(lambda problem: self.mend(problem, simulate=simulate), wanted)

    def _fix(self, problem: Problem, gpu: str | None) -> Fix:
        order = {
            "module": None,
            "script": str(problem.path),
            "args": list(problem.args),
            "level": "auto" if gpu is None else "tensors",
            "device": "auto",
            "simulate": gpu,
            "max_iterations": None,
        }
        with tempfile.TemporaryDirectory(prefix="memprof-fixes-") as folder:
            trials = Trials(order, Path(folder), problem.path.name, start=self._start)
            before = trials.run({})
            return Verifier(trials.run, before).verify(fixable(trials.findings()))

    def _start(self, order: Path, limit_s: float | None) -> Ended:
        zygote = self._free.get()
        try:
            answer = zygote.run(
                trial_here,
                {"order": str(order)},
                env=self._env,
                cwd=order.parent,
                timeout_s=min(limit_s or TIMEOUT_S, TIMEOUT_S),
            )
        finally:
            self._free.put(zygote)
        return Ended(answer["stdout"], answer["stderr"], answer["exit_status"])


def trial_here(order: str) -> dict[str, Any]:
    """Do what `python -m memprof.cli.trial` does."""
    from memprof.cli.trial import main

    return captured(lambda: sys.exit(main(order)))


# ---- the command -------------------------------------------------------------------------------


def table(mended: Sequence[Mended]) -> str:
    """Problems and verified edits by rule."""
    wanted: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for item in mended:
        wanted.update(item.problem.codes)
        passed.update(code for code in item.problem.codes if code in item.verified)
    rows = [("rule", "problems", "verified", "share")]
    rows += [
        (code, str(wanted[code]), str(passed[code]), f"{passed[code] / wanted[code]:.0%}") for code in sorted(wanted)
    ]
    scripts = sum(bool(item.verified) for item in mended)
    total = sum(wanted.values())
    rows.append(("all", str(total), str(sum(passed.values())), f"{sum(passed.values()) / max(total, 1):.0%}"))
    rows.append(("scripts", str(len(mended)), str(scripts), f"{scripts / max(len(mended), 1):.0%}"))
    return "\n".join("  ".join(cell.rjust(9) for cell in row) for row in rows)


def told(mended: Mended) -> Iterator[str]:
    """What became of each finding of a script, a line each."""
    yield f"{mended.problem.name}: {', '.join(mended.problem.codes)}; {mended.seconds:.0f} s"
    if mended.failure:
        yield f"  failed: {mended.failure[:500]}"
    for fix in mended.fixes:
        where = "no run" if fix.before is None else f"{fix.before.device}, {fix.runs} runs"
        for outcome in fix.outcomes:
            slug = "" if outcome.candidate is None else f" {outcome.candidate.remedy.slug}"
            results = "" if outcome.results is None else f", results {outcome.results.value}"
            yield f"  [{where}] {outcome.finding.code} {outcome.status.value}{slug}{results} {outcome.note}"
            yield from (f"      {attempt.slug}: {attempt.reason}" for attempt in outcome.attempts)


def unnoticed_changes(mended: Sequence[Mended]) -> list[str]:
    """Scripts where the run with all edits computed something else and no edit says so."""
    found = []
    for item in mended:
        for fix in item.fixes:
            design = any(outcome.results is Results.CHANGED_BY_DESIGN for outcome in fix.outcomes)
            compared = not any("were not compared" in outcome.note for outcome in fix.outcomes)
            if fix.before is not None and fix.after is not None and compared and not design:
                if fix.before.losses != fix.after.losses:
                    found.append(item.problem.name)
    return found


def main() -> int:
    """Print the shares; exit status 1 where an edit changes results unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a rule's code, a folder, or part of a script's name")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-simulate", action="store_true", help="stay on the CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    mended = []
    with Mender(options.jobs) as mender:
        for item in mender.all(problems(options.only), simulate=not options.no_simulate):
            mended.append(item)
            print("\n".join(told(item)), flush=True)
    print(table(mended))
    changed = unnoticed_changes(mended)
    if changed:
        print("results changed unnoticed:", ", ".join(changed))
    if options.json is not None:
        by_script = {item.problem.name: sorted(item.verified) for item in mended}
        shares = defaultdict(list)
        for item in mended:
            for code in item.problem.codes:
                shares[code].append(code in item.verified)
        document = {"scripts": by_script, "rules": {code: sum(hits) / len(hits) for code, hits in shares.items()}}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
