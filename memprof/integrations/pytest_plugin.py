"""pytest plugin: tests that fail when memory leaks, peaks too high, or a rule finds something.

Nothing is imported or measured for a test without a marker, unless `--memprof` asks for all tests.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memprof._errors import UsageError
from memprof.units import format_bytes

if TYPE_CHECKING:
    from memprof.integrations.session_report import WatchedTest
    from memprof.model.memory import Storage
    from memprof.profiler import Profiler

_WATCHED: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
"""What was seen of a test, in JSON values, for its report."""

_MARKERS = {
    "memprof_leaks": "memprof_leaks(limit='0 B', warmup=1, repeat=3): run the test repeatedly; fail if each "
    "time leaves tensors or autograd graph behind",
    "memprof_peak": "memprof_peak(limit=None, device=None, simulated=''): fail if the peak of tensor memory is above "
    "the limit; simulated='A100-40GB' runs the test on that simulated GPU, which it must fit",
    "memprof_rules": "memprof_rules(ignore=[], fail_on='warning'): fail on findings of memprof's rules",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the keys of the same meaning in the configuration file."""
    group = parser.getgroup("memprof", "memory of tests that use PyTorch")
    group.addoption("--memprof", action="store_true", default=None, help="Watch the memory of every test.")
    group.addoption(
        "--memprof-fail-on",
        metavar="SEVERITY",
        default=None,
        help="Fail tests with findings of this severity or a higher one: info, warning or error. Implies --memprof.",
    )
    group.addoption(
        "--memprof-most",
        metavar="N",
        type=int,
        default=None,
        help="Show the N tests with the highest peaks. [default: 10 with --memprof]",
    )
    group.addoption(
        "--memprof-simulate",
        metavar="GPU",
        default=None,
        help="Let tests that ask for CUDA run on the CPU, on a simulated GPU: a name (A100-40GB) or a size (8GiB).",
    )
    group.addoption(
        "--memprof-report",
        metavar="FILE",
        default=None,
        help="Write what was seen of each watched test to a .html or .json file. Implies --memprof.",
    )
    parser.addini("memprof", "Watch the memory of every test.", type="bool", default=False)
    parser.addini("memprof_fail_on", "As --memprof-fail-on.", default="")
    parser.addini("memprof_simulate", "As --memprof-simulate.", default="")
    parser.addini("memprof_most", "As --memprof-most.", default="10")
    parser.addini("memprof_report", "As --memprof-report.", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; watch tests only where asked."""
    for line in _MARKERS.values():
        config.addinivalue_line("markers", line)
    _simulate(config)
    config.pluginmanager.register(_Watch(config), "memprof-watch")


def _simulated_gpu(config: pytest.Config) -> str:
    """Name of the GPU to simulate; '' for none."""
    return str(config.option.memprof_simulate or config.getini("memprof_simulate"))


def _simulate(config: pytest.Config) -> None:
    """Put a simulated GPU under the whole run, before a test module can ask for CUDA."""
    gpu = _simulated_gpu(config)
    distributes = getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
    if not gpu or distributes:
        return
    from memprof.profiler import simulate_gpu

    try:
        simulation = simulate_gpu(gpu)
        simulation.__enter__()
    except UsageError as error:
        raise pytest.UsageError(f"memprof_simulate: {error}") from None
    config.add_cleanup(lambda: simulation.__exit__(None, None, None))


@pytest.fixture
def memprof() -> Iterator[Profiler]:
    """A running `memprof.Profiler` at level `tensors`, for assertions by hand."""
    from memprof.profiler import Profiler

    with Profiler("tensors") as profiler:
        yield profiler


class _Watch:
    """Watches the tests of one pytest run.

    Args:
        config: Of the run.
    """

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        self._fail_on: str = option.memprof_fail_on or config.getini("memprof_fail_on")
        self._report: str = option.memprof_report or config.getini("memprof_report")
        self._all: bool = bool(
            (config.getini("memprof") if option.memprof is None else option.memprof) or self._fail_on or self._report
        )
        most = option.memprof_most
        if most is None:
            most = config.getini("memprof_most")
        try:
            self._most = int(most)
        except ValueError:
            raise pytest.UsageError(f"memprof_most is {most!r}; write a whole number") from None
        if self._fail_on:
            from memprof.integrations.limits import severity

            try:
                severity(self._fail_on)
            except UsageError as error:
                raise pytest.UsageError(f"memprof_fail_on: {error}") from None
        if self._report and Path(self._report).suffix not in (".html", ".json"):
            raise pytest.UsageError(f"memprof_report is {self._report!r}; its name must end in .html or .json")
        self._gpu = _simulated_gpu(config)
        self._writes = bool(self._report) and not hasattr(config, "workerinput")
        self._rootpath = config.rootpath
        self._tests: list[WatchedTest] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse markers that cannot be read before any test runs."""
        gpus = set()
        for item in items:
            for name in _MARKERS:
                try:
                    limit = _limit(item, name)
                    if name == "memprof_peak" and limit is not None and limit.simulated:
                        gpus.add(limit.simulated)
                        self._one_gpu(limit.simulated)
                except (UsageError, TypeError) as error:
                    raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.{name}: {error}") from None
        if gpus and not self._gpu:
            _prepare_simulation(min(gpus))

    def _one_gpu(self, gpu: str) -> None:
        """Refuse a test's own GPU in a run that is on another one."""
        if self._gpu and gpu != self._gpu:
            raise UsageError(f"it asks for {gpu}, and --memprof-simulate puts the whole run on {self._gpu}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Put the GPU that a test asks for under its fixtures and its body."""
        peak = _limit(item, "memprof_peak")
        if peak is None or not peak.simulated or self._gpu:
            return (yield)
        from memprof.profiler import simulate_gpu

        with simulate_gpu(peak.simulated):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Run a test under the profiler, and judge its memory where the test itself passed."""
        leaks, peak, rules = (_limit(item, name) for name in _MARKERS)
        if leaks is None and peak is None and rules is None and not self._all:
            return (yield)
        from memprof.integrations.fixture_values import fixture_values
        from memprof.integrations.limits import (
            MOST_SEARCHED,
            broken_rules,
            exceeded_peak,
            leaked,
            rules_limit,
            survivors,
        )
        from memprof.integrations.session_report import seen
        from memprof.profiler import Profiler

        ends_ns: list[int] = []
        own: set[int] = set()
        left: list[list[Storage]] = []
        holders: dict[int, str] = {}
        with Profiler("tensors") as profiler:
            if leaks is not None:
                profiler.step()  # from now on an iteration is a repetition, whatever loops the test has
            ends_ns.append(time.perf_counter_ns())
            for _ in range(0 if leaks is None else leaks.warmup + leaks.repeat - 1):
                item.runtest()
                _end(profiler, ends_ns)
            result = yield
            if leaks is not None:
                _end(profiler, ends_ns)
                by_fixture = [(value, profiler.storages_of(value.tensors)) for value in fixture_values(item)]
                own = {storage for value, storages in by_fixture if value.own for storage in storages}
                left = survivors(leaks, profiler.diagnosis.model, ends_ns, own=own)
                newest = [storage.id for storages in left[-1:] for storage in storages][:MOST_SEARCHED]
                holders = profiler.holders_of(newest)
                holders |= {storage: value.text for value, storages in by_fixture for storage in storages}
                del by_fixture
        if not profiler.is_outermost:
            return result  # inside another profiler, whose report it is
        diagnosis = profiler.diagnosis
        item.stash[_WATCHED] = seen(diagnosis)
        if rules is None and self._fail_on:
            rules = rules_limit(fail_on=self._fail_on)
        said = [
            None if leaks is None else leaked(leaks, diagnosis, left, own=own, holders=holders),
            None if peak is None else exceeded_peak(peak, diagnosis),
            None if rules is None else broken_rules(rules, diagnosis.findings),
        ]
        failures = [text for text in said if text is not None]
        if failures:
            pytest.fail("\n\n".join(failures), pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Send what was seen with the report of the test, also from pytest-xdist's workers."""
        report = yield
        if report.when == "call" and _WATCHED in item.stash:
            report.memprof = item.stash[_WATCHED]
            del item.stash[_WATCHED]  # a test that is run again is watched anew
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what was seen on the process that writes the summary."""
        watched = getattr(report, "memprof", None)
        if watched is not None:
            from memprof.integrations.session_report import WatchedTest

            self._tests.append(
                WatchedTest(report.nodeid, report.outcome, report.longreprtext if report.failed else "", **watched)
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the tests with the highest peaks, and write the report that was asked for."""
        peaks = sorted(
            ((nbytes, device, test.nodeid) for test in self._tests for device, nbytes in test.peak_bytes.items()),
            reverse=True,
        )
        if self._all and peaks and self._most > 0:
            word = "measured; cuda: simulated" if any(test.simulated_gpu for test in self._tests) else "measured"
            terminalreporter.section(f"memprof: highest peaks ({word})")
            for nbytes, device, nodeid in peaks[: self._most]:
                terminalreporter.write_line(f"{format_bytes(nbytes):>10}  {device:<7} {nodeid}")
        if self._writes:
            from memprof.integrations.session_report import write_report

            path = self._rootpath / self._report
            try:
                write_report(path, self._tests)
            except OSError as error:
                terminalreporter.write_line(f"memprof: the report could not be written: {error}", red=True)
            else:
                terminalreporter.write_line(f"memprof: wrote {path} ({len(self._tests)} watched tests)")


def _prepare_simulation(gpu: str) -> None:
    """Simulate a GPU for a moment, before a test runs a backward: autograd learns its devices once in a process."""
    from memprof.profiler import simulate_gpu

    try:
        with simulate_gpu(gpu):
            pass
    except UsageError as error:
        raise pytest.UsageError(f"memprof_peak(simulated={gpu!r}): {error}") from None


def _end(profiler: Profiler, ends_ns: list[int]) -> None:
    """End a repetition; what only cycles hold is garbage, no leak."""
    gc.collect()
    profiler.step()
    ends_ns.append(time.perf_counter_ns())


def _limit(item: pytest.Item, name: str) -> Any:
    """What a marker of a test says, or None where it has none."""
    marker = item.get_closest_marker(name)
    if marker is None:
        return None
    from memprof.integrations import limits

    readers: dict[str, Callable[..., Any]] = {
        "memprof_leaks": limits.leak_limit,
        "memprof_peak": limits.peak_limit,
        "memprof_rules": limits.rules_limit,
    }
    return readers[name](*marker.args, **marker.kwargs)
