"""At a tick boundary: what outlived its iteration, and who keeps it.

Two questions are asked of the live process. Which tensors made in earlier iterations are still there
(a pile), and which graphs made in this iteration reach back into an earlier one (a chain)? A clean
loop answers both with "none" at the cost of looking through a short list; only then are graphs walked
and referrers searched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter_ns

import torch

from memprof._collection import collection_paused
from memprof.capture.callbacks import Callbacks
from memprof.capture.contexts import context_tensors
from memprof.capture.frames import UserCode
from memprof.capture.graph import GraphWalk, holds_parts_of, parameter_behind, sequence_nr, walk
from memprof.capture.holders import BUDGET_NS, UNKNOWN, HolderSearch
from memprof.capture.kept_graphs import KeptGraphs
from memprof.capture.left_models import LeftModels, ModelCalls
from memprof.capture.live import LiveStorage
from memprof.capture.populations import Populations
from memprof.capture.storages import StorageTracker
from memprof.capture.survivors import NODES_A_CENSUS, NODES_A_WALK, Pile, PileKey, Survivors
from memprof.record.census import MODELS, Census, GraphRoot, HeldGroup, Holder
from memprof.record.events import Location

_SEARCH_FREE_NS = 5_000_000_000
_SEARCH_SHARE = 0.1
"""Searches for holders may take so much time of a run, or this share of it, before names are used again."""

_SearchKey = tuple[Location | None, str, str, bool]


class CensusTaker:
    """Remembers, from one tick boundary to the next, what the following census needs.

    Args:
        tracker: The books of storages.
        code: Tells the user's frames from others.
        optimizers: The optimizers there are.
        modules: The root modules that were called.
    """

    def __init__(
        self,
        tracker: StorageTracker,
        code: UserCode,
        *,
        optimizers: Callable[[], list[torch.optim.Optimizer]],
        modules: Callable[[], list[torch.nn.Module]],
    ) -> None:
        self._tracker = tracker
        self._code = code
        self._optimizers = optimizers
        self._modules = modules
        self._survivors = Survivors(tracker)
        self.kept_graphs = KeptGraphs(self._survivors.saved)
        self.model_calls = ModelCalls(self._survivors.live)
        self._populations = Populations()
        self._began_ns = perf_counter_ns()
        self._searched_ns = 0
        self._holders: dict[_SearchKey, Holder | None] = {}
        """What the last search for a tensor of the same line, op and graph found."""
        self._tensors: list[tuple[int, weakref.ref[torch.Tensor]]] = []
        self._remembered_tick = -1
        self._previous: dict[int, tuple[int, Location | None]] = {}
        """Sequence number of a tensor's `grad_fn` at the last boundary -> its storage's id and line."""

    def close_tick(self, tick: int) -> None:
        """Note which tensors made in the tick that ends are alive."""
        self._tensors = [item for item in self._tensors if item[1]() is not None]
        self._tensors.extend((tick, reference) for reference in self._tracker.recent.take())

    def forget(self, *tensors: torch.Tensor) -> None:
        """Let go of tensors, so that nobody has a weak reference to them on our behalf."""
        ours = {id(reference) for tensor in tensors for reference in weakref.getweakrefs(tensor)}
        if ours:
            self._tracker.recent.forget(ours)
            self._tensors = [item for item in self._tensors if id(item[1]) not in ours]

    def end(self) -> None:
        """Let go of all tensors: no census follows."""
        self._tracker.recent.take()
        self._tensors = []

    def remember_graphs(self, tick: int) -> None:
        """Note the graphs alive at the end of a tick, for the next census to recognise."""
        self._remembered_tick = tick
        self._previous = {}
        for _, reference in self._tensors:
            tensor = reference()
            if tensor is None or tensor.grad_fn is None:
                continue
            live = self._survivors.live(tensor)
            if live is not None:
                self._previous[sequence_nr(tensor.grad_fn)] = (live.id, live.location)

    def take(self, tick: int, *, first_tick: int, iteration_tick: int, call: Location | None) -> Census | None:
        """Look at the live process.

        Args:
            tick: The tick that ends.
            first_tick: First tick of the first loop; older tensors are set-up.
            iteration_tick: First tick of the iteration that ends.
            call: Where a root module was given a tensor with an earlier iteration's graph, if it was.

        Returns:
            What was found, or None where nothing outlived its iteration.
        """
        self._survivors.first_tick = first_tick
        with collection_paused():  # what it would free of the user's is what is looked at
            return self._take(tick, first_tick, iteration_tick, call)

    def _take(self, tick: int, first_tick: int, iteration_tick: int, call: Location | None) -> Census | None:
        alive = [(made, tensor) for made, ref in self._tensors if (tensor := ref()) is not None]
        chains = self._chains(alive, iteration_tick)
        piles = self._survivors.piles(alive, iteration_tick)
        census = Census(
            tick=tick,
            time_ns=perf_counter_ns(),
            since_tick=self._remembered_tick,
            kept_graphs=self.kept_graphs.take(),
            contexts=context_tensors(self._code, self._tracker.live, first_tick=first_tick),
            gradients=self.kept_graphs.gradients(self._parameters),
            populations=self._populations.take(tick, self._optimizers(), self._modules()),
        )
        if chains or piles:
            census = self._name(census, alive, chains, piles, call)
        models = tuple(map(self._left_behind, self.model_calls.left(iteration_tick)))
        census = replace(census, groups=census.groups + models)
        told = census.roots, census.groups, census.kept_graphs, census.contexts, census.gradients, census.populations
        return census if any(told) else None

    def _name(
        self,
        census: Census,
        alive: list[tuple[int, torch.Tensor]],
        chains: list[tuple[torch.Tensor, GraphWalk]],
        piles: dict[PileKey, Pile],
        call: Location | None,
    ) -> Census:
        """Add roots and groups to a census, with who holds them."""
        walks = self._survivors.behind(piles)
        explained = {address for _, found in chains for address in found.saved}
        targets: list[torch.Tensor] = [tensor for tensor, _ in chains]
        targets += [pile.sample for pile in piles.values() if pile.tensors]
        own: list[object] = [alive, chains, targets, *alive, *chains, *(pile.tensors for pile in piles.values())]
        callbacks = Callbacks(self._code)
        search = HolderSearch(self._code, ignore=own, callbacks=callbacks)
        own.clear()
        many = [index >= len(chains) for index in range(len(targets))]
        keys = [self._searched_key(tensor, one) for tensor, one in zip(targets, many, strict=True)]
        known = [self._holders.get(key) for key in keys]
        if self._may_search() or None in known:
            began_ns = perf_counter_ns()
            known = list(search.find(targets, many))
            self._searched_ns += perf_counter_ns() - began_ns
            self._holders.update(zip(keys, known, strict=True))
        held = {id(tensor): holder or UNKNOWN for tensor, holder in zip(targets, known, strict=True)}
        is_named = any(held[id(tensor)] is not UNKNOWN for tensor, _ in chains)
        roots = tuple(
            self._root(tensor, found, held[id(tensor)], call)
            for tensor, found in chains
            if held[id(tensor)] is not UNKNOWN or not is_named  # else it is part of a named tensor's graph
        )
        for key, (_, saved) in walks.items():
            if held[id(piles[key].sample)] is not UNKNOWN:
                explained |= {live.key for live in saved}
        groups = tuple(
            self._group(key, pile, held, walks.get(key))
            for key, pile in piles.items()
            if not self._only_saved(pile, held, explained)
        )
        note = f"the search for holders was ended after {BUDGET_NS / 1e9:.0f} s" if search.stopped else ""
        return replace(
            census, roots=roots, groups=groups, note=note, regions=callbacks.regions() if roots or groups else ()
        )

    def _left_behind(self, left: LeftModels) -> HeldGroup:
        """What is told of models that nobody calls any more."""
        sample = left.modules[0]
        own: list[object] = [left, left.modules]
        holder = HolderSearch(self._code, ignore=own).find([sample], [True])[0]
        largest = max(left.storages, key=lambda live: live.nbytes, default=None)
        return HeldGroup(
            location=None if largest is None else largest.location,
            op=MODELS,
            holder=holder,
            storages=tuple(live.id for live in left.storages),
            nbytes=left.nbytes,
            has_graph=False,
            birth_ticks=left.first_ticks,
        )

    def _searched_key(self, tensor: torch.Tensor, many: bool) -> _SearchKey:
        live = self._survivors.live(tensor)
        where = (None, "") if live is None else (live.location, live.op)
        return *where, type(tensor.grad_fn).__name__, many

    def _may_search(self) -> bool:
        """Whether searches have not yet taken a large share of the run; then what they found before is taken again."""
        elapsed_ns = perf_counter_ns() - self._began_ns
        return self._searched_ns < max(_SEARCH_FREE_NS, _SEARCH_SHARE * elapsed_ns)

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        for module in self._modules():
            yield from module.parameters()

    def _only_saved(self, pile: Pile, held: dict[int, Holder], explained: set[int]) -> bool:
        """Whether a pile is nothing but what known graphs save for backward.

        A holder that has a few of its tensors only (the newest state of a long chain) does not explain the others.
        """
        holder = held[id(pile.sample)] if pile.tensors else UNKNOWN
        plain = holder.kind in ("local", "global", "attribute")
        if holder is not UNKNOWN and not (plain and 2 * (holder.size or 1) <= len(pile.lives)):
            return False
        return 2 * sum(live.key in explained for live in pile.lives) >= len(pile.lives)

    # ---- chains ------------------------------------------------------------------------

    def _chains(
        self, alive: list[tuple[int, torch.Tensor]], iteration_tick: int
    ) -> list[tuple[torch.Tensor, GraphWalk]]:
        """Tensors whose graph contains the graph that their own line made an iteration earlier."""
        if not self._previous:
            return []
        lines = {line for _, line in self._previous.values()}
        newest: dict[tuple[Location | None, str, int], tuple[tuple[int, int, int], torch.Tensor, LiveStorage]] = {}
        for made, tensor in alive:
            node = tensor.grad_fn
            live = self._survivors.live(tensor) if node is not None else None
            if node is None or live is None or live.location not in lines:
                continue
            own = sequence_nr(node)
            in_place = live.birth_tick < iteration_tick
            if own in self._previous or (made < iteration_tick and not in_place):
                continue  # nothing was added to its graph in this iteration
            kind = (live.location, type(node).__name__, live.id if in_place else -1)
            rank = made, live.nbytes, own  # of all parameters that a line updates, the largest
            if kind not in newest or rank > newest[kind][0]:
                newest[kind] = (rank, tensor, live)
        chains = []
        budget = NODES_A_CENSUS
        for _, tensor, live in newest.values():
            if budget <= 0:
                break
            found = walk(tensor.grad_fn, limit=min(NODES_A_WALK, budget), watch_for=self._previous)
            budget -= found.nodes
            in_place = live.birth_tick < iteration_tick
            for number in found.met:
                storage, line = self._previous[number]
                if (storage == live.id) if in_place else (line == live.location and storage != live.id):
                    chains.append((tensor, found))
                    break
        return chains

    def _root(self, tensor: torch.Tensor, found: GraphWalk, holder: Holder, call: Location | None) -> GraphRoot:
        live = self._survivors.live(tensor)
        parameter = parameter_behind(tensor)
        source = None if parameter is None else self._survivors.live(parameter)
        return GraphRoot(
            storage=None if live is None else live.id,
            holder=holder,
            grad_fn=type(tensor.grad_fn).__name__,
            shape=tuple(tensor.shape),
            nodes=found.nodes,
            saved_bytes=sum(item.nbytes for item in self._survivors.saved(found)),
            location=None if live is None else live.location,
            born_tick=0 if live is None else live.birth_tick,
            truncated=found.truncated,
            op="" if live is None else live.op,
            in_forward=live is not None and live.in_forward,
            carried=call is not None and live is not None and live.in_forward,
            call=call,
            parameter=None if source is None else source.id,
            written_at=None if live is None else live.written_at,
            holds_parts=holds_parts_of(tensor.grad_fn, found.met),
        )

    # ---- what is told of them ----------------------------------------------------------

    def _group(
        self,
        key: PileKey,
        pile: Pile,
        held: dict[int, Holder],
        behind: tuple[int, list[LiveStorage]] | None,
    ) -> HeldGroup:
        nodes, saved = behind or (0, [])
        return HeldGroup(
            location=key[0],
            op=key[1],
            holder=held[id(pile.sample)] if pile.tensors else UNKNOWN,
            storages=tuple(live.id for live in pile.lives),
            nbytes=pile.nbytes,
            has_graph=key[2],
            shape=tuple(pile.tensors[-1].shape) if pile.tensors else (),
            birth_ticks=tuple(sorted({live.birth_tick for live in pile.lives})),
            graph_nodes=nodes,
            graph_bytes=sum(live.nbytes for live in saved),
            graph_storages=tuple(live.id for live in saved),
        )
