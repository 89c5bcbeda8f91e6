"""The ways that losses and outputs take before they are kept: dictionaries, records, callbacks, closures."""

from __future__ import annotations

import pytest

from tests.unit.lint.programs import findings, lines

STEP = """\
def step(x, y):
    output = model(x)
    loss = criterion(output, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
TRAINER = """
class Trainer:
    def __init__(self, model, callbacks=None):
        self.model = model
        self.callbacks = callbacks or []

    def fire(self, event, *args, **kwargs):
        for callback in self.callbacks:
            getattr(callback, f"on_{event}")(*args, **kwargs)

    def fit(self, loader):
        for x, y in loader:
            loss = F.mse_loss(self.model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            FIRE
"""
HISTORY = """
class Stopper:
    def __init__(self):
        self.best = None

    def on_step(self, loss):
        self.best = float(loss)

class History:
    def __init__(self):
        self.losses = []

    def on_step(self, loss):
        self.losses.append(loss)
"""
FITTED = "\nTrainer(model, [Stopper(), History()]).fit(loader)\n"
LOOP = "for x, y in loader:\n"

LEAKY = {
    "entry of a dictionary": (
        STEP
        + "    return {'loss': loss, 'size': len(x)}\n\nhistory = []\n"
        + LOOP
        + "    history.append(step(x, y)['loss'])",
        ("MP102", "history.append(step(x, y)['loss'])"),
    ),
    "entry of dict()": (
        STEP
        + "    return dict(size=len(x), loss=loss)\n\nhistory = []\n"
        + LOOP
        + "    result = step(x, y)\n    history.append(result.get('loss'))",
        ("MP102", "history.append(result.get('loss'))"),
    ),
    "entry of a merged dictionary": (
        STEP
        + "    return {'loss': loss}\n\nhistory = []\n"
        + LOOP
        + "    result = {**step(x, y), 'size': len(x)}\n    history.append(result['loss'])",
        ("MP102", "history.append(result['loss'])"),
    ),
    "entry that update() brought": (
        STEP
        + "    return {'loss': loss}\n\ntotal = 0.0\n"
        + LOOP
        + "    result = {'size': len(x)}\n    result.update(step(x, y), rate=0.1)\n    total += result['loss']",
        ("MP101", "total += result['loss']"),
    ),
    "field of a data class": (
        "from dataclasses import dataclass\n\n@dataclass\nclass Result:\n    loss: torch.Tensor\n    size: int = 0\n\n"
        + STEP
        + "    return Result(loss, size=len(x))\n\nhistory = []\n"
        + LOOP
        + "    result = step(x, y)\n    history.append(result.loss)",
        ("MP102", "history.append(result.loss)"),
    ),
    "a NamedTuple unpacked": (
        "from typing import NamedTuple\n\nclass Result(NamedTuple):\n    size: int\n    loss: torch.Tensor\n\n"
        + STEP
        + "    return Result(len(x), loss)\n\ntotal = 0.0\n"
        + LOOP
        + "    size, loss = step(x, y)\n    total += loss",
        ("MP101", "total += loss"),
    ),
    "field of a namedtuple": (
        "from collections import namedtuple\n\nResult = namedtuple('Result', 'size loss')\n\n"
        + STEP
        + "    return Result(len(x), loss)\n\nhistory = []\n"
        + LOOP
        + "    history.append(step(x, y).loss)",
        ("MP102", "history.append(step(x, y).loss)"),
    ),
    "an object that stores what it is given": (
        "class Record:\n    def __init__(self, loss, size):\n        self.loss = loss\n        self.size = size\n\n"
        + STEP
        + "    return loss\n\nrecords = []\n"
        + LOOP
        + "    records.append(Record(step(x, y), len(x)))",
        ("MP102", "records.append(Record(step(x, y), len(x)))"),
    ),
    "meters made on demand": (
        "class Meter:\n    def __init__(self):\n        self.sum = 0\n\n    def update(self, value):\n"
        "        self.sum += value\n\nmeters = defaultdict(Meter)\n\n"
        + STEP
        + "    return loss\n\n"
        + LOOP
        + "    meters['loss'].update(step(x, y))",
        ("MP101", "self.sum += value"),
    ),
    "the second of several callbacks": (
        HISTORY
        + TRAINER.replace("FIRE", "for callback in self.callbacks:\n                callback.on_step(loss)")
        + FITTED,
        ("MP102", "self.losses.append(loss)"),
    ),
    "callbacks called by the name of an event": (
        HISTORY + TRAINER.replace("FIRE", "self.fire('step', loss)") + FITTED,
        ("MP102", "self.losses.append(loss)"),
    ),
    "a method that a derived class defines": (
        """
        class Base:
            def __init__(self, model):
                self.model = model
                self.total = 0.0

            def loss(self, batch):
                raise NotImplementedError

            def fit(self, loader):
                for batch in loader:
                    loss = self.loss(batch)
                    optimizer.zero_grad()
                    loss.mean().backward()
                    optimizer.step()
                    self.total += loss.mean()

        class Supervised(Base):
            def __init__(self, model):
                super().__init__(model)

            def loss(self, batch):
                x, y = batch
                return F.mse_loss(self.model(x), y)

        Supervised(model).fit(loader)
        """,
        ("MP101", "self.total += loss.mean()"),
    ),
    "functools.partial": (
        STEP.replace("step(x, y)", "step(history, x, y)")
        + "    history.append(loss)\n\nhistory = []\nrun = functools.partial(step, history)\n"
        + LOOP
        + "    run(x, y)",
        ("MP102", "history.append(loss)"),
    ),
    "arguments passed on": (
        "losses = []\n\ndef note(epoch, loss):\n    losses.append(loss)\n\ndef call(function, *args):\n    function(*args)\n\n"
        + STEP
        + "    return loss\n\n"
        + LOOP
        + "    call(note, 3, step(x, y))",
        ("MP102", "losses.append(loss)"),
    ),
    "a list made once for all calls": (
        STEP
        + "    return loss\n\ndef note(loss, store=[]):\n    store.append(loss)\n\n"
        + LOOP
        + "    note(step(x, y))",
        ("MP102", "store.append(loss)"),
    ),
    "a closure given to the optimizer": (
        """
        losses = []
        for x, y in loader:
            def closure():
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                losses.append(loss)
                return loss
            optimizer.step(closure)
        """,
        ("MP102", "losses.append(loss)"),
    ),
    "entropy of a distribution": (
        """
        entropies = []
        for state, action in loader:
            distribution = torch.distributions.Categorical(logits=model(state))
            loss = -distribution.log_prob(action).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            entropies.append(distribution.entropy())
        """,
        ("MP102", "entropies.append(distribution.entropy())"),
    ),
    "a hook that is an object": (
        """
        class Recorder:
            def __init__(self):
                self.outputs = []

            def __call__(self, module, inputs, output):
                self.outputs.append(output)

        model[0].register_forward_hook(Recorder())
        """,
        ("MP107", "self.outputs.append(output)"),
    ),
    "weights copied by a function": (
        STEP
        + "\ndef snapshot(model):\n    return {name: weight.clone() for name, weight in model.state_dict().items()}\n\n"
        "kept = []\n" + LOOP + "    step(x, y)\n    kept.append(snapshot(model))",
        ("MP113", "kept.append(snapshot(model))"),
    ),
    "a layer of a layer": (
        """
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.scores, self.maps = nn.Linear(8, 8), []

            def forward(self, x):
                weights = self.scores(x).softmax(-1)
                self.maps.append(weights)
                return weights

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.ReLU()])
                for _ in range(3):
                    self.layers.append(Attention())
                self.head = nn.Sequential(nn.Linear(8, 8))

            def forward(self, x):
                for layer in self.layers:
                    x = layer(x)
                return self.head(x)

        net = Net()
        optimizer = torch.optim.Adam(net.parameters())
        for x, y in loader:
            loss = F.mse_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
        ("MP102", "self.maps.append(weights)"),
    ),
    "features in a registered buffer": (
        """
        class Bank(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Linear(8, 8)
                self.register_buffer("kept", torch.zeros(100, 8))

            def forward(self, x, numbers):
                features = self.net(x)
                self.kept[numbers] = features
                return features

        net = Bank()
        optimizer = torch.optim.Adam(net.parameters())
        for x, numbers in loader:
            loss = net(x, numbers).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
        ("MP112", "self.kept[numbers] = features"),
    ),
    "a hook that functools.partial gives its store": (
        """
        def keep(store, name, module, inputs, output):
            store[name].append(output)

        stores = {name: [] for name, _ in model.named_children()}
        for name, module in model.named_children():
            module.register_forward_hook(functools.partial(keep, stores, name))
        """,
        ("MP107", "store[name].append(output)"),
    ),
    "a hook that counts": (
        """
        class Probe:
            def __init__(self, model):
                self.features, self.calls = {}, 0
                model.register_forward_hook(self.hook())

            def hook(self):
                def keep(module, inputs, output):
                    self.features[f"{self.calls}"] = output
                    self.calls += 1
                return keep

        Probe(model)
        """,
        ("MP107", 'self.features[f"{self.calls}"] = output'),
    ),
    "a model that is run by a method of it": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(8, 8)

            def encode(self, x):
                return self.body(x)

        net, head = Net(), nn.Linear(8, 2)
        optimizer = torch.optim.Adam(head.parameters())
        for x, y in loader:
            features = net.encode(x)
            loss = F.cross_entropy(head(features), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
        ("MP203", "features = net.encode(x)"),
    ),
    "the loss of a trainer of another package": (
        """
        from transformers import Trainer

        class Watching(Trainer):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.losses = []

            def compute_loss(self, model, inputs):
                outputs = model(**inputs)
                self.losses.append(outputs.loss)
                return outputs.loss
        """,
        ("MP102", "self.losses.append(outputs.loss)"),
    ),
    "weights beside an epoch": (
        STEP
        + "\nkept = []\nfor epoch in range(9):\n    for x, y in loader:\n        step(x, y)\n"
        + "    kept.append((epoch, copy.deepcopy(model.state_dict())))",
        ("MP113", "kept.append((epoch, copy.deepcopy(model.state_dict())))"),
    ),
    "an average in place": (
        "average = {name: weight.clone() for name, weight in model.named_parameters()}\n\n"
        + STEP
        + "\n"
        + LOOP
        + "    step(x, y)\n    for name, weight in model.named_parameters():\n"
        "        average[name].mul_(0.9).add_(weight, alpha=0.1)",
        ("MP112", "average[name].mul_(0.9).add_(weight, alpha=0.1)"),
    ),
    "optimizers by number": (
        (
            "optimizers = {}\nfor number, (x, y) in enumerate(loader):\n"
            "    optimizers[number] = torch.optim.Adam(model.parameters())\n"
            "    criterion(model(x), y).backward()\n    optimizers[number].step()"
        ),
        ("MP114", "optimizers[number] = torch.optim.Adam(model.parameters())"),
    ),
    "a cache with a tensor in its key": (
        """
        class Cached:
            def __init__(self, net):
                self.net, self.found = net, {}

            def __call__(self, x, scale):
                found = self.net(x)
                self.found[x.data_ptr(), scale] = found
                return found

        cached = Cached(model)
        for number, (x, y) in enumerate(loader):
            loss = criterion(cached(x, number), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
        ("MP111", "self.found[x.data_ptr(), scale] = found"),
    ),
    "an average of cloned weights": (
        "average = {name: weight.clone() for name, weight in model.named_parameters()}\n\n"
        + STEP
        + "\n"
        + LOOP
        + "    step(x, y)\n    for name, weight in model.named_parameters():\n"
        "        average[name] = 0.9 * average[name] + 0.1 * weight",
        ("MP112", "average[name] = 0.9 * average[name] + 0.1 * weight"),
    ),
}


@pytest.mark.parametrize("name", LEAKY)
def test_found(name: str) -> None:
    text, expected = LEAKY[name]
    assert expected in lines(text, findings(text))


FINE = {
    "another entry of a dictionary": (
        STEP
        + "    return {'loss': loss, 'size': len(x)}\n\nhistory, total = [], 0\n"
        + LOOP
        + "    result = step(x, y)\n    history.append(result['size'])\n    total += result['size']"
    ),
    "an entry that is replaced": (
        STEP
        + "    return {'loss': loss, 'size': len(x)}\n\nhistory = []\n"
        + LOOP
        + "    result = step(x, y)\n    result['loss'] = result['loss'].item()\n    history.append(result['loss'])"
    ),
    "another field of a data class": (
        "from dataclasses import dataclass\n\n@dataclass\nclass Result:\n    loss: torch.Tensor\n    size: int = 0\n\n"
        + STEP
        + "    return Result(loss, size=len(x))\n\nhistory = []\n"
        + LOOP
        + "    history.append(step(x, y).size)"
    ),
    "another element of a NamedTuple": (
        "from typing import NamedTuple\n\nclass Result(NamedTuple):\n    size: int\n    loss: torch.Tensor\n\n"
        + STEP
        + "    return Result(len(x), loss)\n\ntotal = 0\n"
        + LOOP
        + "    size, loss = step(x, y)\n    total += size"
    ),
    "keys of a dictionary": (
        STEP
        + "    return {'loss': loss}\n\nnames = []\n"
        + LOOP
        + "    for name in step(x, y):\n        names.append(name)"
    ),
    "an object that stores a number": (
        "class Record:\n    def __init__(self, loss, size):\n        self.loss = loss.item()\n        self.size = size\n\n"
        + STEP
        + "    return loss\n\nrecords = []\n"
        + LOOP
        + "    records.append(Record(step(x, y), len(x)))"
    ),
    "callbacks that are told numbers": HISTORY + TRAINER.replace("FIRE", "self.fire('step', loss.item())") + FITTED,
    "another event": (
        HISTORY.replace("def on_step(self, loss):\n        self.losses", "def on_end(self, loss):\n        self.losses")
        + TRAINER.replace("FIRE", "self.fire('step', loss)")
        + FITTED
    ),
    "a list that each call passes": (
        STEP
        + "    return loss\n\ndef note(loss, store=[]):\n    store.append(loss)\n\n"
        + LOOP
        + "    losses = []\n    note(step(x, y), losses)"
    ),
    "a closure whose list is made in each iteration": """
        for x, y in loader:
            losses = []
            def closure():
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                losses.append(loss)
                return loss
            optimizer.step(closure)
            print(len(losses))
        """,
    "a function inside that is called, whose list is made in each iteration": """
        def train():
            def evaluate(x, y):
                loss = criterion(model(x), y)
                loss.backward()
                losses.append(loss)
            for x, y in loader:
                losses = []
                evaluate(x, y)
                optimizer.step()
        """,
    "samples of a distribution, on the host": """
        actions = []
        for state, action in loader:
            distribution = torch.distributions.Categorical(logits=model(state))
            loss = -distribution.log_prob(action).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            actions.append(distribution.sample().cpu())
        """,
    "names of losses that come out of a module in a dictionary": """
        class Losses(nn.Module):
            def forward(self, output, as_dict=False):
                total = output.mean()
                return {"total": total} if as_dict else total

        losses, meters = Losses(), {}
        for x, y in loader:
            found = losses(model(x), as_dict=True)  # noqa: MP201
            for name, value in found.items():
                if name not in meters:
                    meters[name] = []
                meters[name].append(value.item())
        """,
    "an entry beside others that come by name": (
        STEP
        + "    return {'loss': loss}\n\nhistory = []\n"
        + LOOP
        + "    facts = {'size': len(x)}\n    for name, value in step(x, y).items():\n        facts[name] = value\n"
        + "    history.append(facts['size'])\n    history.append(facts['rate'])"
    ),
    "an entry of facts that others give without it": (
        "history = []\n\ndef note(facts):\n    history.append(facts['size'])\n\n"
        + STEP
        + "    return {name: loss for name in ('a', 'b')}\n\n"
        + LOOP
        + "    note({'size': len(x)})\n    note(step(x, y))"
    ),
    "a method of a model that runs no layer": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(8, 8)

            def scale(self, x):
                return x * 2

        net, head = Net(), nn.Linear(8, 2)
        optimizer = torch.optim.Adam(head.parameters())
        for x, y in loader:
            loss = F.cross_entropy(head(net.scale(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
    "the best weights": (
        STEP
        + "\nbest = []\nfor epoch in range(9):\n    for x, y in loader:\n        loss = step(x, y)\n"
        + "    best.append((epoch, copy.deepcopy(model.state_dict())))\n    best = sorted(best)[:3]"
    ),
    "a hook that keeps the latest": """
        def keep(store, name, module, inputs, output):
            store[name] = output

        stores = {}
        for name, module in model.named_children():
            module.register_forward_hook(functools.partial(keep, stores, name))
        """,
    "weights copied to the host by a function": (
        STEP
        + "\ndef snapshot(model):\n    return {name: weight.cpu().clone() for name, weight in model.state_dict().items()}\n\n"
        "kept = []\n" + LOOP + "    step(x, y)\n    kept.append(snapshot(model))"
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_not_found(name: str) -> None:
    assert lines(FINE[name], findings(FINE[name])) == []
