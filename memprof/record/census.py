"""What outlived its iteration, and who kept it, as plain values.

Times are nanoseconds of `time.perf_counter_ns`, sizes are bytes, and an unknown value is `None`.
"""

from __future__ import annotations

from dataclasses import dataclass

from memprof.record.events import Location, ModuleRef


@dataclass(frozen=True, slots=True)
class Holder:
    """Who keeps something alive, in the user's words."""

    kind: str
    """local | global | attribute | closure | generator | hook | context | cache | queue | future | thread |
    traceback | notebook | cycle | unknown."""
    text: str
    """One phrase: "list `history` in `train()` train.py:41"."""
    name: str = ""
    """The variable, attribute or module path that holds it."""
    container: str = ""
    """Type of the container the tensors lie in (`list`, `dict`, `deque`), or ''."""
    size: int | None = None
    """Tensors in that container at the time."""
    bounded: bool = False
    """The container limits its own length (`deque(maxlen=...)`, `lru_cache(maxsize=...)`)."""
    location: Location | None = None
    """The line that runs in the holding frame, or where the holding function is defined."""
    owner: str = ""
    """Function or class the holder belongs to: `train`, `Meter`."""
    keyed_by: str = ""
    """What the keys of a dictionary or cache are: `tensor`, `address` (`id(x)`, `data_ptr()`), `value`, or ''
    where that was not looked at."""
    hits: int | None = None
    """How often a cache had what was asked for; None where it does not count."""


@dataclass(frozen=True, slots=True)
class CodeRegion:
    """Lines of the user's code that torch calls back, whatever the loop looks like."""

    kind: str
    """`hook`, `context` (an autograd function), `dataset` or `collate`."""
    text: str
    """One phrase: "forward hook on `backbone.layer4`"."""
    file: str
    first_line: int
    last_line: int


@dataclass(frozen=True, slots=True)
class KeptGraph:
    """What one line's backwards did with `retain_graph=True` or `create_graph=True`, since watching began."""

    location: Location | None
    create_graph: bool
    calls: int
    """Backwards that kept their graph and of which is known whether it was used again."""
    used_again: int
    """Those of them whose graph a later backward of the same or the next iteration went through."""
    nodes: int
    """Autograd nodes of the largest of these graphs, counted up to a limit."""
    nbytes: int
    """Bytes saved in the largest that were still there after its backward, parameters and their like left out."""
    storages: tuple[int, ...]
    """Ids of the storages behind `nbytes`."""
    ticks: tuple[int, ...] = ()
    """The ticks of the last of these backwards."""


@dataclass(frozen=True, slots=True)
class ContextTensor:
    """Tensors that autograd functions keep as attributes of `ctx` after their backward has run."""

    function: str
    """The class: `Square`."""
    attribute: str
    location: Location | None
    """Where its forward begins."""
    nbytes: int
    storages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GradientGraph:
    """Gradients that have a graph of their own at the end of an iteration."""

    parameters: int
    """Parameters whose `.grad` has a `grad_fn`."""
    nodes: int
    nbytes: int
    """Bytes their graphs save, parameters and their like left out."""
    storages: tuple[int, ...]
    location: Location | None
    """The line that called backward with `create_graph=True`."""


@dataclass(frozen=True, slots=True)
class Population:
    """How much there is of something that should stay as large as it is."""

    kind: str
    """`optimizer`, `module`, or `optimizers` for all that are alive and have state."""
    name: str
    """Its class."""
    number: int
    """Which of them, in order of appearance; -1 for `optimizers`."""
    groups: int
    """Parameter groups of an optimizer, submodules of a module; how many optimizers there are."""
    parameters: int
    states: int
    """Parameters for which an optimizer keeps state, in its groups or not; 0 for a module."""
    nbytes: int
    """Bytes of the parameters and, of an optimizer, of its state."""
    tick: int


@dataclass(frozen=True, slots=True)
class GraphRoot:
    """A tensor with a `grad_fn` that outlived the tick it was made in, and the graph behind it."""

    storage: int | None
    holder: Holder
    grad_fn: str
    shape: tuple[int, ...]
    nodes: int
    """Autograd nodes reachable from it, counted up to a limit."""
    saved_bytes: int
    """Bytes of saved tensors still reachable from it, parameters and their like left out."""
    location: Location | None
    """Where the tensor was made."""
    born_tick: int
    truncated: bool = False
    """The walk met its limit: `nodes` and `saved_bytes` are lower bounds."""
    op: str = ""
    """The op that made the tensor."""
    in_forward: bool = False
    """The tensor was made inside a root module's forward."""
    carried: bool = False
    """A tensor made by the same line an iteration earlier was passed to a root module in this one."""
    call: Location | None = None
    """Where the root module was called with it."""
    module: ModuleRef | None = None
    """The module that made it."""
    parameter: int | None = None
    """Storage of the parameter of the same shape that it is made from element by element, if it is."""
    written_at: Location | None = None
    """The line that last changed it in place, where that links the iterations."""
    holds_parts: bool | None = None
    """It has elements of what it was an iteration earlier, as they were; None where that was not looked at."""


MODELS = "models"
"""`HeldGroup.op` where what is held are whole models; `birth_ticks` are then the ticks of their first calls."""


@dataclass(frozen=True, slots=True)
class HeldGroup:
    """Surviving storages that were made by one line and are kept by one holder."""

    location: Location | None
    op: str
    holder: Holder
    storages: tuple[int, ...]
    nbytes: int
    has_graph: bool
    """The tensors carry a `grad_fn`."""
    shape: tuple[int, ...] = ()
    birth_ticks: tuple[int, ...] = ()
    """Ticks in which they were made, each once."""
    graph_nodes: int = 0
    """Autograd nodes reachable from all of them, counted up to a limit."""
    graph_bytes: int = 0
    """Bytes their graphs still save for backward, parameters and their like left out."""
    graph_storages: tuple[int, ...] = ()
    """Ids of the storages behind `graph_bytes`."""


@dataclass(frozen=True, slots=True)
class Census:
    """What outlived its iteration, seen at one tick boundary of the live process."""

    tick: int
    time_ns: int
    roots: tuple[GraphRoot, ...] = ()
    groups: tuple[HeldGroup, ...] = ()
    since_tick: int = -1
    """The tick at whose end graphs were last looked at: what links two iterations links it to this one."""
    note: str = ""
    """Why the census is incomplete, or ''."""
    regions: tuple[CodeRegion, ...] = ()
    kept_graphs: tuple[KeptGraph, ...] = ()
    contexts: tuple[ContextTensor, ...] = ()
    gradients: GradientGraph | None = None
    populations: tuple[Population, ...] = ()
    """Optimizers and root modules that have changed their size, before and after, each with its tick."""
