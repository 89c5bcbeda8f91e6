"""The largest value that fits, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from memprof.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from memprof.advise.fit import Fit


def fit_text(found: Sequence[Fit], parameter: str) -> str:
    """JSON: `schema`, `parameter`, and for each GPU what `memprof.advise.fit.Fit` holds; sizes in bytes, simulated.

    Args:
        found: One for each GPU.
        parameter: What was varied.
    """
    gpus = [{**asdict(fit), "source": "simulated"} for fit in found]
    return json.dumps({"schema": "memprof.fit/1", "parameter": parameter, "gpus": gpus}, indent=2) + "\n"


def fit_table(found: Sequence[Fit], parameter: str) -> Table:
    """A row for each GPU.

    Args:
        found: One for each GPU.
        parameter: What was varied.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Largest {parameter} that fits (simulated)", title_justify="left")
    table.add_column("GPU")
    for heading in ("largest", "needs", "may take"):
        table.add_column(heading, justify="right")
    table.add_column("one more", overflow="fold")
    table.add_column("runs", justify="right")
    for fit in found:
        best = fit.at_largest
        above = [trial for trial in fit.trials if not trial.fits]
        nearest = min(above, key=lambda trial: trial.value, default=None)
        if nearest is None:
            beyond = "not tried: runs used up" if fit.used_up else "not tried: the highest value allowed fits"
        else:
            beyond = f"{nearest.value}: {nearest.reason}" + ("" if fit.bounded or best is None else " (runs used up)")
        needs = "" if best is None or best.needed_bytes is None else format_bytes(best.needed_bytes)
        largest = "none" if fit.largest is None else str(fit.largest)
        table.add_row(Text(fit.gpu), largest, needs, format_bytes(fit.limit_bytes), Text(beyond), str(len(fit.trials)))
    rising = [fit.gpu for fit in found if fit.at_largest is not None and fit.at_largest.rising]
    if rising:
        table.caption_justify = "left"
        table.caption = Text(
            f"On {', '.join(rising)} the last iteration that was run took more than any before it: later ones may take "
            "still more. Raise --max-iterations, or let the script come to its end with --whole-run."
        )
    return table


__all__ = ["fit_table", "fit_text"]
