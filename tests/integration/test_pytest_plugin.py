"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import json

import pytest

_QUIET = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:asyncio")


@pytest.fixture
def run(pytester: pytest.Pytester):
    def run_pytest(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=text)
        return pytester.runpytest_subprocess(*_QUIET, *options, timeout=120)

    return run_pytest


_LEAK = """
import pytest, torch
kept = []

@pytest.mark.memprof_leaks
def test_leak():
    kept.append(torch.zeros(256, 1024))
"""


def test_a_leak_fails_and_says_what_survived_and_where(run) -> None:
    result = run(_LEAK)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*memprof: 1 MiB of tensors survive each of the 3 repetitions after 1 repetition of warm-up, measured*"]
    )
    result.stdout.fnmatch_lines(
        ["*1 MiB in 1 tensor made at test_it.py:6, held by list `kept` of module `test_it`, 4 tensors"]
    )


def test_a_leak_under_its_limit_passes(run) -> None:
    run(_LEAK.replace("memprof_leaks", "memprof_leaks(limit='1 MiB')")).assert_outcomes(passed=1)


def test_graph_that_grows_is_a_leak(run) -> None:
    result = run(
        """
import pytest, torch
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
total = 0
mean = 0

@pytest.mark.memprof_leaks(repeat=6)
def test_activations():
    global total
    total = total + model(torch.randn(32, 64)).mean()

@pytest.mark.memprof_leaks(limit="1 KiB", repeat=6)
def test_nodes_below_a_limit():
    global mean
    loss = model(torch.randn(32, 64)).mean()
    loss.backward()
    mean = mean + loss

@pytest.mark.memprof_leaks(repeat=6)
def test_nodes_alone():
    test_nodes_below_a_limit()
"""
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*MP101 *: `mean` keeps the autograd graph of every iteration*test_it.py:16*.item()*"])
    result.stdout.fnmatch_lines(["*_ test_activations _*", "*KiB of tensors survive*", "*MP101 *`total`*test_it.py:9*"])


def test_what_is_replaced_or_cached_once_is_no_leak(run) -> None:
    run(
        """
import functools, pytest, torch
last = None

@functools.lru_cache
def table():
    return torch.zeros(1000)

@pytest.fixture(scope="module")
def weights():
    return torch.zeros(1000)

@pytest.mark.memprof_leaks
@pytest.mark.parametrize("size", [10, 1000])
def test_clean(weights, size):
    global last
    last = torch.zeros(size) + weights[0] + table()[0]

@pytest.mark.memprof_leaks
class TestClean:
    def test_method(self):
        self.state = torch.zeros(1000)
        self.state = [self.state]
"""
    ).assert_outcomes(passed=3)


def test_what_the_tests_own_fixtures_and_instance_hold_is_no_leak(run) -> None:
    result = run(
        """
import dataclasses, pytest, torch

@dataclasses.dataclass
class Recorder:
    seen: list

@pytest.fixture
def recorder():
    yield Recorder([])

@pytest.fixture(scope="module")
def shared():
    return []

@pytest.mark.memprof_leaks
def test_own(recorder):
    recorder.seen.append(torch.zeros(1000))

@pytest.mark.memprof_leaks
class TestState:
    def setup_method(self):
        self.items = []

    def test_instance(self):
        self.items.append(torch.zeros(1000))

@pytest.mark.memprof_leaks
def test_shared(shared, recorder):
    shared.append(torch.zeros(1000))
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["*3.91 KiB in 1 tensor made at test_it.py:29, held by fixture `shared` of scope module"]
    )


def test_coroutines_are_judged_too(run) -> None:
    pytest.importorskip("pytest_asyncio")
    result = run(
        """
import asyncio, pytest, torch
kept = []

@pytest.fixture
async def held():
    await asyncio.sleep(0)
    return [torch.zeros(1000)]

@pytest.mark.memprof_leaks
async def test_leak():
    await asyncio.sleep(0)
    kept.append(torch.zeros(1000))

@pytest.mark.memprof_leaks
async def test_clean(held):
    held.append(torch.zeros(1000))
    await asyncio.sleep(0)

@pytest.mark.memprof_peak("1 KiB")
async def test_high():
    torch.zeros(1000)
""",
        "-p",
        "asyncio",
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*3.91 KiB in 1 tensor made at test_it.py:12, held by list `kept` *"])


def test_unittest_cases_are_judged_too(run) -> None:
    result = run(
        """
import unittest, pytest, torch
kept = []

class TestCase(unittest.TestCase):
    @pytest.mark.memprof_leaks
    def test_leak(self):
        kept.append(torch.zeros(1000))

    @pytest.mark.memprof_leaks
    def test_clean(self):
        torch.zeros(1000)
"""
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_peak_above_its_limit_fails_with_the_lines_that_held_it(run) -> None:
    result = run(
        """
import pytest, torch

@pytest.mark.memprof_peak("1 MiB")
def test_high():
    a = torch.zeros(512, 1024)

@pytest.mark.memprof_peak("64 MiB", device="cpu")
def test_low():
    a = torch.zeros(512, 1024)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*memprof: peak memory 2 MiB on cpu (measured) is 1 MiB above the limit of 1 MiB*"])


_FINDING = """
import pytest, torch

@pytest.mark.memprof_rules(MARK)
def test_training():
    model = torch.nn.Linear(256, 256)
    history = []
    for _ in range(8):
        history.append(model(torch.randn(64, 256)).pow(2).sum())
"""


def test_a_finding_fails_unless_it_is_ignored(run) -> None:
    result = run(_FINDING.replace("MARK", "fail_on='info'"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*memprof: 1 finding*", "*MP102 *test_it.py:*"])
    run(_FINDING.replace("MARK", "fail_on='info', ignore=['MP102']")).assert_outcomes(passed=1)


def test_findings_of_all_tests_can_fail_the_run(run, pytester: pytest.Pytester) -> None:
    plain = _FINDING.replace("@pytest.mark.memprof_rules(MARK)\n", "")
    run(plain).assert_outcomes(passed=1)
    run(plain, "--memprof-fail-on=info").assert_outcomes(failed=1)
    pytester.makeini("[pytest]\nmemprof_fail_on = info\n")
    run(plain).assert_outcomes(failed=1)


def test_workers_report_their_peaks_and_reruns_are_judged_anew(run) -> None:
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_rerunfailures")
    result = run(_PLAIN, "--memprof", "-n", "2")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*2 MiB  cpu     test_it.py::test_big*"])
    assert run(_LEAK, "--reruns", "1").parseoutcomes() == {"failed": 1, "rerun": 1}


def test_the_tests_own_failure_wins(run) -> None:
    result = run(_LEAK + "    assert 'mine' == 'other'\n")
    result.assert_outcomes(failed=1)
    assert "memprof:" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*assert 'mine' == 'other'*"])


def test_a_marker_that_cannot_be_read_stops_the_run_and_names_the_test(run) -> None:
    for mark in ("memprof_peak('much')", "memprof_leaks(again=2)", "memprof_rules(ignore=['MP999'])"):
        result = run(f"import pytest\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        name = mark.partition("(")[0]
        result.stderr.fnmatch_lines([f"*test_it.py::test_it: @pytest.mark.{name}: *"])


_PLAIN = "import torch\ndef test_big():\n    a = torch.zeros(512, 1024)\ndef test_small():\n    a = torch.zeros(9)\n"


@pytest.mark.parametrize("how", ["option", "ini"])
def test_all_tests_can_be_watched(run, pytester: pytest.Pytester, how: str) -> None:
    if how == "ini":
        pytester.makeini("[pytest]\nmemprof = true\nmemprof_most = 1\n")
    result = run(_PLAIN, *(("--memprof", "--memprof-most=1") if how == "option" else ()))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*memprof: highest peaks (measured)*", "*2 MiB  cpu     test_it.py::test_big*"])
    assert "test_small" not in result.stdout.str()


def test_the_severity_is_read_from_option_and_key(run, pytester: pytest.Pytester) -> None:
    result = run(_PLAIN, "--memprof-fail-on=bad")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    pytester.makeini("[pytest]\nmemprof_fail_on = worse\n")
    result = run(_PLAIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'worse' is not a severity; write one of info, warning, error*"])


def test_the_fixture_is_a_running_profiler(run) -> None:
    run(
        """
import torch
def test_it(memprof):
    torch.zeros(1000)
    assert memprof.is_outermost
    assert memprof.findings == ()
"""
    ).assert_outcomes(passed=1)


def test_without_a_marker_torch_is_not_imported(run) -> None:
    run("import sys\ndef test_it():\n    assert 'torch' not in sys.modules\n").assert_outcomes(passed=1)


def test_it_can_be_switched_off(run) -> None:
    result = run("def test_it():\n    pass\n", "-p", "no:memprof", "--memprof")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


# ---- a simulated GPU for one test --------------------------------------------------------------

_SIMULATED = """
import pytest, torch

def test_before():
    torch.nn.Linear(4, 4)(torch.ones(2, 4)).sum().backward()

@pytest.mark.memprof_peak("200 MiB", simulated="A100-40GB")
def test_small():
    model = torch.nn.Linear(4096, 4096).cuda()
    model(torch.randn(64, 4096, device="cuda")).sum().backward()

@pytest.mark.memprof_peak("100 MiB", simulated="A100-40GB")
def test_large():
    test_small()

@pytest.mark.skipif("not __import__('torch').cuda.is_available()")
@pytest.mark.memprof_peak(simulated="32MiB")
def test_fits_not():
    torch.nn.Linear(4096, 4096).cuda()

@pytest.mark.memprof_peak("1 MiB", simulated="8GiB")
def test_on_the_cpu():
    torch.ones(10)

def test_after():
    assert not torch.cuda.is_available()
"""


def test_a_test_can_ask_for_a_simulated_gpu(run) -> None:
    result = run(_SIMULATED, "--memprof")
    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*memprof: peak memory 145.3 MiB on cuda:0 (simulated) is 45.3 MiB above the limit of 100 MiB",
            "*_ test_fits_not _*",
            "E *OutOfMemoryError: CUDA out of memory.*(GPU simulated by memprof)",
            "*memprof: nothing was allocated on cuda:0 of the simulated 8GiB*",
            "*memprof: highest peaks (measured; cuda: simulated)*",
            "*145.3 MiB  cuda:0  test_it.py::test_*",
        ]
    )


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("memprof_peak()", "write a limit"),
        ("memprof_peak(simulated='Voodoo2')", "no GPU 'Voodoo2' is known"),
        ("memprof_peak('1 MiB', gpu='A100')", "gpu"),
    ],
)
def test_a_peak_that_cannot_be_judged_is_told(run, mark: str, message: str) -> None:
    result = run(f"import pytest\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*@pytest.mark.memprof_peak: *{message}*"])


def test_a_gpu_of_its_own_in_a_run_on_another_is_told(run) -> None:
    result = run(_SIMULATED, "--memprof-simulate=8GiB")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*it asks for A100-40GB, and --memprof-simulate puts the whole run on 8GiB*"])


# ---- the report --------------------------------------------------------------------------------

_REPORTED = (
    _LEAK
    + """
@pytest.mark.parametrize("name", ["<b>&"])
def test_big(name):
    torch.zeros(1024, 1024)

def test_skipped():
    pytest.skip("not today")
"""
)


@pytest.mark.parametrize("how", ["option", "ini", "xdist"])
def test_the_report_holds_every_watched_test(run, pytester: pytest.Pytester, how: str) -> None:
    if how == "ini":
        pytester.makeini("[pytest]\nmemprof_report = out/memory.json\n")
    options = {
        "option": ["--memprof-report=out/memory.json"],
        "ini": [],
        "xdist": ["--memprof-report=out/memory.json", "-n", "2"],
    }
    result = run(_REPORTED, *options[how])
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["memprof: wrote *memory.json (2 watched tests)"])
    report = json.loads((pytester.path / "out" / "memory.json").read_text())
    tests = {test["nodeid"].partition("::")[2]: test for test in report["tests"]}
    assert report["schema"] == 1
    assert sorted(tests) == ["test_big[<b>&]", "test_leak"]
    assert tests["test_big[<b>&]"]["peak_bytes"]["cpu"] in (4 << 20, 8 << 20)  # what the leak kept is there too, or not
    assert tests["test_leak"]["outcome"] == "failed"
    assert "1 MiB of tensors survive" in tests["test_leak"]["failure"]
    assert tests["test_leak"]["simulated_gpu"] == ""


def test_the_page_shows_names_as_they_are_and_says_what_failed(run, pytester: pytest.Pytester) -> None:
    run(_REPORTED, "--memprof-report=memory.html").assert_outcomes(passed=1, failed=1, skipped=1)
    page = (pytester.path / "memory.html").read_text()
    assert "test_big[&lt;b&gt;&amp;]" in page
    assert "<b>" not in page
    assert "held by list `kept` of module" in page
    assert "measured" in page
    assert "http" not in page  # nothing is fetched


def test_a_report_without_tests_is_a_page_too(run, pytester: pytest.Pytester) -> None:
    run("import pytest\ndef test_it():\n    pytest.skip('no')\n", "--memprof-report=memory.html")
    assert "No test was watched" in (pytester.path / "memory.html").read_text()


def test_a_report_that_cannot_be_written_is_told(run, pytester: pytest.Pytester) -> None:
    assert run(_PLAIN, "--memprof-report=memory.txt").ret == pytest.ExitCode.USAGE_ERROR
    pytester.makefile("", in_the_way="")
    result = run(_PLAIN, "--memprof-report=in_the_way/memory.html")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["memprof: the report could not be written: *"])
