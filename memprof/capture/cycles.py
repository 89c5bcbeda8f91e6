"""Whether objects keep only each other alive, and through which class."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

from memprof.capture.holder_words import CONTAINERS, attributes_of, is_plumbing


def cycle_class(above: dict[int, Any], target: object, others: Sequence[Mapping[int, Any]] = ()) -> str:
    """Class of an object through which things keep only each other alive, or ''.

    The collector's own test: no object has more references than the others have to it. Each has one, or it is kept by
    nothing but this search: another thread let go of it in the meantime.

    Args:
        above: All objects from which the target can be reached, by id.
        target: What they keep.
        others: The same of other targets; these dictionaries refer to their objects, too.
    """
    for item in list(above.values()):
        attributes = None if is_plumbing(item) else attributes_of(item)
        if type(attributes) is dict:  # Python makes it when it is first asked for, which may have been after the climb
            above.setdefault(id(attributes), attributes)
    inside: dict[int, int] = dict.fromkeys(above, 0)
    own = False
    for item in above.values():
        for referent in gc.get_referents(item):
            if id(referent) in inside:
                inside[id(referent)] += 1
                own = True
    if not own:
        return ""
    item = referent = attributes = None
    ours = 3  # `above`, the variable, the argument of getrefcount
    for mark, references in inside.items():
        item = above[mark]  # an iterator over `above` would hold a reference of its own
        noted = sum(mark in other for other in others)
        if not references or sys.getrefcount(item) - ours - noted > references:
            return ""
    silent = (*CONTAINERS, types.CellType, types.MethodType)
    instances = [
        type(item).__name__
        for item in above.values()
        if item is not target and not isinstance(item, silent) and not is_plumbing(item)
    ]
    return instances[0] if instances else type(next(iter(above.values()))).__name__
