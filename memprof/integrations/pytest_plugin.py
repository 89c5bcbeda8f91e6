"""pytest plugin: tests that fail when memory leaks, peaks too high, or a rule finds something.

Nothing is imported or measured for a test without a marker, unless `--memprof` asks for all tests.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from memprof._errors import UsageError
from memprof.units import format_bytes

if TYPE_CHECKING:
    from memprof.profiler import Profiler

_PEAK = "memprof_peak_bytes"
_MARKERS = {
    "memprof_leaks": "memprof_leaks(limit='0 B', warmup=1, repeat=3): run the test repeatedly; fail if each "
    "time leaves tensors or autograd graph behind",
    "memprof_peak": "memprof_peak(limit, device=None): fail if the peak of tensor memory is above the limit",
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
    parser.addini("memprof", "Watch the memory of every test.", type="bool", default=False)
    parser.addini("memprof_fail_on", "As --memprof-fail-on.", default="")
    parser.addini("memprof_simulate", "As --memprof-simulate.", default="")
    parser.addini("memprof_most", "As --memprof-most.", default="10")


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
        self._all: bool = bool(
            (config.getini("memprof") if option.memprof is None else option.memprof) or self._fail_on
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
        self._simulated = bool(_simulated_gpu(config))
        self._peaks: list[tuple[int, str, str]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse markers that cannot be read before any test runs."""
        for item in items:
            for name in _MARKERS:
                try:
                    _limit(item, name)
                except (UsageError, TypeError) as error:
                    raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.{name}: {error}") from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Run a test under the profiler, and judge its memory where the test itself passed."""
        leaks, peak, rules = (_limit(item, name) for name in _MARKERS)
        if leaks is None and peak is None and rules is None and not self._all:
            return (yield)
        from memprof.integrations.limits import broken_rules, exceeded_peak, leaked, peak_bytes, rules_limit
        from memprof.profiler import Profiler

        ends_ns: list[int] = []
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
        if not profiler.is_outermost:
            return result  # inside another profiler, whose report it is
        diagnosis = profiler.diagnosis
        peaks = peak_bytes(diagnosis.model)
        item.user_properties.append((_PEAK, peaks))  # travels in the report, also from pytest-xdist's workers
        if rules is None and self._fail_on:
            rules = rules_limit(fail_on=self._fail_on)
        said = [
            None if leaks is None else leaked(leaks, diagnosis, ends_ns),
            None if peak is None else exceeded_peak(peak, diagnosis),
            None if rules is None else broken_rules(rules, diagnosis.findings),
        ]
        failures = [text for text in said if text is not None]
        if failures:
            pytest.fail("\n\n".join(failures), pytrace=False)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect peaks on the process that writes the summary."""
        if report.when == "call":
            for name, peaks in report.user_properties:
                if name == _PEAK and isinstance(peaks, dict):
                    self._peaks += [(nbytes, device, report.nodeid) for device, nbytes in peaks.items()]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the tests with the highest peaks."""
        if self._all and self._peaks and self._most > 0:
            word = "measured; cuda: simulated" if self._simulated else "measured"
            terminalreporter.section(f"memprof: highest peaks ({word})")
            for nbytes, device, nodeid in sorted(self._peaks, reverse=True)[: self._most]:
                terminalreporter.write_line(f"{format_bytes(nbytes):>10}  {device:<7} {nodeid}")


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
