"""Running sums: MP101, MP112."""

from __future__ import annotations

import pytest

from memprof.lint import Confidence
from tests.unit.lint.programs import findings, lines

STEP = """
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

LEAKY = {
    "augmented": ("total = 0.0" + STEP + "    total += loss\n", "total += loss"),
    "assigned": ("total = 0.0" + STEP + "    total = total + loss\n", "total = total + loss"),
    "average": ("mean = 0.0" + STEP + "    mean = 0.9 * mean + 0.1 * loss\n", "mean = 0.9 * mean + 0.1 * loss"),
    "dict entry": ("sums = {'a': 0.0}" + STEP + "    sums['a'] += loss\n", "sums['a'] += loss"),
    "dict entry with get": (
        "sums = {}" + STEP + "    sums['a'] = sums.get('a', 0) + loss\n",
        "sums['a'] = sums.get('a', 0) + loss",
    ),
    "weighted": ("total = 0.0" + STEP + "    total += loss * x.size(0)\n", "total += loss * x.size(0)"),
    "evaluation": (
        """
        def evaluate(model, loader):
            total = 0.0
            for x, y in loader:
                total += criterion(model(x), y)  # noqa: MP201
            return total / len(loader)
        """,
        "total += criterion(model(x), y)  # noqa: MP201",
    ),
    "attribute": (
        """
        class Trainer:
            def __init__(self, model):
                self.model = model
                self.total = 0.0

            def step(self, x, y):
                loss = criterion(self.model(x), y)
                loss.backward()
                optimizer.step()
                self.total += loss

            def fit(self):
                for x, y in loader:
                    self.step(x, y)
        """,
        "self.total += loss",
    ),
    "meter": (
        """
        class Meter:
            def __init__(self):
                self.sum = 0

            def update(self, value, n=1):
                self.sum += value * n

        meter = Meter()
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            meter.update(loss, x.size(0))
        """,
        "self.sum += value * n",
    ),
    "helper returns the loss": (
        """
        def compute(x, y):
            return F.mse_loss(model(x), y)

        def step(x, y):
            loss = compute(x, y)
            loss.backward()
            optimizer.step()
            return loss

        total = 0.0
        for x, y in loader:
            total += step(x, y)
        """,
        "total += step(x, y)",
    ),
    "a field of the output": (
        """
        total = 0.0
        for batch in loader:
            outputs = model(**batch)
            outputs.loss.backward()
            optimizer.step()
            total += outputs.loss
        """,
        "total += outputs.loss",
    ),
    "an average that begins with its first value": (
        """
        class Smooth:
            def __init__(self):
                self.value = None

            def __call__(self, value):
                if self.value is None:
                    self.value = value
                else:
                    self.value = 0.9 * self.value + 0.1 * value
                return self.value

        smooth, mean = Smooth(), None
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            smooth(loss)
        """,
        "self.value = 0.9 * self.value + 0.1 * value",
    ),
    "an average in a loop that begins with its first value": (
        "mean = None" + STEP + "    if mean is None:\n        mean = loss\n    mean = mean * 0.9 + loss * 0.1\n",
        "mean = mean * 0.9 + loss * 0.1",
    ),
    "one of two sums": (
        "total, count = 0.0, 0" + STEP + "    total, count = total + loss, count + 1\n",
        "total, count = total + loss, count + 1",
    ),
    "a global": (
        """
        total = 0.0

        def step(x, y):
            global total
            loss = criterion(model(x), y)
            loss.backward()
            total += loss

        for x, y in loader:
            step(x, y)
        """,
        "total += loss",
    ),
    "unknown loss that is differentiated": (
        """
        from losses import contrastive

        total = 0.0
        for x, y in loader:
            loss = contrastive(model(x), y)
            loss.backward()
            total += loss
        """,
        "total += loss",
    ),
    "at the end of an epoch": (
        "history = 0.0\nfor epoch in range(3):\n    " + STEP.replace("\n", "\n    ") + "\n    history += loss\n",
        "history += loss",
    ),
}


@pytest.mark.parametrize("name", LEAKY)
def test_a_sum_of_losses_keeps_their_graphs(name: str) -> None:
    text, line = LEAKY[name]

    assert lines(text, findings(text)) == [("MP101", line)]


CLEAN = {
    "item": "total = 0.0" + STEP + "    total += loss.item()\n",
    "float": "total = 0.0" + STEP + "    total += float(loss)\n",
    "detach": "total = 0.0" + STEP + "    total += loss.detach()\n",
    "data": "total = 0.0" + STEP + "    total += loss.data\n",
    "detached name": "total = 0.0" + STEP + "    value = loss.detach()\n    total += value\n",
    "no_grad": "total = 0.0" + STEP + "    with torch.no_grad():\n        total += criterion(model(x), y)\n",
    "no tensor at all": "total = 0.0" + STEP + "    total += x.size(0)\n",
    "a count of hits": "hits = 0" + STEP + "    hits += (model(x).argmax(1) == y).sum()\n",
    "of one iteration": STEP.replace(
        "    optimizer.zero_grad", "    total = 0.0\n    total += loss\n    optimizer.zero_grad"
    ),
    "logged beside the loss": """
        from losses import compute_loss

        total = 0.0
        for x, y in loader:
            loss, parts = compute_loss(model(x), y)
            loss.backward()
            total = total + parts
        """,
    "detached by an object that is called": """
        class ComputeLoss:
            def __call__(self, outputs, targets):
                loss = F.mse_loss(outputs, targets)
                return loss, loss.detach()

        compute_loss = ComputeLoss()
        total = 0.0
        for x, y in loader:
            loss, shown = compute_loss(model(x), y)
            loss.backward()
            total = total + shown
        """,
    "layers of a helper of a forward": """
        def run(layers, x):
            for layer in layers:
                x = layer(x)
            return x

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(8, 8)])

            def forward(self, x):
                return run(self.layers, x)
        """,
    "layers one by one": """
        def make(layers, start, end):
            def forward(x):
                for i in range(start, end):
                    x = layers[i](x)
                return x

            return forward

        make(nn.ModuleList([nn.Linear(8, 8)]), 0, 1)
        """,
    "moved": "state = model(x0)" + STEP + "    state = state.to(device)\n    print(state.sum().item())\n",
    "differentiated": """
        for x, y in loader:
            total = 0.0
            for part in x.chunk(4):
                total += criterion(model(part), y)
            total.backward()
            optimizer.step()
        """,
    "differentiated every few iterations": """
        total = 0.0
        for i, (x, y) in enumerate(loader):
            loss = criterion(model(x), y)
            total += loss
            if i % 4 == 3:
                total.backward()
                optimizer.step()
                total = 0.0
        """,
    "differentiated elsewhere": """
        def total_loss(parts):
            total = 0.0
            for x, y in parts:
                total += criterion(model(x), y)
            return total

        for parts in loader:
            loss = total_loss(parts)
            loss.backward()
            optimizer.step()
        """,
    "only if a tensor": """
        class Meter:
            def __init__(self):
                self.sum = 0

            def update(self, value):
                if isinstance(value, torch.Tensor):
                    value = value.item()
                self.sum += value

        meter = Meter()
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            meter.update(loss)
        """,
    "evaluation under a decorator": """
        @torch.no_grad()
        def evaluate(model, loader):
            total = 0.0
            for x, y in loader:
                total += criterion(model(x), y)
            return total
        """,
    "evaluation whose caller holds no_grad": """
        def evaluate(model, loader):
            total = 0.0
            for x, y in loader:
                total += criterion(model(x), y)
            return total

        with torch.no_grad():
            evaluate(model, loader)
        """,
    "a loss function of several parts": """
        class Loss(nn.Module):
            def forward(self, outputs, targets):
                total = 0.0
                for output, target in zip(outputs, targets):
                    total += F.mse_loss(output, target)
                return total

        multi = Loss()
        for x, y in loader:
            loss = multi(model(x), y)
            loss.backward()
            optimizer.step()
        """,
    "an average of numbers": """
        class Meter:
            def __init__(self):
                self.sum = 0

            def update(self, value, n=1):
                self.sum += value * n

        meter = Meter()
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            meter.update(loss.item(), x.size(0))
        """,
}


@pytest.mark.parametrize("name", CLEAN)
def test_other_sums_are_left_alone(name: str) -> None:
    assert findings(CLEAN[name], confidence=Confidence.LOW) == []


def test_a_meter_of_another_file_is_followed() -> None:
    text = """
        from meters import Meter

        meter = Meter()
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            meter.update(loss)
        """
    meters = """
        class Meter:
            def __init__(self):
                self.sum = 0

            def update(self, value):
                self.sum += value
        """
    found = findings(text, others=[("meters.py", meters)])

    assert [(item.file, item.code, item.line) for item in found] == [("meters.py", "MP101", 7)]


def test_the_remedy_fits_what_is_summed() -> None:
    (scalar,) = findings("total = 0.0" + STEP + "    total += loss\n")
    (output,) = findings("total = 0.0" + STEP + "    total += model(x)\n")

    assert (scalar.remedy, scalar.confidence) == ("item", Confidence.HIGH)
    assert output.remedy == "detach"


def test_what_rests_on_a_name_is_less_sure() -> None:
    text = """
        def train(net, loader, optimizer):
            total = 0
            for x, y in loader:
                loss = net(x).mean()
                loss.backward()
                optimizer.step()
                total += loss
        """
    (finding,) = findings(text, setup=False)

    assert (finding.code, finding.confidence) == ("MP101", Confidence.MEDIUM)


# ---- MP112 -----------------------------------------------------------------------------------

AVERAGE = """
    class Average:
        def __init__(self, model):
            self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

        def update(self, model):
            for name, p in model.named_parameters():
                self.shadow[name] = 0.9 * self.shadow[name] + 0.1 * VALUE

    average = Average(model)
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        average.update(model)
    """


def test_averaged_weights_keep_their_history() -> None:
    (finding,) = findings(AVERAGE.replace("VALUE", "p"))

    assert (finding.code, finding.remedy) == ("MP112", "no_grad")


@pytest.mark.parametrize("value", ["p.detach()", "p.data"])
def test_averages_of_detached_weights_are_left_alone(value: str) -> None:
    assert findings(AVERAGE.replace("VALUE", value), confidence=Confidence.LOW) == []


def test_averages_under_no_grad_are_left_alone() -> None:
    text = AVERAGE.replace("VALUE", "p").replace("def update", "@torch.no_grad()\n        def update")

    assert findings(text, confidence=Confidence.LOW) == []


TEACHER = """
    teacher = copy.deepcopy(model).requires_grad_(False)
    for x, y in loader:
        criterion(model(x), y).backward()
        optimizer.step()
        CONTEXT
            for t, s in zip(teacher.parameters(), model.parameters()):
                UPDATE
    """


@pytest.mark.parametrize("update", ["t.mul_(0.9).add_(0.1 * s)", "t.copy_(0.9 * t + 0.1 * s)", "t.lerp_(s, 0.1)"])
def test_weights_averaged_in_place(update: str) -> None:
    text = TEACHER.replace("UPDATE", update)
    leaky = text.replace("CONTEXT", "if True:")

    assert lines(leaky, findings(leaky)) == [("MP112", update)]
    assert findings(text.replace("CONTEXT", "with torch.no_grad():"), confidence=Confidence.LOW) == []


@pytest.mark.parametrize("update", ["t.data.mul_(0.9).add_(0.1 * s.data)", "t.mul_(0.9).add_(0.1 * s.detach())"])
def test_weights_averaged_in_place_without_a_graph_are_left_alone(update: str) -> None:
    text = TEACHER.replace("UPDATE", update).replace("CONTEXT", "if True:")

    assert findings(text, confidence=Confidence.LOW) == []


STORE = """
    bank = torch.zeros(512, 8, device=device)
    queue = torch.randn(64, 8, device=device)
    for i, (x, y) in enumerate(loader):
        features = model(x)
        loss = criterion(features, y)
        loss.backward()
        optimizer.step()
        UPDATE
    """


@pytest.mark.parametrize("update", ["bank[i] = features", "queue = torch.cat([features, queue])[:64]"])
def test_features_written_into_a_store(update: str) -> None:
    text = STORE.replace("UPDATE", update)

    assert lines(text, findings(text)) == [("MP112", update)]


@pytest.mark.parametrize(
    "update",
    [
        "bank[i] = features.detach()",
        "queue = torch.cat([features.detach(), queue])[:64]",
        "with torch.no_grad():\n            bank[i] = features",
        "bank = features * 2",
    ],
)
def test_features_without_their_graph_are_left_alone(update: str) -> None:
    assert findings(STORE.replace("UPDATE", update), confidence=Confidence.LOW) == []


def test_an_average_through_another_name() -> None:
    text = AVERAGE.replace("= 0.9 * self.shadow[name] + 0.1 * VALUE", "= new.clone()").replace(
        "self.shadow[name] = new", "new = 0.9 * self.shadow[name] + 0.1 * p\n                self.shadow[name] = new"
    )

    assert [item.code for item in findings(text)] == ["MP112"]


MEMORY = """
class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 8)
        self.register_buffer("kept", torch.zeros(100, 8))

    def forward(self, numbers, x):
        output = self.cell(x, torch.zeros(4, 8))
        self.kept[numbers] = output
        return output

    def cut(self):
        CUT

memory = Memory()
optimizer = torch.optim.Adam(memory.parameters())
for numbers, x in loader:
    loss = memory(numbers, x).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    memory.cut()
"""


def test_a_memory_that_is_cut_by_another_method() -> None:
    for kept in ("pass", "print(self.kept.detach().mean() - self.kept.detach().max())"):
        assert [item.code for item in findings(MEMORY.replace("CUT", kept))] == ["MP112"]
    for cut in ("self.kept.detach_()", "self.kept = self.kept.detach()"):
        assert findings(MEMORY.replace("CUT", cut)) == []


def test_an_entry_that_is_made_from_others() -> None:
    text = """
        facts = {"a": 1.0}
        for x, y in loader:
            facts["x"], facts["y"] = model(x), y
            facts["h"] = facts["x"] * facts["y"]
            facts["h"].mean().backward()
            optimizer.step()
        """
    assert findings(text) == []


def test_a_transform_is_no_module() -> None:
    text = """
        from abc import ABC

        class Transform(ABC):
            def __call__(self, data):
                return self.forward(data)

            def forward(self, data):
                return data * 2

        def kept(transform=Transform()):
            found = []
            for data, y in loader:
                found.append(transform(data).item())
            return found
        """
    assert findings(text) == []
