"""Whether a statement lies in code that torch calls back."""

from __future__ import annotations

from memprof.detect.surroundings import called_in, registered_as_hook
from memprof.model.memory import MemoryModel
from memprof.record.census import CodeRegion
from memprof.record.events import Location


def region_of(model: MemoryModel, statement: Location | None) -> CodeRegion | None:
    """The hook, autograd function or dataset in which a statement runs, or None.

    A function that such code calls belongs to it. A hook on a tensor of the forward is gone by the time a census
    looks, so the source says which functions are registered.

    Args:
        model: The run.
        statement: A line of the user's code.
    """
    if statement is None:
        return None
    regions = dict.fromkeys(region for census in model.censuses for region in census.regions)
    around = [
        region
        for region in regions
        if region.file == statement.file and region.first_line <= statement.line <= region.last_line
    ]
    if around:
        return min(around, key=lambda region: region.last_line - region.first_line)
    function = statement.function.rpartition(".")[2]
    for region in regions:
        if region.file == statement.file and function in called_in(region):
            return region
    if registered_as_hook(statement):
        return CodeRegion("hook", f"hook `{function}`", statement.file, statement.line, statement.line)
    return None
