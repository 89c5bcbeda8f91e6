"""The files under check as one program: modules, classes, functions, and what their names refer to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from memprof.lint.values import UNKNOWN, Value

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.AsyncFor | ast.While
LOOPS = (ast.For, ast.AsyncFor, ast.While)
DEEPEST = 150
"""How deep nodes of the syntax tree may be nested; what follows them calls itself a few times a level."""

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(eq=False, slots=True, repr=False)
class FunctionInfo:
    """A function, or the body of a module, and what is known of it.

    Attributes:
        name: Last name; `<module>` for a module's body.
        node: Its definition; the tree for a module's body.
        module: Where it is.
        cls: The class whose method it is.
        outer: The function it is defined in.
        arguments: What callers pass, by parameter.
        returns: What it returns.
        environment: Names at its end, for functions inside it.
        sites: Where it is called.
        makes_graphs: It may give tensors a graph that none of its arguments has, as a model does.
    """

    name: str
    node: FunctionNode | ast.Module
    module: SourceModule
    cls: ClassInfo | None = None
    outer: FunctionInfo | None = None
    arguments: dict[str, Value] = field(default_factory=dict)
    returns: Value = UNKNOWN
    environment: dict[str, Value] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    makes_graphs: bool = True
    inner: dict[str, FunctionInfo] = field(default_factory=dict)
    calls: list[ast.Call] = field(default_factory=list)
    loops: list[ast.For | ast.AsyncFor | ast.While] = field(default_factory=list)
    statements: list[ast.stmt] = field(default_factory=list)
    bindings: list[ast.comprehension | ast.NamedExpr] = field(default_factory=list)

    @property
    def body(self) -> list[ast.stmt]:
        """Its statements."""
        return self.node.body

    @property
    def parameters(self) -> list[ast.arg]:
        """Its positional parameters, without `self` or `cls`."""
        if isinstance(self.node, ast.Module):
            return []
        found = [*self.node.args.posonlyargs, *self.node.args.args]
        return found[1:] if self.takes_self else found

    def default(self, parameter: str) -> ast.expr | None:
        """The expression that stands for a parameter which a caller leaves out."""
        if isinstance(self.node, ast.Module):
            return None
        arguments = self.node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        pairs = [
            *zip(reversed(positional), reversed(arguments.defaults), strict=False),
            *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
        ]
        return next((value for item, value in pairs if item.arg == parameter), None)

    @property
    def takes_self(self) -> bool:
        """Whether the first parameter is the instance or the class."""
        return self.cls is not None and "staticmethod" not in self.decorators

    @property
    def self_name(self) -> str:
        """What the method calls its instance; empty for functions."""
        if not self.takes_self or isinstance(self.node, ast.Module):
            return ""
        found = [*self.node.args.posonlyargs, *self.node.args.args]
        return found[0].arg if found else ""

    @property
    def decorators(self) -> list[str]:
        """Dotted names of its decorators, without what they are called with."""
        if isinstance(self.node, ast.Module):
            return []
        called = (item.func if isinstance(item, ast.Call) else item for item in self.node.decorator_list)
        return [self.module.qualified(item) for item in called]


@dataclass(frozen=True, slots=True)
class Site:
    """A call of a function: who calls, where, and in which modes.

    Attributes:
        caller: Who calls.
        call: Where.
        grad: Whether autograd is on there; None: as a variable says.
        evaluating: The caller evaluates.
        bound: Positional arguments that `functools.partial` passes before those of the call.
    """

    caller: FunctionInfo
    call: ast.Call
    grad: bool | None
    evaluating: bool
    bound: int = 0


@dataclass(eq=False, slots=True, repr=False)
class ClassInfo:
    """A class and what is known of its instances."""

    name: str
    node: ast.ClassDef
    module: SourceModule
    bases: list[str] = field(default_factory=list)
    methods: dict[str, FunctionInfo] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)
    """By name, joined over what each method leaves behind."""
    fields: dict[str, Value] = field(default_factory=dict)
    """By name, as the class body gives them."""


@dataclass(eq=False, slots=True, repr=False)
class SourceModule:
    """One parsed file.

    Attributes:
        path: As it is shown.
        name: Dotted name it may be imported by, as far as its path tells.
        tree: Its syntax tree.
        imports: Local name -> dotted name.
        stars: Dotted names of modules of which all names are imported.

    Raises:
        RecursionError: It is nested deeper than `DEEPEST`.
    """

    path: str
    name: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    functions: dict[str, FunctionInfo] = field(default_factory=dict)
    classes: dict[str, ClassInfo] = field(default_factory=dict)
    every_function: list[FunctionInfo] = field(default_factory=list)
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    body: FunctionInfo = field(init=False)

    def __post_init__(self) -> None:
        self.body = FunctionInfo("<module>", self.tree, self)
        self.every_function.append(self.body)
        self._walk(self.tree, self.body, None, 0)

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__` of a package, which its name does not say."""
        return PurePath(self.path).stem == "__init__"

    def _walk(self, node: ast.AST, function: FunctionInfo, cls: ClassInfo | None, depth: int) -> None:
        if depth > DEEPEST:
            raise RecursionError(f"code is nested more than {DEEPEST} levels deep")
        for child in ast.iter_child_nodes(node):
            self.parents[child] = node
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                function.statements.append(child)
                self._add_function(child, function, cls if isinstance(node, ast.ClassDef) else None, depth)
            elif isinstance(child, ast.ClassDef):
                function.statements.append(child)
                info = ClassInfo(child.name, child, self, [self.qualified(base) for base in child.bases])
                self.classes.setdefault(child.name, info)
                self._walk(child, function, info, depth + 1)
            else:
                if isinstance(child, ast.stmt):
                    function.statements.append(child)
                if isinstance(child, (ast.Import, ast.ImportFrom)):
                    self._add_import(child)
                elif isinstance(child, ast.Call):
                    function.calls.append(child)
                elif isinstance(child, LOOPS):
                    function.loops.append(child)
                elif isinstance(child, (ast.comprehension, ast.NamedExpr)):
                    function.bindings.append(child)
                self._walk(child, function, cls, depth + 1)

    def _add_function(self, node: FunctionNode, outer: FunctionInfo, cls: ClassInfo | None, depth: int) -> None:
        info = FunctionInfo(node.name, node, self, cls=cls, outer=None if outer is self.body else outer)
        self.every_function.append(info)
        if cls is not None:
            cls.methods[node.name] = info
        elif outer is self.body:
            self.functions[node.name] = info
        else:
            outer.inner[node.name] = info
        self._walk(node, info, cls, depth + 1)

    def _add_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    self.imports[alias.asname] = alias.name
                else:
                    first = alias.name.partition(".")[0]
                    self.imports[first] = first
            return
        parent = node.module or ""
        if node.level:
            here = [*self.name.split("."), "__init__"] if self.is_package else self.name.split(".")
            parent = ".".join([*here[: -node.level], *([node.module] if node.module else [])])
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(parent)
                continue
            self.imports[alias.asname or alias.name] = f"{parent}.{alias.name}" if parent else alias.name

    def qualified(self, node: ast.AST) -> str:
        """Dotted name of an expression with imports resolved, or ''."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        parts.append(self.imports.get(node.id, node.id))
        name = ".".join(reversed(parts))
        return _ALIASES.get(name, name)

    def parents_of(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around a node, innermost first, up to and without the function's definition."""
        parent = self.parents.get(node)
        while parent is not None and not isinstance(parent, (*SCOPES, ast.Module)):
            yield parent
            parent = self.parents.get(parent)

    def statement_of(self, node: ast.AST) -> ast.stmt | None:
        """The statement a node belongs to."""
        while not isinstance(node, ast.stmt):
            parent = self.parents.get(node)
            if parent is None:
                return None
            node = parent
        return node

    def loops_of(self, node: ast.AST) -> list[ast.For | ast.AsyncFor | ast.While]:
        """The loops around a node in its function, innermost first; a loop's `else` is not in it."""
        found: list[ast.For | ast.AsyncFor | ast.While] = []
        below = node
        for parent in self.parents_of(node):
            if isinstance(parent, LOOPS):
                head = isinstance(parent, (ast.For, ast.AsyncFor)) and below in (parent.iter, parent.target)
                if not head and below not in parent.orelse:
                    found.append(parent)
            below = parent
        return found


_ALIASES = {
    "torch.autograd.no_grad": "torch.no_grad",
    "torch.autograd.grad_mode.no_grad": "torch.no_grad",
    "torch.autograd.inference_mode": "torch.inference_mode",
    "torch.autograd.set_grad_enabled": "torch.set_grad_enabled",
    "torch.autograd.grad_mode.set_grad_enabled": "torch.set_grad_enabled",
    "torch.autograd.anomaly_mode.set_detect_anomaly": "torch.autograd.set_detect_anomaly",
    "torch.autograd.anomaly_mode.detect_anomaly": "torch.autograd.detect_anomaly",
}


class Program:
    """All files under check."""

    def __init__(self, modules: list[SourceModule]) -> None:
        self.modules = modules
        self._by_tail: dict[str, list[SourceModule]] = {}
        for module in modules:
            self._by_tail.setdefault(module.name.rpartition(".")[2], []).append(module)
        self.functions = [function for module in modules for function in module.every_function]
        self.classes = [cls for module in modules for cls in module.classes.values()]
        self._module_classes: dict[ClassInfo, bool] = {}
        self._derived: dict[ClassInfo, list[ClassInfo]] | None = None

    def module_named(self, name: str, near: SourceModule) -> SourceModule | None:
        """The file a dotted name is imported from; a file beside the importing one wins."""
        candidates = self._by_tail.get(name.rpartition(".")[2], [])
        exact = [item for item in candidates if item.name == name or item.name.endswith(f".{name}")]
        if not exact:
            return None
        package = near.name.rpartition(".")[0]
        beside = [item for item in exact if item.name.rpartition(".")[0] == package]
        return (beside or exact)[0] if beside or len(exact) == 1 else None

    def find(self, name: str, module: SourceModule, depth: int = 0) -> FunctionInfo | ClassInfo | None:
        """The function or class a dotted name stands for in a file.

        Args:
            name: With imports resolved.
            module: Where the name is written.
            depth: Files already gone through that import the name themselves.
        """
        head, _, tail = name.rpartition(".")
        if not head:
            return module.functions.get(name) or module.classes.get(name) or self._starred(name, module, depth)
        owner = self.module_named(head, module)
        if owner is not None:
            found = owner.functions.get(tail) or owner.classes.get(tail)
            if found is None and depth < _REEXPORTS and owner is not module:
                passed_on = owner.imports.get(tail)
                if passed_on is not None:
                    return self.find(passed_on, owner, depth + 1)
                return self._starred(tail, owner, depth)
            return found
        cls = self.find(head, module) if head != name else None
        return self.method(cls, tail) if isinstance(cls, ClassInfo) else None

    def _starred(self, name: str, module: SourceModule, depth: int) -> FunctionInfo | ClassInfo | None:
        """What `from x import *` brings under a name."""
        if depth >= _REEXPORTS:
            return None
        for parent in module.stars:
            owner = self.module_named(parent, module)
            if owner is not None and owner is not module:
                found = self.find(f"{parent}.{name}", module, depth + 1)
                if found is not None:
                    return found
        return None

    def bases(self, cls: ClassInfo) -> Iterator[ClassInfo]:
        """A class and those of its bases that are under check, nearest first."""
        seen: set[ClassInfo] = set()
        waiting = [cls]
        while waiting:
            current = waiting.pop(0)
            if current in seen:
                continue
            seen.add(current)
            yield current
            for base in current.bases:
                found = self.find(base, current.module)
                if isinstance(found, ClassInfo):
                    waiting.append(found)

    def method(self, cls: ClassInfo, name: str) -> FunctionInfo | None:
        """A method, looked up through the bases."""
        return next((item.methods[name] for item in self.bases(cls) if name in item.methods), None)

    def attribute(self, cls: ClassInfo, name: str) -> Value | None:
        """An attribute of instances, looked up through the bases."""
        return next((item.attributes[name] for item in self.bases(cls) if name in item.attributes), None)

    def derived(self, cls: ClassInfo) -> list[ClassInfo]:
        """The classes derived from a class, directly or through others."""
        if self._derived is None:
            self._derived = {}
            for item in self.classes:
                for base in self.bases(item):
                    if base is not item:
                        self._derived.setdefault(base, []).append(item)
        return self._derived.get(cls, [])

    def base_names(self, cls: ClassInfo) -> set[str]:
        """Dotted names of all bases, under check or not."""
        return {base for item in self.bases(cls) for base in item.bases}

    def is_module_class(self, cls: ClassInfo) -> bool:
        """Whether instances are `torch.nn.Module`s."""
        if cls not in self._module_classes:
            names = self.base_names(cls)
            self._module_classes[cls] = any(
                name.startswith("torch.nn.") or name.rpartition(".")[2] in _MODULE_BASES for name in names
            ) or self._has_forward_of_a_module(cls)
        return self._module_classes[cls]

    def _has_forward_of_a_module(self, cls: ClassInfo) -> bool:
        """Whether it has a `forward(self, ...)` and a base that is not under check: a module of some other package."""
        above = list(self.bases(cls))
        forward = next((item.methods["forward"] for item in above if "forward" in item.methods), None)
        if forward is None or not forward.takes_self:
            return False
        bases = (
            (item.module, base) for item in above for base in item.bases if base.rpartition(".")[2] not in _PLAIN_BASES
        )
        return any(self.find(base, module) is None for module, base in bases)


_REEXPORTS = 4
"""How many files a name is followed through that import it from another."""

_PLAIN_BASES = frozenset("object ABC Generic Protocol NamedTuple Enum Exception dict list ".split())
"""Bases of any kind of class."""

_MODULE_BASES = frozenset("LightningModule PreTrainedModel Module".split())
