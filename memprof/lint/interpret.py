"""Follows values through the statements of one function."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import replace

from memprof.lint.calls import CallReader
from memprof.lint.knowledge import Knowledge
from memprof.lint.names import is_constant, path_of
from memprof.lint.program import ClassInfo, FunctionInfo, Program
from memprof.lint.values import PARAMETER, PLAIN, UNKNOWN, Kind, Value, element_of, join, turn_of, with_entry
from memprof.lint.vocabulary import FRAMEWORK_EVALUATION, GRAD_SWITCHES, guess, names_evaluation, of_annotation


class Interpreter(CallReader):
    """Runs one function on values."""

    def __init__(self, program: Program, function: FunctionInfo, knowledge: Knowledge) -> None:
        super().__init__(program, function, knowledge)
        self._result: Value | None = None
        self._backward = {
            path_of(call.func.value)
            for call in function.calls
            if isinstance(call.func, ast.Attribute) and call.func.attr == "backward"
        }

    def run(self) -> None:
        """Follow the function from its first statement to its last."""
        function = self.function
        self.grad = self._grad_at_entry()
        self.evaluating = names_evaluation(function.name) or (
            bool(function.sites) and all(site.evaluating for site in function.sites)
        )
        if self.evaluating:
            self.knowledge.evaluating.add(function)
        self._bind_parameters()
        self._block(function.body)
        function.environment = self.env
        function.makes_graphs = self.makes_graphs
        function.returns = PLAIN if self._result is None else self._result

    def _grad_at_entry(self) -> bool | None:
        for decorator in self.function.decorators:
            if decorator in GRAD_SWITCHES:
                return GRAD_SWITCHES[decorator]
            if "no_grad" in decorator or "inference_mode" in decorator:
                return False
        if self.function.name in FRAMEWORK_EVALUATION or self.knowledge.grad_off:
            return False
        modes = {site.grad for site in self.function.sites if site.caller is not self.function}
        if not modes or modes == {True}:
            return True
        return False if modes == {False} else None

    def _bind_parameters(self) -> None:
        node = self.function.node
        if isinstance(node, ast.Module):
            return
        if self.function.takes_self and self.function.cls is not None:
            cls = self.function.cls
            kind = Kind.MODULE if self.program.is_module_class(cls) else Kind.OBJECT
            if "classmethod" in self.function.decorators:
                kind = Kind.CLASS
            self.env[self.function.self_name] = Value(kind, cls=cls, derived=kind is not Kind.CLASS)
        for parameter in (*self.function.parameters, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
            if parameter is not None:
                self.env[parameter.arg] = self._parameter(parameter, self.function.default(parameter.arg))

    def _parameter(self, parameter: ast.arg, default: ast.expr | None) -> Value:
        passed = self.function.arguments.get(parameter.arg, UNKNOWN)
        if passed.kind is not Kind.UNKNOWN:
            return passed
        annotated = self._annotated(parameter.annotation)
        if annotated is not None:
            return annotated
        if default is not None and isinstance(default, ast.Constant) and default.value is not None:
            return PLAIN
        if isinstance(default, (ast.List, ast.Dict, ast.Set)):
            return self.value(default)
        return guess(parameter.arg)

    def _annotated(self, node: ast.expr | None) -> Value | None:
        """What an annotation says; None where it leaves it open."""
        if isinstance(node, ast.BinOp):  # X | None
            return self._annotated(node.right if is_constant(node.left, None) else node.left)
        if isinstance(node, ast.Subscript):
            inner = self.module.qualified(node.value).rpartition(".")[2]
            return self._annotated(node.slice if inner == "Optional" else node.value)
        if node is None:
            return None
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self._annotated_text(node.value)
        name = self.module.qualified(node)
        cls = self.program.find(name, self.module) if name else None
        if isinstance(cls, ClassInfo):
            return Value(Kind.MODULE if self.program.is_module_class(cls) else Kind.OBJECT, cls=cls)
        return of_annotation(name)

    def _annotated_text(self, text: str) -> Value | None:
        try:
            return self._annotated(ast.parse(text, mode="eval").body)
        except SyntaxError:
            return None

    # ---- names -------------------------------------------------------------------------------

    def set_path(self, path: str, value: Value) -> None:
        """As above; what `backward()` is called on has a graph, wherever it comes from."""
        if value.kind is Kind.UNKNOWN and path in self._backward:
            value = self.brought(self.graph(scalar=True))
        super().set_path(path, value)

    def returned(self, value: Value) -> None:
        """Take note of what the function gives back."""
        self._result = value if self._result is None else join(self._result, value)

    # ---- statements --------------------------------------------------------------------------

    def _block(self, statements: Iterable[ast.stmt]) -> bool:
        """Follow statements; True when control does not come out at their end."""
        ended = False
        for statement in statements:
            ended = self._statement(statement) or ended
        return ended

    def _statement(self, node: ast.stmt) -> bool:
        self.knowledge.grad[node] = self.grad
        if isinstance(node, ast.Expr):
            self.value(node.value)
        elif isinstance(node, ast.Assign):
            self._assign(node)
        elif isinstance(node, ast.AugAssign):
            self._augmented(node)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.bind(node.target, self.value(node.value))
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            iterated = self.value(node.iter)
            self._loop(node, iterated)
        elif isinstance(node, ast.While):
            self._loop(node, None)
        elif isinstance(node, ast.If):
            return self._if(node)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            return self._with(node)
        elif isinstance(node, ast.Try) or type(node).__name__ == "TryStar":
            return self._try(node)  # type: ignore[arg-type]
        elif isinstance(node, ast.Return):
            self.returned(self.value(node.value))
            return True
        elif isinstance(node, ast.Match):
            self.value(node.subject)
            self._branches([case.body for case in node.cases])
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self.env.pop(path_of(target), None)
        elif isinstance(node, (ast.Raise, ast.Continue, ast.Break)):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child)
            return True
        elif isinstance(node, ast.Assert):
            self.value(node.test)
        elif isinstance(node, ast.Global):
            self._share(node.names)
        return False

    def _share(self, names: Sequence[str]) -> None:
        """A `global` name is the module's."""
        for name in names:
            if name in self.module.body.environment:
                self.env.setdefault(name, self.module.body.environment[name])

    def _assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
                self._set_requires_grad(target, node.value)
            self.bind(target, value)

    def _set_requires_grad(self, target: ast.Attribute, value: ast.expr) -> None:
        path = path_of(target.value)
        if is_constant(value, True) and path and self.value(target.value).kind is Kind.TENSOR:
            self.env[path] = PARAMETER
        if is_constant(value, False):
            self._freeze(target)

    def _freeze(self, node: ast.AST) -> None:
        """`for p in net.parameters(): p.requires_grad = False` freezes `net`."""
        loop = next(iter(self.module.loops_of(node)), None)
        statement = self.module.statement_of(node)
        if not isinstance(loop, ast.For) or statement not in loop.body or not isinstance(loop.iter, ast.Call):
            return
        func = loop.iter.func
        if isinstance(func, ast.Attribute) and func.attr in ("parameters", "named_parameters"):
            module = self.value(func.value)
            path = path_of(func.value)
            if path and module.kind in (Kind.MODULE, Kind.UNKNOWN):
                self.env[path] = replace(module, kind=Kind.MODULE, frozen=True)

    def _augmented(self, node: ast.AugAssign) -> None:
        before, value = self.value(node.target), self.value(node.value)
        if before.kind is Kind.CONTAINER:
            after = with_entry(before, None, element_of(value))
        else:
            after = self.arithmetic(before, value)
            if after.kind is Kind.UNKNOWN and value.is_tensor:
                after = value
        self.bind(node.target, after)

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, iterated: Value | None) -> None:
        """The body is followed again while it changes what it began with."""
        for _ in range(2):
            before = dict(self.env)
            if isinstance(node, ast.While):
                self.value(node.test)
            elif iterated is not None:
                self.bind(node.target, turn_of(iterated))
            self._block(node.body)
            self._note_freezing(node)
            joined = _join(before, self.env)
            changed = any(joined[name] != value for name, value in before.items() if name in joined)
            self.env = joined
            if not changed:
                break
        self._block(node.orelse)

    def _note_freezing(self, node: ast.For | ast.AsyncFor | ast.While) -> None:
        for statement in node.body:
            call = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                if call.func.attr == "requires_grad_" and call.args and is_constant(call.args[0], False):
                    self._freeze(call)
            if isinstance(statement, ast.Assign) and is_constant(statement.value, False):
                for target in statement.targets:
                    if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
                        self._freeze(target)

    def _if(self, node: ast.If) -> bool:
        self.value(node.test)
        before = dict(self.env)
        grad = self.grad
        self.narrow(node.test, holds=True)
        ended = self._block(node.body)
        positive, self.env = self.env, dict(before)
        positive_grad, self.grad = self.grad, grad
        self.narrow(node.test, holds=False)
        ended_too = self._block(node.orelse)
        if positive_grad is not self.grad:
            self.grad = None
        if ended and not ended_too:
            return False
        self.env = positive if ended_too and not ended else _join(positive, self.env)
        return ended and ended_too

    def _branches(self, bodies: list[list[ast.stmt]]) -> None:
        before = dict(self.env)
        result = before
        for body in bodies:
            self.env = dict(before)
            self._block(body)
            result = _join(result, self.env)
        self.env = result

    def _with(self, node: ast.With | ast.AsyncWith) -> bool:
        outside = self.grad
        for item in node.items:
            self.grad = self._grad_in(item.context_expr)
            value = self.value(item.context_expr)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value)
        ended = self._block(node.body)
        self.grad = outside
        return ended

    def _grad_in(self, node: ast.expr) -> bool | None:
        """Autograd inside a `with`."""
        name = self.module.qualified(node.func) if isinstance(node, ast.Call) else ""
        if name in GRAD_SWITCHES:
            if name == "torch.set_grad_enabled" and isinstance(node, ast.Call) and node.args:
                argument = node.args[0]
                return argument.value is True if isinstance(argument, ast.Constant) else None
            return GRAD_SWITCHES[name]
        if "no_grad" in name or "inference_mode" in name:
            return False
        if not isinstance(node, ast.Call) and not isinstance(node, ast.Attribute):
            return None if self.grad else self.grad  # a context chosen elsewhere
        return self.grad

    def _try(self, node: ast.Try) -> bool:
        before = dict(self.env)
        ended = self._block([*node.body, *node.orelse])
        after = self.env
        for handler in node.handlers:
            self.env = dict(before)
            self._block(handler.body)
            after = _join(after, self.env)
        self.env = after
        self._block(node.finalbody)
        return ended and not node.handlers

    def _class(self, node: ast.ClassDef) -> None:
        info = self.module.classes.get(node.name)
        if info is None or info.node is not node:
            return
        outside = dict(self.env)
        inside: set[str] = set()
        for statement in node.body:
            if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                self._statement(statement)
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                inside |= {target.id for target in targets if isinstance(target, ast.Name)}
        info.fields = {name: self.env[name] for name in inside if name in self.env}
        self.env = outside


def _join(first: dict[str, Value], second: dict[str, Value]) -> dict[str, Value]:
    """Names after two ways that meet; what only one knows is kept."""
    result = dict(first)
    for name, value in second.items():
        known = result.get(name)
        result[name] = value if known is None or known is value else join(known, value)
    return result
