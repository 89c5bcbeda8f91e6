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
_ELEMENTWISE_DEPTH = 5


@dataclass(slots=True)
class GraphWalk:
    """What is reachable from one node."""

    nodes: int = 0
    saved: dict[int, int] = field(default_factory=dict)
    """Address of a saved StorageImpl -> its bytes."""
    met: set[int] = field(default_factory=set)
    """Those of the sequence numbers asked for that were met."""
    numbers: set[int] = field(default_factory=set)
    """Sequence numbers of the nodes that backward frees, where they were asked for."""
    truncated: bool = False


_saved_names: dict[type, tuple[str, ...]] = {}


def walk(root: Any, *, limit: int, watch_for: Collection[int] = (), number: bool = False) -> GraphWalk:
    """Follow `next_functions` from a node.

    Args:
        root: A `torch.autograd.graph.Node`, or several in a tuple.
        limit: Most nodes to visit.
        watch_for: Sequence numbers of nodes to report when met.
        number: Note the sequence numbers of all nodes.

    Returns:
        What was found; `truncated` says that the limit was met.
    """
    result = GraphWalk()
    seen = set(root) if isinstance(root, tuple) else {root}
    stack = list(seen)
    while stack:
        if result.nodes >= limit:
            result.truncated = True
            break
        node = stack.pop()
        result.nodes += 1
        if type(node).__name__ != _LEAF_NODE:
            if watch_for or number:
                nr = sequence_nr(node)
                if nr in watch_for:
                    result.met.add(nr)
                if number and nr >= 0:
                    result.numbers.add(nr)
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


_ELEMENTWISE = frozenset(
    f"{name}Backward{suffix}"
    for name in ("Add", "Sub", "Mul", "Div", "Lerp", "Clone", "ToCopy", "Copy", "Neg", "Addcmul", "Rsub", "View")
    for suffix in ("0", "1", "2", "s")
) | {"CopySlices"}


def parameter_behind(tensor: torch.Tensor) -> torch.Tensor | None:
    """The leaf of the same shape from which a tensor is made by element-wise operations alone, if there is one.

    An average of weights is made so. A running loss is not: on its way to a parameter lies a whole forward.

    Args:
        tensor: A tensor with a `grad_fn`.

    Returns:
        The leaf, or None.
    """
    level = [tensor.grad_fn]
    for _ in range(_ELEMENTWISE_DEPTH):
        following = []
        for node in level:
            if type(node).__name__ == _LEAF_NODE:
                leaf = getattr(node, "variable", None)
                if isinstance(leaf, torch.Tensor) and leaf.shape == tensor.shape:
                    return leaf
            elif type(node).__name__ in _ELEMENTWISE:
                following += [item for item, _ in node.next_functions if item is not None]  # type: ignore[union-attr]
        level = following
    return None


_COPYING = frozenset(
    "Cat Stack CopySlices Copy IndexPut IndexPutImpl IndexCopy IndexFill MaskedFill MaskedScatter Scatter Roll Flip "
    "Clone ToCopy Slice Select Narrow Split Unbind Index IndexSelect View UnsafeView ReshapeAlias Alias AsStrided "
    "Transpose T Permute Unsqueeze Squeeze Expand".split()
)
"""Operations whose output has elements of their inputs, as they were."""
_MOST_COPYING_NODES = 256


def holds_parts_of(root: Any, numbers: Collection[int]) -> bool:
    """Whether a tensor has elements of earlier ones in it, as they were: a bank or a queue that is updated in part.

    A recurrent state has none: it is computed from the one before.

    Args:
        root: The tensor's `grad_fn`.
        numbers: Sequence numbers of the `grad_fn` of the earlier ones.
    """
    seen = {root}
    stack = [root]
    while stack and len(seen) < _MOST_COPYING_NODES:
        node = stack.pop()
        if node is not root and sequence_nr(node) in numbers:
            return True
        operation = type(node).__name__.partition("Backward")[0]
        if operation not in _COPYING:
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return False


def sequence_nr(node: Any) -> int:
    """Number of a node in the order nodes were made by its thread; -1 where torch does not tell."""
    number = getattr(node, "_sequence_nr", None)
    return -1 if number is None else int(number())
