"""Patterns of public training code that were once taken for a problem, and are none."""

from __future__ import annotations

import pytest

from tests.unit.lint.programs import findings

BASE = """
from torch import nn

class Encoder(nn.Module):
    pass
"""

LAYERS = """
class Stacked({base}):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTMCell(8, 8) for _ in range(2))

    def forward(self, x):
        states = [(x[0], x[0]) for _ in self.layers]
        outs = []
        for step in range(len(x)):
            out = x[step]
            for i, layer in enumerate(self.layers):
                out, cell = layer(out, states[i])
                states[i] = out, cell
            outs.append(out)
        return torch.stack(outs)

class Trainer:
    def step(self, batch):
        return self.model(batch)
"""


@pytest.mark.parametrize(
    ("imported", "package"),
    [
        ("from pkg import Encoder", "from .base import Encoder"),
        ("from pkg import Encoder", "from .base import *"),
        ("from pkg import *", "from pkg.base import *"),
    ],
)
def test_a_module_whose_base_comes_through_a_package(imported: str, package: str) -> None:
    others = [("pkg/__init__.py", package), ("pkg/base.py", BASE)]

    assert findings(f"{imported}\n{LAYERS.format(base='Encoder')}", others=others) == []


def test_a_module_whose_base_is_of_a_package_that_is_not_under_check() -> None:
    assert findings(f"from speech import Encoder\n{LAYERS.format(base='Encoder')}") == []


CLEAN = {
    "layers of a model, one after the other": """
        class Streamer:
            def __init__(self, net):
                self.net = net

            def feed(self, x):
                kept = []
                for i, block in enumerate(self.net.decoder):
                    x = x + run(block[0], x)
                    kept.append(x)
                    x = block[1](x)
                return x

        def run(layer, x):
            out = layer(x)
            return out
        """,
    "a function that some callers run without autograd": """
        def evaluate(net, batch):
            net.eval()
            return net(batch).argmax()

        for x, y in loader:
            with torch.no_grad():
                hits = evaluate(model, x)
        last = evaluate(model, x)
        """,
    "a loss, or a loss and a number": """
        def measure(x, y, full=False):
            loss = criterion(model(x), y)
            if full:
                return loss, roc_auc_score(y)
            return loss

        results = []
        for x, y in loader:
            optimizer.zero_grad()
            measure(x, y).backward()
            optimizer.step()
            _, area = measure(x, y, full=True)
            results.append(area)
        """,
    "tensors made in host memory": """
        def boxes(output):
            found = [torch.zeros((0, 6), device="cpu")] * len(output)
            for i, row in enumerate(output):
                found[i] = row.detach().cpu()
            return found

        kept = []
        with torch.no_grad():
            for x, y in loader:
                kept.extend(boxes(model(x)))
        """,
    "what a model returns need be no tensor": """
        size = 0
        with torch.enable_grad():
            for x, y in loader:
                graph = model(x)
                size += graph.num_nodes()
                loss = criterion(graph.mean(), y)
                loss.backward()
        """,
    "features that are put into an object of the caller's": """
        class Pool(nn.Module):
            def forward(self, graph, feat):
                graph.ndata["h"] = feat
                return readout(graph, "h")

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.pool = nn.Linear(8, 8), Pool()

            def forward(self, graph):
                return self.pool(graph, self.layer(graph.ndata["x"]))

        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        graph, y = next(iter(loader))
        for epoch in range(100):
            loss = criterion(net(graph), y)
            loss.backward()
        """,
    "a state that begins anew with each sequence": """
        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTMCell(8, 8)

            def begin(self, memory):
                self.hidden, self.memory = memory, memory
                self.seen = torch.zeros(8)

            def decode(self, x):
                self.hidden, self.memory = self.cell(x, (self.hidden, self.memory))
                self.seen = self.seen + self.hidden
                return self.hidden

            def forward(self, memory):
                self.begin(memory)
                for step in range(10):
                    out = self.decode(memory)
                return out

        decoder = Decoder()
        for memory in loader:
            print(decoder(memory).max())  # noqa: MP201
        """,
    "a checkpoint that stays where it was read": """
        checkpoint = torch.load(path, map_location=lambda storage, location: storage)
        model.load_state_dict(checkpoint["model"])
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        """,
    "a function that gives a model": """
        def validate_once(self, sample):
            averaged = self.average.get_model()
            with torch.no_grad():
                return self.task.valid_step(sample, averaged)

        for sample in range(3):
            validate_once(trainer, sample)
        """,
    "a layer that trains a part of itself": """
        class Quantizer(nn.Module):
            def __init__(self):
                super().__init__()
                self.codes = nn.Linear(8, 8)
                self.own = torch.optim.SGD(self.codes.parameters(), lr=0.1)

            def forward(self, x):
                out = self.codes(x)
                ((out - x.detach()) ** 2).mean().backward(retain_graph=True)
                self.own.step()
                return out

        class Residual(nn.Module):
            def __init__(self):
                super().__init__()
                self.quantizer = Quantizer()

            def forward(self, x):
                total, kept = torch.zeros_like(x), []
                for scale in range(4):
                    out = self.quantizer(x)
                    total = total + out
                    kept.append(out)
                return total, torch.stack(kept)
        """,
    "a buffer that is filled up to a limit": """
        class Replay:
            def __init__(self, limit):
                self.limit, self.data = limit, []

            def push(self, batch):
                for element in batch.data:
                    if len(self.data) < self.limit:
                        self.data.append(element)
                    else:
                        self.data[3] = element

        replay = Replay(50)
        for x, y in loader:
            out = model(x)
            replay.push(out)
            criterion(out, y).backward()
        """,
    "a value that is converted where it needs to be": """
        kept = None
        for x, y in loader:
            out = model(x)
            kept = torch.tanh(out) if kept is None else kept
            criterion(out, y).backward()
        """,
    "a target of the loss": """
        extractor = nn.Sequential(nn.Linear(8, 8)).eval()
        for x, y in loader:
            wanted = extractor(y).detach()
            loss = criterion(extractor(model(x)), wanted)
            loss.backward()
        """,
    "names of weights": """
        class Average:
            def __init__(self):
                self.weights = {}

            def build(self, state):
                for key in state:
                    self.weights[key] = state[key].float()

        average = Average()
        for state, y in loader:
            average.build(model(state))  # noqa: MP201
        """,
    "names of weights that are looked up": """
        class Average:
            def __init__(self):
                self.weights = {}

            def build(self, state):
                for key in state:
                    self.weights[key] = state[key].float()

        average = Average()
        for x, y in loader:
            average.build(criterion(model(x), y) * 2)  # noqa: MP201
        """,
    "a part of a forward, outside of a module": """
        def reduced(nodes, function):
            found = []
            for node in nodes:
                found.append(function(node))
            return torch.cat(found)

        def sent(nodes, function):
            return reduced(nodes, function)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(8, 8)

            def forward(self, nodes):
                return sent(nodes, self.layer)
        """,
    "images as bytes": """
        kept = []
        for x, y in loader:
            kept.append((model(x) * 255).to(torch.uint8).flatten(1).max(dim=1).values.cpu())  # noqa: MP201
        images = []
        for x, y in loader:
            images.append((model(x) * 255).to(dtype=torch.uint8).cpu())  # noqa: MP201
        """,
    "a function that gives what it is given, whatever others give it": """
        def gathered(tensor):
            return tensor * 2

        for x, y in loader:
            loss = criterion(model(x), y)
            gathered(loss).backward()
        kept = []
        for x, y in loader:
            with torch.no_grad():
                loss = criterion(model(x), y)
            kept.append(gathered(loss))
        """,
    "a number, as PyTorch once gave it": """
        def error(batch):
            loss = criterion(model(batch), batch)
            loss.backward()
            return loss

        losses = []
        for x, y in loader:
            losses.append(error(x).data[0])
        """,
    "lists in a deque with a limit": """
        class Memory:
            def __init__(self, limit):
                self.buffer = deque(maxlen=limit)
                self.buffer.append([])

            def push(self, state):
                self.buffer[0].append((state, 1))

        memory = Memory(10)
        for x, y in loader:
            out = model(x)
            memory.push(out.detach())
            criterion(out, y).backward()
        """,
    "a sequence, step by step": """
        cell = nn.LSTMCell(8, 8)
        inputs = torch.randn(10, 4, 8)
        h, c = torch.zeros(4, 8), torch.zeros(4, 8)
        for x in inputs:
            h, c = cell(x, (h, c))
        for t in range(inputs.size(0)):
            h, c = cell(inputs[t], (h, c))
        """,
    "a class that is called for a model": """
        def measure(cls_model):
            losses = []
            for run in range(10):
                net = cls_model()
                net.fit()
                losses.append(net.losses[-1])
            return losses
        """,
    "a test of an optimizer": """
        def test_zero_grad():
            seen = []
            for step in range(2):
                optimizer.zero_grad(set_to_none=False)
                x = torch.randn(8, device=device)
                seen.append(x)
                model(x).sum().backward()
        """,
    "chunks of one batch": """
        def run(x):
            outs, total = [], 0
            for chunk in x.chunk(4):
                out = model(chunk)
                outs.append(out)
                total += out.mean()
            return torch.cat(outs), total
        """,
    "what goes with a loss": """
        images = []
        for x, y in loader:
            loss, image = model(x)
            images.append(image)
            loss.backward()
        """,
    "losses of one iteration, in host memory soon": """
        for epoch in range(10):
            for step in range(100):
                losses = []
                for task in range(4):
                    out = model(torch.randn(4, 8)).mean(dim=0)
                    out.sum().backward()
                    losses.append(out.detach())
                print(torch.stack(losses).mean().item())
        """,
    "steps on one batch, through a graph that was made before them": """
        for epoch in range(10):
            policies = collect(model)
            for step in range(5):
                loss = 0
                for policy in policies:
                    loss = loss + divergence(model, policy).mean()
                optimizer.zero_grad()
                loss.backward(retain_graph=True)
                optimizer.step()
        """,
    "gradients that update a learned optimizer": """
        for step in range(5):
            loss = criterion(model(x), y)
            grads = torch.autograd.grad(loss, list(update.parameters()), create_graph=True)
            apply_update(update, grads)
        """,
    "an output on the context without its graph": """
        class Ring(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                out = x.exp()
                ctx.out = out.detach()
                return out

            @staticmethod
            def backward(ctx, grad):
                return grad * ctx.out
        """,
    "a share of sizes that a model returns": """
        class Pooled(nn.Module):
            def __init__(self):
                super().__init__()
                self.pool = Pool(8)

            def forward(self, data):
                x, index = self.pool(data.x)
                return x.mean(), x.size(0) / data.x.shape[0]

        net = Pooled().eval()
        total = 0
        with torch.no_grad():
            net(data)
        for data in loader:
            out, share = net(data)
            out.backward()
            total += share
        """,
    "a hook's store that is emptied where the hook is made": """
        def features(net, images):
            kept = []

            def hook(module, inputs, output):
                kept.append(output)

            net[0].register_forward_hook(hook)
            with torch.no_grad():
                for image in images:
                    kept.clear()
                    net(image)
                    print(kept[0].mean())

        features(model, loader)
        """,
    "layers that are registered under another name": """
        class Agents(nn.Module):
            def __init__(self, policies):
                super().__init__()
                self.policies = policies
                self.registered = nn.ModuleList(policies.values())

            def forward(self, x):
                return {name: policy(x) for name, policy in self.policies.items()}

        Agents({"a": nn.Linear(8, 8)})
        """,
    "a buffer that its own class empties": """
        class Buffer:
            def __init__(self):
                self.values = []

            def clear(self):
                del self.values[:]

        class Agent:
            def __init__(self):
                self.buffer = Buffer()

            def act(self, x):
                with torch.no_grad():
                    out = model(x)
                self.buffer.values.append(out)
                return out

            def update(self):
                criterion(model(x0), self.buffer.values[0]).backward()
                self.buffer.clear()

        agent = Agent()
        for episode in range(100):
            for x, y in loader:
                agent.act(x)
            agent.update()
        """,
    "a number that is made of it at once": """
        k = 0
        for x, y in loader:
            criterion(model(x), y).backward()
            k = k + 0.1 * model(x).mean()
            k = k.item()
        """,
    "a sequence, by its index": """
        from torch.autograd import Variable

        cell = nn.RNNCell(8, 8)
        x, h = Variable(torch.randn(6, 4, 8)), Variable(torch.zeros(4, 8))
        for t in range(6):
            h = cell(x[t], h)
        """,
    "outputs of chunks, gathered on purpose": """
        @torch.no_grad()
        def batched_inference(rays, chunk):
            results = defaultdict(list)
            for i in range(0, len(rays), chunk):
                for name, value in {"rgb": model(rays[i : i + chunk])}.items():
                    results[name] += [value]
            return {name: torch.cat(value) for name, value in results.items()}
        """,
    "a function that other callers give a graph": """
        def log_probabilities(logits, labels):
            return logits.log_softmax(-1).gather(-1, labels)

        def train(batch):
            loss = log_probabilities(model(batch), batch).mean()
            loss.backward()

        def collect(batches):
            kept = []
            for batch in batches:
                train(batch)
                with torch.no_grad():
                    logits, *rest = sampler(batch)
                kept.append(log_probabilities(logits, batch))
            return kept
        """,
    "a test that runs a network once": """
        class TestLayer:
            layer = nn.Linear(8, 8)

            def test_forward(self):
                for x in range(2):
                    out = self.layer(torch.randn(8, 8))
                    out.sum().backward()
        """,
}


@pytest.mark.parametrize("name", CLEAN)
def test_patterns_that_are_no_problem(name: str) -> None:
    assert findings(CLEAN[name]) == []


def test_a_function_that_computes_from_what_it_is_given_carries_no_state() -> None:
    text = """
        def undirected(index, values):
            return torch.cat([index, index.flip(0)], dim=1), values

        index = model(first)
        for store in range(3):
            index, values = undirected(index, [])
            print(model(index))
        """

    assert "MP104" not in [item.code for item in findings(text)]


def test_a_state_in_an_evaluation_is_told_once() -> None:
    text = """
        cell = nn.LSTMCell(8, 8)

        def evaluate(words):
            h, c = torch.zeros(1, 8), torch.zeros(1, 8)
            for word in words:
                h, c = cell(word, (h, c))
            return h.argmax()
        """

    assert [item.code for item in findings(text)] == ["MP201"]


def test_a_script_that_tries_a_forward_and_a_backward_pass() -> None:
    text = """
        net = nn.Linear(8, 8)
        head = nn.Linear(8, 8)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        for size in range(1, 3):
            loss = net(torch.randn(size, 8)).sum()
            loss.backward()
        """

    assert findings(text, setup=False) == []
    assert [item.code for item in findings(f"{text}    optimizer.step()\n", setup=False)] == ["MP203"]


def test_files_for_other_frameworks_are_left_alone() -> None:
    other = """
        import tensorflow as tf

        def evaluate(model, images):
            for image in images:
                model(image)
        """

    assert findings("import runner\nrunner.evaluate(model, loader)", others=[("runner.py", other)]) == []
