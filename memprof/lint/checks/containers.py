"""What lists, dicts, queues, and objects keep of every iteration: MP102, MP103, MP107, MP113, MP116, MP205."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from memprof.lint.checks.joined import is_reduced_later, join_of
from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import base_of, inside, is_name, local_names, path_of, paths_in
from memprof.lint.program import FunctionInfo, Loop
from memprof.lint.values import Kind, Value
from memprof.lint.vocabulary import EXTENDING_METHODS, STORING_METHODS

_REDUCED = frozenset("argmax argmin topk max min sum mean std norm eq ne item tolist numpy size bool long int".split())


_HOOK_ARGUMENTS = 3
"""What a forward hook is called with: the module, its inputs, and its output."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """Something stored: where, by what, and what it is."""

    function: FunctionInfo
    node: ast.stmt | ast.expr
    holder: ast.expr
    kept: ast.expr
    value: Value


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        if context.is_test(function):
            continue
        for stored in _stored(context, function):
            finding = _judge(context, stored)
            if finding is not None:
                yield finding


def _stored(context: Context, function: FunctionInfo) -> Iterator[_Stored]:
    for call in function.calls:
        if function.module.qualified(call.func) == "heapq.heappush" and len(call.args) == 2:
            yield _Stored(function, call, call.args[0], call.args[1], context.value(call.args[1]))
            continue
        if not isinstance(call.func, ast.Attribute) or not call.args:
            continue
        holder, kept = call.func.value, call.args[-1]
        if isinstance(holder, ast.Attribute) and holder.attr == "param_groups":
            continue  # an optimizer that grows
        base = context.value(holder)
        if base.kind not in (Kind.CONTAINER, Kind.UNKNOWN) or _is_bounded(context, holder):
            continue
        if base.kind is Kind.UNKNOWN and call.func.attr != "append":
            continue  # a queue that somebody empties, a buffer with a limit of its own
        if call.func.attr == "update" and isinstance(kept, ast.Dict) and base.shape == "dict":  # d.update({step: x})
            for key, item in zip(kept.keys, kept.values, strict=True):
                if key is not None and is_new_key(context, function, call, base, key):
                    yield _Stored(function, call, holder, item, context.value(item))
        elif call.func.attr in STORING_METHODS or (
            call.func.attr in EXTENDING_METHODS and base.kind is Kind.CONTAINER and base.shape != "dict"
        ):
            yield _Stored(function, call, holder, kept, context.value(kept))
    for statement in function.statements:
        if isinstance(statement, ast.AugAssign) and context.value(statement.target).kind is Kind.CONTAINER:
            yield _Stored(function, statement, statement.target, statement.value, context.value(statement.value))
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            held = context.value(target.value) if isinstance(target, ast.Subscript) else None
            if isinstance(target, ast.Subscript) and held is not None:
                if not is_new_key(context, function, statement, held, target.slice):
                    continue
                yield _Stored(function, statement, target, statement.value, context.value(statement.value))
            elif isinstance(statement.value, ast.BinOp) and isinstance(statement.value.op, ast.Add):
                both = (statement.value.left, statement.value.right)
                if context.value(target).kind is Kind.CONTAINER and path_of(target) == path_of(both[0]) != "":
                    yield _Stored(function, statement, target, both[1], context.value(both[1]))


def _is_bounded(context: Context, holder: ast.expr) -> bool:
    """Whether a container forgets, or one that it is in: the lists in a `deque(maxlen=...)`."""
    node = holder
    while isinstance(node, ast.Subscript):
        if context.value(node).bounded:
            return True
        node = node.value
    return context.value(node).bounded


def is_new_key(context: Context, function: FunctionInfo, node: ast.stmt | ast.expr, base: Value, key: ast.expr) -> bool:
    """Whether `held[key] = x` has another key, or index, in each iteration."""
    around = context.flow.iteration_loop(function, node)
    if base.kind is not Kind.CONTAINER or base.shape not in ("dict", "list") or base.bounded:
        return False
    names = paths_in(key) - {""}
    if names & _counted(function):
        return True
    if around is not None:
        return bool(names & _changing(around[0]))
    for site in function.sites:  # the caller counts
        where = context.flow.iteration_loop(site.caller, site.call)
        passed = [context.flow.argument(function, site.call, name) for name in names]
        if where is not None and any(isinstance(item, ast.Name) and item.id in _changing(where[0]) for item in passed):
            return True
    return False


def _counted(function: FunctionInfo) -> set[str]:
    """Attributes that the methods of a class count up: `self.step += 1`."""
    owner = _method_around(function)
    if owner.cls is None or not owner.self_name:
        return set()
    return {
        f"{owner.self_name}.{statement.target.attr}"
        for other in function.module.every_function
        if _method_around(other).cls is owner.cls
        for statement in other.statements
        if isinstance(statement, ast.AugAssign)
        and isinstance(statement.op, ast.Add)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.target, ast.Attribute)
        and path_of(statement.target.value) == _method_around(other).self_name
    }


def _method_around(function: FunctionInfo) -> FunctionInfo:
    """The method that a function is defined in, or the function itself."""
    while function.cls is None and function.outer is not None:
        function = function.outer
    return function


def _changing(loop: Loop) -> set[str]:
    """Names that count a loop's turns."""
    found: set[str] = set()
    if isinstance(loop, (ast.For, ast.AsyncFor)):
        target = loop.target
        if isinstance(loop.iter, ast.Call) and getattr(loop.iter.func, "id", "") == "enumerate":
            target = target.elts[0] if isinstance(target, ast.Tuple) else target
        elif not (isinstance(loop.iter, ast.Call) and getattr(loop.iter.func, "id", "") in ("range", "trange")):
            return found | _counters(loop)
        found |= {item.id for item in ast.walk(target) if isinstance(item, ast.Name)}
    return found | _counters(loop)


def _counters(loop: Loop) -> set[str]:
    return {
        item.target.id
        for item in inside(loop)
        if isinstance(item, ast.AugAssign)
        and isinstance(item.target, ast.Name)
        and isinstance(item.value, ast.Constant)
        and isinstance(item.op, ast.Add)
    }


def _judge(context: Context, stored: _Stored) -> LintFinding | None:
    function, value, flow = stored.function, stored.value, context.flow
    if not value.tensors and not _copies_weights(context, stored):
        return None
    if _hooked(context, stored) is not None:
        return _by_hook(context, stored)
    outlives = flow.outlives(function, stored.holder, stored.node)
    if outlives is None or _is_limited(stored):
        return None
    if outlives != "training" and context.knowledge.grad.get(stored.node) is None and value.has_graph:
        return None  # some callers switch autograd off
    around = flow.iteration_loop(function, stored.node)
    emptied = flow.emptied(function, stored.holder, around[0] if around is not None else None)
    if emptied == "iteration":
        return None
    if _copies_weights(context, stored):
        return _weights(context, stored) if emptied is None else None
    if value.has_graph:
        if flow.reaches_backward(function, stored.holder):
            return None
        return _with_graph(context, stored, emptied is not None or outlives == "steps")
    if emptied is not None and (function.cls is None or join_of(function, stored.holder) is None):
        return None
    return _without_graph(context, stored, outlives, passing=emptied is not None)


def _is_read(stored: _Stored) -> bool:
    """Whether anything but its length is asked of a container; of an attribute anybody may ask."""
    holder = base_of(stored.holder)
    if not isinstance(holder, ast.Name):
        return True
    parents = stored.function.module.parents
    for item in ast.walk(stored.function.node):
        if not isinstance(item, ast.Name) or item.id != holder.id or not isinstance(item.ctx, ast.Load):
            continue
        user = parents.get(item)
        stores = isinstance(user, ast.Attribute) and user.attr in STORING_METHODS | EXTENDING_METHODS
        counts = isinstance(user, ast.Call) and is_name(user.func, "len")
        if not stores and not counts:
            return True
    return False


def _is_limited(stored: _Stored) -> bool:
    """Whether it is stored only where a container is not too long: `if len(self.data) < self.limit`."""
    path = path_of(base_of(stored.holder))
    return any(
        isinstance(parent, ast.If)
        and any(
            isinstance(item, ast.Call) and is_name(item.func, "len") and path in map(path_of, item.args)
            for item in ast.walk(parent.test)
        )
        for parent in stored.function.module.parents_of(stored.node)
    )


def _with_graph(context: Context, stored: _Stored, passing: bool) -> LintFinding | None:
    function, name, kept = stored.function, shown(base_of(stored.holder)), shown(stored.kept, 40)
    # What is emptied after an epoch or a rollout, or gathered over steps, may be meant to be there so long.
    confidence = Confidence.LOW if passing else sure(stored.value)
    if context.value(stored.holder).shape == "queue":
        message = (
            f"`{name}` has no limit and is given `{kept}` with its autograd graph, which stays until it is taken out. "
            "Put `.detach().cpu()` of it, and give the queue a `maxsize`."
        )
        return context.finding(function, stored.node, "MP116", message, "detach", Confidence.MEDIUM)
    if all(item.gradient for item in stored.value.tensors):
        message = (
            f"`{name}` keeps `{kept}`, gradients that were made with `create_graph=True`, and with them the graph of "
            "every iteration. Store `.detach()` of them."
        )
        return context.finding(function, stored.node, "MP106", message, "detach", confidence)
    scalar = all(item.scalar for item in stored.value.tensors if item.kind is Kind.GRAPH)
    how = "`.item()` of a loss, or `.detach()`," if scalar else "`.detach()` of it, or `.detach().cpu()`,"
    message = f"`{name}` keeps `{kept}` of every iteration together with its autograd graph. Store {how} instead."
    return context.finding(function, stored.node, "MP102", message, "item" if scalar else "detach", confidence)


def _by_hook(context: Context, stored: _Stored) -> LintFinding | None:
    """A hook appends what a module gives in every forward pass."""
    function, flow = stored.function, context.flow
    kept = [item for item in stored.value.tensors if not item.host and not item.scalar]
    confidence = _hooked(context, stored)
    if not kept or confidence is None or _is_reduced(stored.kept):
        return None
    root = path_of(base_of(stored.holder)).partition(".")[0]
    in_lambda = _lambda_of(stored) is not None
    if not in_lambda and root in local_names(function) and root != function.self_name:
        bound = len(function.parameters) - _HOOK_ARGUMENTS
        if root not in [item.arg for item in function.parameters[: max(bound, 0)]]:  # those of functools.partial
            return None
    if flow.emptied(function, stored.holder, None) is not None or flow.reaches_backward(function, stored.holder):
        return None
    name = "a lambda" if in_lambda else f"`{function.name}`"
    graph = ", with its autograd graph" if stored.value.has_graph else ""
    message = (
        f"The hook {name} stores `{shown(stored.kept, 40)}` in `{shown(base_of(stored.holder))}` in every forward pass"
        f"{graph}. Store `.detach().cpu()` of it, and clear the store once it is used."
    )
    remedy = "detach" if stored.value.has_graph else "move_to_cpu"
    return context.finding(function, stored.node, "MP107", message, remedy, confidence)


def _hooked(context: Context, stored: _Stored) -> Confidence | None:
    """How sure it is that a hook stays: low where handles are removed where it is registered; None for no hook."""
    where = context.knowledge.hooks.get(stored.function)
    if where is None and _lambda_of(stored) is not None:
        where = stored.function
    if where is None:
        return None
    removed = any(isinstance(call.func, ast.Attribute) and call.func.attr == "remove" for call in where.calls)
    return Confidence.LOW if removed else Confidence.HIGH


def _lambda_of(stored: _Stored) -> ast.Lambda | None:
    """The lambda, given as a forward hook, that stores something."""
    parents = stored.function.module.parents
    node: ast.AST = stored.node
    while isinstance(node, ast.expr) and not isinstance(node, ast.Lambda):
        node = parents[node]
    call = parents.get(node)
    hook = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
    if isinstance(node, ast.Lambda) and hook and isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        return node if call.func.attr.startswith(("register_forward", "register_full")) else None
    return None


def _without_graph(context: Context, stored: _Stored, outlives: str, *, passing: bool) -> LintFinding | None:
    function, value = stored.function, stored.value
    kept = [item for item in value.tensors if not item.host and not item.scalar]
    if not kept or value.guessed or _is_reduced(stored.kept):
        return None
    name = shown(base_of(stored.holder))
    activation = any(item.activation for item in kept)
    joined = join_of(function, stored.holder)
    if outlives != "training" and joined is not None and activation:
        where, call = joined
        message = (
            f"`{name}` gathers `{shown(stored.kept, 40)}` of the whole data set on the device, and "
            f"`{shown(call.func)}` copies it once more. Reduce each batch as it comes, or store `.cpu()` of it."
        )
        # Small outputs are gathered so on purpose, and the source does not tell their size.
        wasted = is_reduced_later(where, call) and outlives != "steps"
        confidence = Confidence.MEDIUM if wasted else Confidence.LOW
        return context.finding(where, call, "MP205", message, "move_to_cpu", confidence)
    if passing or (not activation and outlives != "training"):
        return None
    if context.value(stored.holder).shape == "queue":
        return None  # somebody takes it out
    message = (
        f"`{name}` keeps `{shown(stored.kept, 40)}` of every iteration on the device, and nothing is ever taken out. "
        "Store `.cpu()` of it, or limit the container."
    )
    # What an evaluation gathers for later ends with the data, and the source does not tell how much it is.
    renewed = context.flow.lifetimes.renewed(function, stored.holder, stored.node)
    gathered = outlives == "steps" or (outlives == "evaluation" and _is_read(stored))
    ends = gathered or (renewed and (not activation or not context.flow.over_loader(function, stored.node)))
    confidence = Confidence.LOW if ends else Confidence.MEDIUM
    return context.finding(function, stored.node, "MP103", message, "move_to_cpu", confidence)


def _is_reduced(node: ast.expr) -> bool:
    """Whether a tensor is much smaller than what it is made of."""
    for item in ast.walk(node):
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute) and item.func.attr in _REDUCED:
            return True
        if isinstance(item, ast.Compare):
            return True
    return False


def _copies_weights(context: Context, stored: _Stored) -> bool:
    """Whether a copy of a model's weights on their device is stored."""
    if stored.value.copies_weights:
        return True
    kept = stored.kept
    parts = (
        kept.elts if isinstance(kept, (ast.Tuple, ast.List)) else kept.values if isinstance(kept, ast.Dict) else [kept]
    )
    return any(
        isinstance(node, ast.Call)
        and stored.function.module.qualified(node.func) == "copy.deepcopy"
        and bool(node.args)
        and context.value(node.args[0]).kind is Kind.MODULE
        for node in parts
    )


def _weights(context: Context, stored: _Stored) -> LintFinding:
    name = shown(base_of(stored.holder))
    message = (
        f"`{name}` keeps a copy of the weights of every iteration on their device. Keep the best one only, or write "
        "each to disk or to the host."
    )
    return context.finding(stored.function, stored.node, "MP113", message, "bound_container", sure(stored.value))
