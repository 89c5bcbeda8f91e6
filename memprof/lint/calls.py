"""What calls give: of modules, of torch's functions and methods, of functions under check."""

from __future__ import annotations

import ast
from dataclasses import replace

from memprof.lint.names import is_constant, is_name, keyword, path_of
from memprof.lint.program import ClassInfo, FunctionInfo, Site
from memprof.lint.torch_calls import TorchReader
from memprof.lint.values import (
    MODULE,
    PARAMETER,
    PLAIN,
    TENSOR,
    UNKNOWN,
    Kind,
    Value,
    container,
    element_of,
    join,
    join_all,
)
from memprof.lint.vocabulary import (
    EXTENDING_METHODS,
    PASSING_FUNCTIONS,
    PLAIN_FUNCTIONS,
    STORING_METHODS,
)


class CallReader(TorchReader):
    """Values of calls."""

    def call(self, node: ast.Call) -> Value:
        """Value of a call, with its effects on names."""
        self.knowledge.grad[node] = self.grad
        arguments = [self.value(item) for item in node.args]
        keywords = {item.arg: self.value(item.value) for item in node.keywords}
        everything = [*arguments, *keywords.values()]
        name = self.module.qualified(node.func)
        if name.startswith(("torch.", "torchvision.")) or name in PASSING_FUNCTIONS:
            found = self.torch_call(node, name, arguments, everything)
            if found is not None:
                return found
        if isinstance(node.func, ast.Attribute):
            found = self._method(node, node.func, arguments, keywords)
            if found is not None:
                return found
        called = self.value(node.func)
        if called.kind is Kind.FUNCTION and called.function is not None:
            return self.invoke(called.function, node, arguments, keywords)
        if called.kind is Kind.OBJECT and called.cls is not None:
            method = self.program.method(called.cls, "__call__")
            return self.invoke(method, node, arguments, keywords) if method is not None else UNKNOWN
        if called.kind is Kind.CLASS and called.cls is None:  # of collections.namedtuple
            return Value(Kind.TUPLE, items=tuple(everything))
        if called.kind is Kind.CLASS and called.cls is not None:
            return self._construct(called.cls, node, arguments, keywords)
        if called.kind is Kind.MODULE:
            return self.apply_module(called, node, arguments, keywords)
        return self._by_name(node, name, arguments, everything)

    # ---- methods -----------------------------------------------------------------------------

    def _method(
        self, node: ast.Call, func: ast.Attribute, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value | None:
        base = self.value(func.value)
        name = func.attr
        if base.is_tensor:
            return self.tensor_method(node, base, name, arguments)
        if name in ("append", "appendleft", "add", "insert", "extend", "extendleft", "put", "put_nowait"):
            if base.kind in (Kind.CONTAINER, Kind.UNKNOWN) and arguments:
                if base.kind is Kind.UNKNOWN and (name != "append" or not isinstance(func.value, ast.Name)):
                    return UNKNOWN  # of something that may turn out to be no list
                self._keep(func.value, name, arguments)
                if base.kind is Kind.CONTAINER:
                    return PLAIN
        if base.kind is Kind.UNKNOWN and name in _OF_TENSORS_ONLY:
            return PLAIN
        if base.kind is Kind.CONTAINER:
            return self._container_method(func.value, base, name, arguments)
        if base.kind is Kind.MODULE and not name.startswith("register_"):
            return self._module_method(node, func, base, arguments, keywords)
        if base.kind is Kind.STATE_DICT and name in ("items", "values"):
            tensor = replace(TENSOR, host=base.host)
            pair = Value(Kind.TUPLE, items=(PLAIN, tensor))
            return container("iterator", pair if name == "items" else tensor)
        if name in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
            self._hook(name, node)
            return UNKNOWN
        if name == "prepare" and arguments:  # accelerate
            return arguments[0] if len(arguments) == 1 else Value(Kind.TUPLE, items=tuple(arguments))
        if name == "scale" and len(arguments) == 1 and arguments[0].is_tensor:  # GradScaler
            return self.arithmetic(arguments[0])
        if name == "from_pretrained" and any(part in ast.unparse(func.value) for part in ("Model", "For", "Net")):
            return MODULE
        return None

    def _keep(self, holder: ast.expr, name: str, arguments: list[Value]) -> None:
        if name in STORING_METHODS:
            self.store(holder, arguments[-1], "list" if name != "add" else "set")
        elif name in EXTENDING_METHODS:
            self.store(holder, element_of(arguments[0]), "list")

    def _container_method(self, holder: ast.expr, base: Value, name: str, arguments: list[Value]) -> Value:
        element = base.element or UNKNOWN
        if name == "items":
            return container("iterator", Value(Kind.TUPLE, items=(PLAIN, element)))
        if name in ("values", "copy"):
            return replace(base, shape="iterator" if name == "values" else base.shape)
        if name == "setdefault":
            default = arguments[1] if len(arguments) > 1 else PLAIN
            found = default if base.element is None else join(element, default)
            self.store(holder, default)
            return found
        if name == "update" and arguments:
            self.store(holder, element_of(arguments[0]))
            return PLAIN
        if name == "clear":
            return PLAIN
        return element if name in ("get", "pop", "popleft", "popitem", "get_nowait") else UNKNOWN

    def _module_method(
        self,
        node: ast.Call,
        func: ast.Attribute,
        base: Value,
        arguments: list[Value],
        keywords: dict[str | None, Value],
    ) -> Value | None:
        name = func.attr
        if name in ("eval", "train"):
            on = name == "train" and (not node.args or not is_constant(node.args[0], False))
            changed = replace(base, evaluating=not on)
            self._mark(func.value, changed)
            return changed
        if name == "requires_grad_":
            changed = replace(base, frozen=bool(node.args) and is_constant(node.args[0], False))
            self._mark(func.value, changed)
            return changed
        if name in _MOVING or name in ("apply", "share_memory", "type"):
            return base
        if name in ("parameters", "buffers"):
            weight = PARAMETER if name == "parameters" and not base.frozen else TENSOR
            return container("iterator", weight)
        if name in ("named_parameters", "named_buffers"):
            weight = PARAMETER if name == "named_parameters" and not base.frozen else TENSOR
            return container("iterator", Value(Kind.TUPLE, items=(PLAIN, weight)))
        if name in ("modules", "children"):
            return container("iterator", replace(MODULE, frozen=base.frozen))
        if name in ("named_modules", "named_children"):
            return container("iterator", Value(Kind.TUPLE, items=(PLAIN, replace(MODULE, frozen=base.frozen))))
        if name == "state_dict":
            return Value(Kind.STATE_DICT)
        if name == "forward" or (name == "module" and base.cls is None):
            return self.apply_module(base, node, arguments, keywords)
        if base.cls is not None and self.program.method(base.cls, name) is not None:
            return None
        if base.cls is not None and self.program.attribute(base.cls, name) is not None:
            return None
        return None if self._attribute(func).kind is Kind.MODULE else UNKNOWN

    def _mark(self, holder: ast.expr, value: Value) -> None:
        while isinstance(holder, ast.Call) and isinstance(holder.func, ast.Attribute) and holder.func.attr in _MOVING:
            holder = holder.func.value  # model.to(device).eval()
        path = path_of(holder)
        if path:
            self.env[path] = value

    def _hook(self, name: str, node: ast.Call) -> None:
        """A hook is called with the module, its inputs, and its output."""
        given = node.args[0] if node.args else keyword(node, "hook")
        bound = 0
        if isinstance(given, ast.Call) and self.module.qualified(given.func) in ("functools.partial", "partial"):
            bound = len(given.args) - 1
            given = given.args[0] if given.args else None
        output = replace(self.graph(output=True), activation=True)
        passed = [MODULE, output] if "pre" in name else [MODULE, container("iterator", output), output]
        if isinstance(given, ast.Lambda):
            before = dict(self.env)
            names = [item.arg for item in (*given.args.posonlyargs, *given.args.args)]
            self.env.update(zip(names, passed, strict=False))
            self.value(given.body)
            self.env = before
            return
        hook = self.value(given) if given is not None else UNKNOWN
        if hook.kind is not Kind.FUNCTION or hook.function is None:
            return
        self.knowledge.hooks[hook.function] = self.function
        kept = self.knowledge.passed[self.function]
        for parameter, value in zip(hook.function.parameters[bound:], passed, strict=False):
            kept[hook.function, parameter.arg] = value

    # ---- modules, classes, functions ---------------------------------------------------------

    def apply_module(
        self, called: Value, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value:
        """What a module returns when it is called."""
        inside = UNKNOWN
        if called.cls is not None:
            forward = self.program.method(called.cls, "forward")
            if forward is not None:
                inside = self.invoke(forward, node, arguments, keywords)
        tensors = [item for item in (*arguments, *keywords.values()) if item.is_tensor or item.tensors]
        passing = [tensor for item in tensors for tensor in item.tensors]
        if called.loss or called.frozen:
            if any(tensor.kind is not Kind.TENSOR for tensor in passing):
                made = replace(self.graph(scalar=called.loss, output=not called.loss), activation=True)
                guessed = called.guess or all(item.guess for item in passing if item.kind is not Kind.TENSOR)
                return self._shaped(inside, replace(made, guess=guessed))
            unknown = any(item.kind is Kind.UNKNOWN for item in (*arguments, *keywords.values()))
            return UNKNOWN if unknown or not passing else replace(TENSOR, scalar=called.loss)
        self.makes_graphs = True
        if any(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in node.args):
            return UNKNOWN  # a pipeline that takes text
        return self._shaped(inside, replace(self.graph(output=True, guess=called.guess), activation=True))

    def _shaped(self, inside: Value, made: Value) -> Value:
        """The result in the shape that `forward` gives it."""
        if inside.kind is Kind.TUPLE:
            return replace(inside, items=tuple(self._shaped(item, made) for item in inside.items))
        if inside.kind is Kind.CONTAINER:
            return replace(inside, element=self._shaped(inside.element or UNKNOWN, made))
        return made if inside.kind in (Kind.UNKNOWN, Kind.GRAPH) else inside

    def _construct(
        self, cls: ClassInfo, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value:
        start = self.program.method(cls, "__init__")
        if start is not None:
            self.invoke(start, node, arguments, keywords)
        if self.program.is_module_class(cls):
            loss = "loss" in cls.name.lower() or "criterion" in cls.name.lower()
            return Value(Kind.MODULE, cls=cls, loss=loss, frozen=loss)
        return Value(Kind.OBJECT, cls=cls, items=self._fields(cls, arguments, keywords))

    def _fields(self, cls: ClassInfo, arguments: list[Value], keywords: dict[str | None, Value]) -> tuple[Value, ...]:
        """What an instance of a data class or a named tuple holds."""
        decorators = {
            self.module.qualified(item.func if isinstance(item, ast.Call) else item).rpartition(".")[2]
            for item in cls.node.decorator_list
        }
        if "dataclass" in decorators or any(base.endswith("NamedTuple") for base in cls.bases):
            return (*arguments, *keywords.values())
        return ()

    def invoke(
        self, function: FunctionInfo, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value:
        """Pass values to a function under check and take what it returns."""
        evaluating = self.evaluating
        self.knowledge.called[self.function][node] = (function, Site(self.function, node, self.grad, evaluating))
        kept = self.knowledge.passed[self.function]
        parameters = function.parameters
        starred = any(isinstance(item, ast.Starred) for item in node.args)
        passed = [] if starred else list(zip((item.arg for item in parameters), arguments, strict=False))
        names = {item.arg for item in parameters}
        if not isinstance(function.node, ast.Module):
            names |= {item.arg for item in function.node.args.kwonlyargs}
            extra, more = function.node.args.kwarg, function.node.args.vararg
            if extra is not None:
                rest = [value for key, value in keywords.items() if key is not None and key not in names]
                passed.append((extra.arg, container("dict", join_all(rest) if rest else None)))
            if more is not None and not starred:
                rest = arguments[len(parameters) :]
                passed.append((more.arg, container("iterator", join_all(rest) if rest else None)))
        passed += [(key, value) for key, value in keywords.items() if key in names and key is not None]
        for key, value in passed:
            known = kept.get((function, key))
            kept[function, key] = value if known is None else join(known, value)
        self._take_attributes(function, node)
        self.makes_graphs = self.makes_graphs or function.makes_graphs
        returned = self.without_graph(function.returns) if self.grad is False else function.returns
        given = [*arguments, *keywords.values()]
        if function.makes_graphs or not returned.has_graph or not given or any(map(_may_bring, given)):
            return returned
        bare = any(item.tensors for item in given) and all(item.is_bare for item in given)
        return self.without_graph(returned) if bare else UNKNOWN  # the graph is that of other callers

    def _take_attributes(self, function: FunctionInfo, node: ast.Call) -> None:
        """After `self.reset()` the attributes are as `reset` leaves them."""
        if function.cls is None or not isinstance(node.func, ast.Attribute):
            return
        instance, own = path_of(node.func.value), function.self_name
        if not instance or not own:
            return
        for path, value in function.environment.items():
            if path.startswith(f"{own}."):
                self.env[f"{instance}.{path[len(own) + 1 :]}"] = value

    def _collected(self, name: str, first: Value, arguments: list[Value]) -> Value:
        """What `list(...)` and the like make of what they are given."""
        if name == "iter" or (name == "tuple" and first.kind is Kind.TUPLE):
            return first
        if name == "next":
            return element_of(first)
        if name == "dict":
            return first if first.kind is Kind.CONTAINER else container("dict")
        shape = {"sorted": "list", "list": "list", "set": "set"}.get(name, "iterator")
        return container(shape, element_of(first) if arguments else None)

    # ---- everything else ---------------------------------------------------------------------

    def _by_name(self, node: ast.Call, name: str, arguments: list[Value], everything: list[Value]) -> Value:
        first = arguments[0] if arguments else UNKNOWN
        last = name.rpartition(".")[2]
        if name in _COLLECTING:
            return self._collected(name, first, arguments)
        if name in ("abs", "round") and first.is_tensor:
            return self.arithmetic(first)
        if name == "random.choice":
            return element_of(first)
        if name in ("random.sample", "random.choices"):
            return container("list", element_of(first))
        if name == "sum" and first.tensors:
            return replace(self.arithmetic(*first.tensors), scalar=all(item.scalar for item in first.tensors))
        if name in ("collections.namedtuple", "namedtuple"):
            return Value(Kind.CLASS)
        if name.startswith("numpy.") and is_name(keyword(node, "dtype"), "object"):
            return container("dict")
        if name in PLAIN_FUNCTIONS or name.startswith(("numpy.", "math.", "time.", "os.", "random.", "json.")):
            return PLAIN
        if name in ("collections.deque", "deque"):
            limit = node.args[1] if len(node.args) > 1 else keyword(node, "maxlen")
            bounded = limit is not None and not is_constant(limit, None)
            return container("deque", first.element if arguments else None, bounded=bounded)
        if name in ("collections.defaultdict", "defaultdict"):
            kind = ast.unparse(node.args[0]) if node.args else ""
            inner = {"list": container("list"), "dict": container("dict"), "deque": container("deque")}.get(kind)
            if node.args and isinstance(node.args[0], ast.Lambda):
                inner = self.value(node.args[0].body)
            return container("dict", inner or (PLAIN if kind in ("int", "float") else None))
        if name.startswith(("queue.", "multiprocessing.")) and last in ("Queue", "SimpleQueue", "LifoQueue"):
            return container("queue", bounded=bool(node.args or node.keywords))
        if name == "dataclasses.field" or name == "field":
            factory = keyword(node, "default_factory")
            made = ast.unparse(factory) if factory is not None else ""
            return container(made) if made in ("list", "dict", "set", "deque") else UNKNOWN
        if name in ("tqdm", "trange") or name.startswith(("tqdm.", "rich.progress")):
            return first if last != "trange" else container("iterator", PLAIN)
        if name == "zip":
            return container("iterator", Value(Kind.TUPLE, items=tuple(element_of(item) for item in arguments)))
        if name == "enumerate":
            return container("iterator", Value(Kind.TUPLE, items=(PLAIN, element_of(first))))
        if name == "getattr":
            return UNKNOWN
        if name == "timm.create_model":
            return MODULE
        if "loss" in last.lower() and any(item.has_graph for item in everything):
            return self.graph(scalar=True, guess=True)
        return UNKNOWN


_MOVING = frozenset("to cuda cpu half float double bfloat16 train eval".split())
_COLLECTING = frozenset("list tuple set dict sorted reversed iter next".split())


def _may_bring(value: Value) -> bool:
    """Whether what a function is given brings a graph, or something that makes one."""
    return value.has_graph or value.kind in (Kind.PARAMETER, Kind.MODULE, Kind.OBJECT)


_OF_TENSORS_ONLY = frozenset("size numel item tolist ndimension nelement".split())
"""Methods that give numbers, whatever they are called on."""
