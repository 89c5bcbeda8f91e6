"""Reports: what a diagnosis looks like in a terminal, as JSON, as a page and as a picture.

A reporter is chosen by name from `REPORTERS`; nothing heavy (rich, matplotlib) is imported before
one is loaded. A reporter keeps its options in a frozen dataclass of its own, so the protocol has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

from memprof._errors import UsageError

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis

__all__ = ["ENTRY_POINT_GROUP", "REPORTERS", "Reporter", "load_reporter"]

ENTRY_POINT_GROUP = "memprof.reporters"
"""Group under which other distributions register reporter classes."""


@runtime_checkable
class Reporter(Protocol):
    """Turns a diagnosis into the content of a file.

    A reporter never prints, never writes files on its own and can be used more than once. Made
    without arguments it has its default options.
    """

    name: ClassVar[str]
    """The word that chooses it: `json`."""
    suffixes: ClassVar[tuple[str, ...]]
    """File name endings it is the natural choice for, with the dot."""

    def render(self, diagnosis: Diagnosis) -> bytes:
        """Render a whole report.

        Args:
            diagnosis: What to report; empty parts and unknown figures are allowed.

        Returns:
            Content of the report; text is UTF-8.
        """
        ...


def _terminal() -> type[Reporter]:
    from memprof.report.terminal import TerminalReporter

    return TerminalReporter


def _json() -> type[Reporter]:
    from memprof.report.json_report import JsonReporter

    return JsonReporter


def _html() -> type[Reporter]:
    from memprof.report.html_report import HtmlReporter

    return HtmlReporter


def _plot() -> type[Reporter]:
    from memprof.report.plot import PlotReporter

    return PlotReporter


def _snapshot() -> type[Reporter]:
    from memprof.report.export_snapshot import SnapshotReporter

    return SnapshotReporter


def _perfetto() -> type[Reporter]:
    from memprof.report.export_perfetto import PerfettoReporter

    return PerfettoReporter


REPORTERS: Mapping[str, Callable[[], type[Reporter]]] = MappingProxyType(
    {"rich": _terminal, "json": _json, "html": _html, "png": _plot, "snapshot": _snapshot, "perfetto": _perfetto}
)
"""Name -> loader of a reporter's class, so that choosing one imports only what it needs."""


def load_reporter(name: str) -> type[Reporter]:
    """Find a reporter by name: memprof's own first, then those of installed packages.

    Args:
        name: A key of `REPORTERS` or the name of an entry point in `ENTRY_POINT_GROUP`.

    Returns:
        The reporter's class.

    Raises:
        UsageError: No reporter has that name.
    """
    loader = REPORTERS.get(name)
    if loader is not None:
        return loader()
    outside = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name in outside:
        return cast("type[Reporter]", outside[name].load())
    known = ", ".join([*REPORTERS, *sorted(outside)])
    raise UsageError(f"there is no reporter named {name!r}; known: {known}")
