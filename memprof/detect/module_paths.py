"""Regions of a model, as paths of its modules."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.record.events import ParameterShare


def within(path: str, paths: set[str]) -> bool:
    """Whether a module is one of some, or inside one of them."""
    return any(path == item or (item and path.startswith(f"{item}.")) for item in paths)


def region(inside: Iterable[ParameterShare], whole: Iterable[ParameterShare]) -> list[str]:
    """The highest module paths all of whose parameters are inside; [] where that is the whole root.

    Args:
        inside: Parameters of the region.
        whole: All parameters of the root.
    """
    wanted = {share.module.path for share in inside}
    others = {share.module.path for share in whole} - wanted
    if not others:
        return []
    names: set[str] = set()
    for path in wanted:
        parts = path.split(".") if path else []
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            if not any(other == prefix or other.startswith(f"{prefix}.") for other in others):
                names.add(prefix)
                break
        else:
            names.add(path or "(the root's own parameters)")
    return sorted(names)


__all__ = ["region", "within"]
