"""What calls give: of modules, of torch's functions and methods, of functions under check."""

from __future__ import annotations

import ast
from dataclasses import replace

from memprof.lint.library_calls import LibraryReader
from memprof.lint.names import is_constant, keyword, path_of, text_of
from memprof.lint.program import ClassInfo, FunctionInfo, Site
from memprof.lint.records import is_record, record_fields, stored_parameters
from memprof.lint.torch_calls import DISTRIBUTION
from memprof.lint.values import (
    MODULE,
    PARAMETER,
    PLAIN,
    TENSOR,
    UNKNOWN,
    Kind,
    Value,
    container,
    dictionary,
    element_of,
    join,
    join_all,
)
from memprof.lint.vocabulary import PASSING_FUNCTIONS


class CallReader(LibraryReader):
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
        if called.kind is Kind.MODULE:
            return self.apply_module(called, node, arguments, keywords)
        known = (self._call_of(one, node, arguments, keywords) for one in called.alternatives)
        results = [result for result in known if result is not None]
        return join_all(results) if results else self.by_name(node, name, arguments, keywords)

    def _call_of(
        self, called: Value, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value | None:
        """What a function, an object, or a class of the program gives; None for anything else."""
        if called.kind is Kind.FUNCTION and called.function is not None:
            bound = [value for value, key in zip(called.items, called.names, strict=True) if not key]
            named: dict[str | None, Value] = {}
            named.update(zip(called.names, called.items, strict=True))
            named.update(keywords)
            return self.invoke(called.function, node, [*bound, *arguments], named, len(bound))
        if called.kind is Kind.OBJECT and called.cls is not None:
            method = self.program.method(called.cls, "__call__")
            return self.invoke(method, node, arguments, keywords) if method is not None else UNKNOWN
        if called.kind is Kind.CLASS and called.cls is None:  # of collections.namedtuple
            everything = (*arguments, *keywords.values())
            names = called.names if len(called.names) == len(everything) and not keywords else ()
            return Value(Kind.TUPLE, items=everything, names=names)
        if called.kind is Kind.CLASS and called.cls is not None:
            return self.construct(called.cls, node, arguments, keywords)
        return None

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
                self.keep(func.value, name, arguments)
                if base.kind is Kind.CONTAINER:
                    return PLAIN
        if base.kind is Kind.UNKNOWN and name in _OF_TENSORS_ONLY:
            return PLAIN
        if base.kind is Kind.OBJECT and base.shape == DISTRIBUTION:
            return self.distribution_method(base, name, arguments)
        if base.kind is Kind.CONTAINER:
            return self.container_method(node, func.value, base, arguments, keywords)
        if base.kind is Kind.MODULE and not name.startswith("register_") and name != "add_module":
            return self._module_method(node, func, base, arguments, keywords)
        if base.kind is Kind.STATE_DICT and name in ("items", "values"):
            tensor = replace(TENSOR, host=base.host)
            pair = Value(Kind.TUPLE, items=(PLAIN, tensor))
            return container("iterator", pair if name == "items" else tensor)
        if name in ("register_buffer", "register_parameter", "register_module", "add_module") and len(arguments) > 1:
            registered = text_of(node.args[0]) if node.args else None
            if registered is not None and path_of(func.value):
                self.set_path(f"{path_of(func.value)}.{registered}", arguments[1])
            return PLAIN
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

    def _module_method(
        self,
        node: ast.Call,
        func: ast.Attribute,
        base: Value,
        arguments: list[Value],
        keywords: dict[str | None, Value],
    ) -> Value | None:
        name = func.attr
        if name in ("append", "insert") and arguments and arguments[-1].kind is Kind.MODULE:
            layers = [arguments[-1]] if base.element is None else [base.element, arguments[-1]]
            self._mark(func.value, replace(base, element=join_all(layers)))
            return base
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
        function = hook.function
        if hook.kind is Kind.OBJECT and hook.cls is not None:
            function = self.program.method(hook.cls, "__call__")
        if function is None:
            return
        self.knowledge.hooks[function] = self.function
        kept = self.knowledge.passed[self.function]
        bound = [value for value, key in zip(hook.items, hook.names, strict=True) if not key]
        if hook.kind is not Kind.FUNCTION:
            bound = []
        for parameter, value in zip(function.parameters, [*bound, *passed], strict=False):
            kept[function, parameter.arg] = value

    # ---- modules, classes, functions ---------------------------------------------------------

    def apply_module(
        self, called: Value, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value:
        """What a module returns when it is called."""
        forwards = [self.program.method(one.cls, "forward") for one in called.alternatives if one.cls is not None]
        known = [self.invoke(item, node, arguments, keywords) for item in forwards if item is not None]
        inside = join_all(known)
        if called.cls is None and called.element is not None:  # the layers of a Sequential
            self.apply_module(called.element, node, arguments, keywords)
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
            items = tuple(self._shaped(item, made) for item in inside.items)
            return replace(inside, items=items, element=self._shaped(inside.element or UNKNOWN, made))
        # Of what may be embeddings or the module that holds them, an output is what is computed.
        return made if inside.kind in (Kind.UNKNOWN, Kind.GRAPH, Kind.MODULE) else inside

    def construct(
        self, cls: ClassInfo, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value:
        """A new instance of a class of the program."""
        start = self.program.method(cls, "__init__")
        if start is not None:
            self.invoke(start, node, arguments, keywords)
        if self.program.is_module_class(cls):
            loss = "loss" in cls.name.lower() or "criterion" in cls.name.lower()
            return Value(Kind.MODULE, cls=cls, loss=loss, frozen=loss)
        fields = self._fields(cls, node, arguments, keywords)
        return Value(Kind.OBJECT, cls=cls, names=tuple(fields), items=tuple(fields.values()))

    def _fields(
        self, cls: ClassInfo, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> dict[str, Value]:
        """What a new instance holds as it was passed: all of a data class, what `__init__` stores of any other."""
        if any(isinstance(item, ast.Starred) for item in node.args):
            return {}
        passed = {key: value for key, value in keywords.items() if key is not None}
        if is_record(self.program, cls):
            return {**dict(zip(record_fields(self.program, cls), arguments, strict=False)), **passed}
        start = self.program.method(cls, "__init__")
        if start is None:
            return {}
        passed.update(zip((item.arg for item in start.parameters), arguments, strict=False))
        return {field: passed[name] for field, name in stored_parameters(start).items() if name in passed}

    def invoke(
        self,
        function: FunctionInfo,
        node: ast.Call,
        arguments: list[Value],
        keywords: dict[str | None, Value],
        bound: int = 0,
    ) -> Value:
        """Pass values to a function under check and take what it returns.

        Args:
            function: What is called.
            node: The call.
            arguments: Positional ones.
            keywords: Those passed by name.
            bound: How many of `arguments` do not stand in the call.
        """
        site = Site(self.function, node, self.grad, self.evaluating, bound)
        self.knowledge.called[self.function][node, function] = site
        kept = self.knowledge.passed[self.function]
        parameters = function.parameters
        positional, starred = _spread(node, arguments, bound)
        passed = list(zip((item.arg for item in parameters), positional, strict=False))
        names = {item.arg for item in parameters}
        if not isinstance(function.node, ast.Module):
            names |= {item.arg for item in function.node.args.kwonlyargs}
            extra, more = function.node.args.kwarg, function.node.args.vararg
            if extra is not None:
                rest = {key: value for key, value in keywords.items() if key is not None and key not in names}
                spread = [element_of(value) for key, value in keywords.items() if key is None]
                passed.append((extra.arg, dictionary(rest, spread)))
            if more is not None and not starred:
                passed.append((more.arg, Value(Kind.TUPLE, items=tuple(positional[len(parameters) :]))))
        passed += [(key, value) for key, value in keywords.items() if key in names and key is not None]
        for key, value in passed:
            known = kept.get((function, key))
            kept[function, key] = value if known is None else join(known, value)
        self._take_attributes(function, node)
        self._through_decorators(function, node, arguments, keywords)
        self.makes_graphs = self.makes_graphs or function.makes_graphs
        returned = self.without_graph(function.returns) if self.grad is False else function.returns
        given = [*arguments, *keywords.values()]
        if function.makes_graphs or not returned.has_graph or not given or any(map(_may_bring, given)):
            return returned
        bare = any(item.tensors for item in given) and all(item.is_bare for item in given)
        return self.without_graph(returned) if bare else UNKNOWN  # the graph is that of other callers

    def _through_decorators(
        self, function: FunctionInfo, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> None:
        """Functions of the program that stand for a decorated one are called as well, as a cache is."""
        for name in function.decorators:
            decorator = self.program.find(name, function.module) if name else None
            inner = decorator.returns.function if isinstance(decorator, FunctionInfo) else None
            if inner is not None and inner.outer is decorator and inner is not self.function:
                self.invoke(inner, node, arguments, keywords)

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


def _spread(node: ast.Call, arguments: list[Value], bound: int) -> tuple[list[Value], bool]:
    """Positional arguments with `*args` laid out, and whether what follows is not known."""
    found = arguments[:bound]
    for item, value in zip(node.args, arguments[bound:], strict=False):
        if not isinstance(item, ast.Starred):
            found.append(value)
        elif value.kind is Kind.TUPLE:
            found += value.items
        else:
            return found, True
    return found, False


_MOVING = frozenset("to cuda cpu half float double bfloat16 train eval".split())


def _may_bring(value: Value) -> bool:
    """Whether what a function is given brings a graph, or something that makes one."""
    return value.has_graph or value.kind in (Kind.PARAMETER, Kind.MODULE, Kind.OBJECT)


_OF_TENSORS_ONLY = frozenset("size numel item tolist ndimension nelement".split())
"""Methods that give numbers, whatever they are called on."""
