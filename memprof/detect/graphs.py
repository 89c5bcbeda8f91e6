"""MP101 and MP104: running totals and hidden states that carry their graph into the next iteration."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.detect.chains import (
    Chain,
    chain_finding,
    chains,
    enough,
    is_collection,
    is_hidden_state,
    is_weight_average,
)
from memprof.detect.evidence import (
    KIB,
    MIN_ITERATIONS,
    device_of,
    growth_severity,
    holder_text,
    largest_of_each_line,
    place,
    related,
    size,
    user_files,
)
from memprof.detect.finding import Finding, Kind, Remedy, Skipped
from memprof.detect.rule import Rule
from memprof.detect.source import storing_statement
from memprof.model.memory import MemoryModel, Source
from memprof.record.census import GraphRoot


class GraphGrowsAcrossIterations(Rule):
    """A tensor carries its autograd graph from one iteration to the next, so the graph only grows.

    ## What it detects
    A running total, average or state that is updated from tensors with a `grad_fn`
    (`total_loss += loss`), in a variable, an attribute, a dictionary or a meter object. Each update
    links the new graph to the old one.

    ## Why it costs memory
    If `backward()` ran on the loss, its saved activations are gone and what stays are autograd nodes:
    host memory and a slow clean-up, but hardly any device memory. If no backward runs (validation, a
    loss that is only logged), every activation saved for it stays as long as the total does. The
    finding says which of the two it is.

    ## Evidence
    At the end of an iteration the tensor's graph contains the very node that its own line made one
    iteration earlier. Nodes, and bytes saved for backward, are counted by walking the graph.

    ## Remedy
    Add a number: `total_loss += loss.item()`. Where a tensor is needed, add `loss.detach()`.

    ## Example
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total_loss = 0
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss
    ```

    ## Use instead
    ```python
    import torch

    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total_loss = 0.0
    for _ in range(8):
        loss = model(torch.randn(32, 64)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    ```

    ## Not a problem when
    The sum is built within one iteration and `backward()` is called on it (several losses, a sequence
    unrolled step by step): memprof sees which backward uses a graph and does not report that.
    """

    code = "MP101"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        for chain in chains(model):
            if is_hidden_state(chain, model) or is_weight_average(chain, model) or is_collection(chain):
                continue
            reason = enough(chain)
            if reason:
                yield Skipped(self.code, reason)
            elif reason is None:
                yield self._finding(model, chain)

    def _finding(self, model: MemoryModel, chain: Chain) -> Finding:
        return chain_finding(
            self,
            model,
            chain,
            words=lambda subject, growth, where, holder: (
                f"{subject} keeps the autograd graph of every iteration: {growth}. {where} links each iteration to the "
                f"last; held by {holder}. Add `.item()` (or `.detach()`) to what is added there."
            ),
            remedies=lambda where: (
                Remedy("item", f"add a number instead of a tensor at {where}: `.item()`"),
                Remedy("detach", f"where a tensor is needed, add `.detach()` at {where}"),
            ),
        )


class HiddenStateCarriedWithGraph(Rule):
    """A recurrent state is handed to the next iteration together with its autograd graph.

    ## What it detects
    A tensor that a module returned in one iteration goes into a module in the next with its `grad_fn`
    (`out, hidden = model(x, hidden)`), or is kept by the module itself.

    ## Why it costs memory
    Every iteration's graph hangs on the one before. Backward goes through all of them: memory and time
    per iteration grow until the device is full. It usually comes with `retain_graph=True`, which was
    added to silence "Trying to backward through the graph a second time".

    ## Evidence
    A root module was called with a tensor whose graph was made in an earlier iteration, and the graph
    behind the new state contains that of the old one.

    ## Remedy
    Cut the graph between iterations: `hidden = hidden.detach()` (for an LSTM
    `tuple(h.detach() for h in hidden)`) and drop `retain_graph=True`. Gradients then flow through one
    chunk: truncated back-propagation through time.

    ## Example
    ```python
    import torch

    rnn = torch.nn.LSTM(16, 32)
    hidden = None
    for _ in range(8):
        out, hidden = rnn(torch.randn(10, 4, 16), hidden)
        loss = out.pow(2).mean()
        rnn.zero_grad()
        loss.backward(retain_graph=True)
        for p in rnn.parameters():
            p.data -= 0.1 * p.grad
    ```

    ## Use instead
    ```python
    import torch

    rnn = torch.nn.LSTM(16, 32)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    hidden = None
    for _ in range(8):
        out, hidden = rnn(torch.randn(10, 4, 16), hidden)
        hidden = tuple(h.detach() for h in hidden)
        loss = out.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Not a problem when
    The state is carried within one iteration (a cell called once for each token, then one backward).
    """

    code = "MP104"
    kind = Kind.LEAK

    def check(self, model: MemoryModel) -> Iterable[Finding | Skipped]:
        findings = []
        for chain in chains(model):
            root = chain.last
            if not is_hidden_state(chain, model):
                continue
            if len(chain.sightings) < 2:
                yield Skipped(
                    self.code,
                    f"a state with its graph goes from one iteration to the next at {place(root.call)}, but not "
                    f"enough iterations were watched to call it growth; run at least {MIN_ITERATIONS + 1}",
                )
                continue
            if enough(chain) is not None:
                continue  # the state is passed on, but the graph behind it stays as long as it is
            findings.append(self._finding(model, chain))
        yield from largest_of_each_line(findings)

    def _finding(self, model: MemoryModel, chain: Chain) -> Finding:
        root = chain.last
        saved, nodes = chain.saved_per_iteration, chain.nodes_per_iteration
        stored = storing_statement(root.holder, root.location, user_files(model))
        where = (stored if _is_callers(root) else root.call) or root.call or stored or root.location
        device = device_of(model, root.storage)
        holder = holder_text(root.holder, where)
        name = root.holder.name.partition("[")[0] or "hidden"
        growth = f"{size(saved)} of saved activations" if saved >= KIB else f"{nodes:.0f} autograd nodes"
        return self.finding(
            severity=growth_severity(model, device, saved),
            location=where,
            device=device,
            bytes=root.saved_bytes,
            bytes_per_iteration=saved,
            source=Source.MEASURED,
            message=(
                f"`{name}` enters each iteration with the graph of all earlier ones: {growth} an iteration stay on "
                f"{device}, and backward gets longer each time. It is passed on at {place(where)}; held by {holder}. "
                f"Detach it between iterations and drop `retain_graph=True`."
            ),
            holder=holder,
            remedies=(
                Remedy("detach", f"cut the graph before {place(where)}: `{name} = {name}.detach()`"),
                Remedy("truncate_bptt", "back-propagate through one chunk only: detach the state at each chunk's end"),
                Remedy("remove_retain_graph", "drop `retain_graph=True`; with a detached state it is not needed"),
            ),
            related=related(root.location, where),
            evidence={
                "nodes": root.nodes,
                "nodes_per_iteration": round(nodes, 1),
                "saved_bytes": root.saved_bytes,
                "passed_to_a_module": root.carried,
                "censuses": len(chain.sightings),
            },
        )


def _is_callers(root: GraphRoot) -> bool:
    """Whether the state is a variable of a function further out than the one that gives it to the module.

    Within the inner function gradients are to flow from step to step; the outer one hands the state on.
    """
    inner = root.call.function.rpartition(".")[2] if root.call is not None else ""
    return root.holder.kind == "local" and inner not in ("", root.holder.owner.rpartition(".")[2])
