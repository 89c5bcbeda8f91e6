"""Walks an autograd graph without touching it: how many nodes, which tensors it keeps.

Saved tensors are read through `SavedTensor.data`, which returns what is stored and runs no hook; a
tensor packed by somebody's hook (checkpointing, `save_on_cpu`) is not unpacked and not counted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch

_RAW = "_raw_saved_"
_LEAF_NODE = "AccumulateGrad"


@dataclass(slots=True)
class GraphWalk:
    """What is reachable from one node."""

    nodes: int = 0
    saved: dict[int, int] = field(default_factory=dict)
    """Address of a saved StorageImpl -> its bytes."""
    met: set[int] = field(default_factory=set)
    """Those of the sequence numbers asked for that were met."""
    truncated: bool = False


_saved_names: dict[type, tuple[str, ...]] = {}


def walk(root: Any, *, limit: int, watch_for: Collection[int] = ()) -> GraphWalk:
    """Follow `next_functions` from a node.

    Args:
        root: A `torch.autograd.graph.Node`.
        limit: Most nodes to visit.
        watch_for: Sequence numbers of nodes to report when met.

    Returns:
        What was found; `truncated` says that the limit was met.
    """
    result = GraphWalk()
    seen = {root}
    stack = [root]
    while stack:
        if result.nodes >= limit:
            result.truncated = True
            break
        node = stack.pop()
        result.nodes += 1
        if type(node).__name__ != _LEAF_NODE:
            if watch_for:
                number = sequence_nr(node)
                if number in watch_for:
                    result.met.add(number)
            for tensor in saved_tensors(node):
                try:
                    storage = tensor.untyped_storage()
                    result.saved[storage._cdata] = storage.nbytes()
                except (RuntimeError, NotImplementedError):
                    continue  # a tensor without a storage keeps nothing we could count
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return result


def saved_tensors(node: Any) -> list[torch.Tensor]:
    """Tensors a node still keeps for its backward; empty once backward has freed them."""
    names = _saved_names.get(type(node))
    if names is None:
        names = tuple(name for name in dir(node) if name.startswith(_RAW))
        _saved_names[type(node)] = names
    found: list[torch.Tensor] = []
    for name in names:
        try:
            value = getattr(node, name)
        except RuntimeError:  # freed by backward
            continue
        for saved in value if isinstance(value, (tuple, list)) else (value,):
            data = getattr(saved, "data", None)
            if isinstance(data, torch.Tensor):
                found.append(data)
    return found


def sequence_nr(node: Any) -> int:
    """Number of a node in the order nodes were made by its thread; -1 where torch does not tell."""
    number = getattr(node, "_sequence_nr", None)
    return -1 if number is None else int(number())
