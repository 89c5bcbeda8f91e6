"""Evaluation with autograd on, MP201: by its name, by the mode of its model, by what it leaves out."""

from __future__ import annotations

import pytest

from memprof.lint import Confidence
from tests.unit.lint.programs import findings, lines

STEP = """optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""

EVALUATED = {
    "a function that counts hits": (
        """
        def accuracy(model, loader):
            hits = 0
            for x, y in loader:
                scores = model(x)
                hits += (scores.argmax(1) == y).sum().item()
            return hits

        print(accuracy(model, loader))
        """,
        "scores = model(x)",
    ),
    "a second loop of the same function": (
        """
        def main():
            for epoch in range(3):
                for x, y in loader:
                    loss = criterion(model(x), y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                total = 0.0
                for x, y in val_loader:
                    total += criterion(model(x), y).item()
                print(total)
        """,
        "total += criterion(model(x), y).item()",
    ),
    "a method of a trainer": (
        """
        class Trainer:
            def __init__(self, model, loader):
                self.model, self.loader = model, loader

            def score(self):
                found = []
                for x, y in self.loader:
                    found.append(self.model(x).argmax(1).cpu())
                return torch.cat(found)

        Trainer(model, loader).score()
        """,
        "found.append(self.model(x).argmax(1).cpu())",
    ),
    "a comprehension": (
        """
        def evaluate(model, loader):
            model.eval()
            return torch.cat([model(x).argmax(1) for x, y in loader])

        evaluate(model, loader)
        """,
        "return torch.cat([model(x).argmax(1) for x, y in loader])",
    ),
    "a flag that says whether to train": (
        f"""
        def run(model, loader, train=True):
            for x, y in loader:
                loss = criterion(model(x), y)
                if train:
                    {STEP.replace("            ", "                    ")}
        run(model, loader)
        run(model, loader, train=False)
        """,
        "loss = criterion(model(x), y)",
    ),
    "an optimizer only for training": (
        f"""
        def run(model, loader, optimizer=None):
            for x, y in loader:
                loss = criterion(model(x), y)
                if optimizer is not None:
                    {STEP.replace("            ", "                    ")}
        run(model, loader, optimizer)
        run(model, loader)
        """,
        "loss = criterion(model(x), y)",
    ),
    "batches that are cut out of a tensor": (
        """
        def accuracy(model, x, y):
            hits = 0
            for i in range(0, len(x), 32):
                hits += (model(x[i : i + 32]).argmax(1) == y[i : i + 32]).sum().item()
            return hits / len(x)

        print(accuracy(model, torch.randn(100, 8), torch.zeros(100)))
        """,
        "hits += (model(x[i : i + 32]).argmax(1) == y[i : i + 32]).sum().item()",
    ),
    "batches that a function makes": (
        """
        def batches(n):
            for _ in range(n):
                x = torch.randn(4, 8)
                yield x, x.sum(1)

        def error(model):
            return [criterion(model(x), y).item() for x, y in batches(3)]

        def largest(model):
            found = 0.0
            for x, y in batches(10):
                found = max(found, criterion(model(x), y).item())
            return found

        print(largest(model))
        """,
        "found = max(found, criterion(model(x), y).item())",
    ),
    "a model whose output may be its embeddings": (
        """
        class Embeddings(nn.Module):
            def __init__(self):
                super().__init__()
                self.embeds = nn.ModuleDict({"a": nn.Linear(8, 8)})

            def forward(self):
                return self.embeds

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embeddings, self.head = Embeddings(), nn.Linear(8, 8)

            def forward(self, x=None):
                if x is None:
                    x = self.embeddings()
                else:
                    x = {"a": self.head(x)}
                return x

        def evaluate(net, loader):
            net.eval()
            for x, y in loader:
                print(net(x)["a"].mean().item())

        evaluate(Net(), loader)
        """,
        'print(net(x)["a"].mean().item())',
    ),
    "phases": (
        f"""
        for epoch in range(3):
            for phase in ("train", "val"):
                for x, y in loader:
                    loss = criterion(model(x), y)
                    if phase == "train":
                        {STEP.replace("            ", "                        ")}
        """,
        "loss = criterion(model(x), y)",
    ),
    "a flag that sets the mode": (
        f"""
        def run(model, loader, training):
            model.train(training)
            for x, y in loader:
                loss = criterion(model(x), y)
                if training:
                    {STEP.replace("            ", "                    ")}
        """,
        "loss = criterion(model(x), y)",
    ),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_found(name: str) -> None:
    text, line = EVALUATED[name]
    assert lines(text, findings(text)) == [("MP201", line)]


FINE = {
    "a function that counts hits, without autograd": """
        @torch.no_grad()
        def accuracy(model, loader):
            hits = 0
            for x, y in loader:
                hits += (model(x).argmax(1) == y).sum().item()
            return hits
        """,
    "a backward pass that another package runs": """
        from engine import update

        def run(model, loader):
            for x, y in loader:
                loss = criterion(model(x), y)
                update(loss)
        """,
    "an optimizer that steps": """
        def run(model, loader):
            for x, y in loader:
                loss = criterion(model(x), y)
                engine(loss.mean())
                optimizer.step()
        """,
    "losses that the caller differentiates": """
        def losses(model, loader):
            found = []
            for x, y in loader:
                found.append(criterion(model(x), y))
            return found

        sum(losses(model, loader)).backward()
        """,
    "losses that an unknown caller may differentiate": """
        def losses(model, loader):
            total = 0
            for x, y in loader:
                total = total + criterion(model(x), y)  # noqa: MP101
            return total
        """,
    "outputs that are handed out one by one": """
        def outputs(model, loader):
            for x, y in loader:
                yield model(x)
        """,
    "training whose backward is elsewhere": """
        def train(model, loader):
            for x, y in loader:
                loss = criterion(model(x), y)
                print(loss.item())
        """,
    "a flag with set_grad_enabled": f"""
        def run(model, loader, train=True):
            for x, y in loader:
                with torch.set_grad_enabled(train):
                    loss = criterion(model(x), y)
                if train:
                    {STEP.replace("            ", "                    ")}
        run(model, loader)
        run(model, loader, train=False)
        """,
    "a flag whose other caller turns autograd off": f"""
        def run(model, loader, train=True):
            for x, y in loader:
                loss = criterion(model(x), y)
                if train:
                    {STEP.replace("            ", "                    ")}
        run(model, loader)
        with torch.no_grad():
            run(model, loader, train=False)
        """,
    "a benchmark of the forward pass": """
        def measure(model, loader, backward=False):
            for x, y in loader:
                output = model(x)
                if backward:
                    output.sum().backward()

        measure(model, loader)
        measure(model, loader, backward=True)
        """,
    "losses that layers keep": """
        model.eval()
        image = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([image])
        for step in range(10):
            def closure():
                optimizer.zero_grad()
                model(image)
                loss = sum(layer.loss for layer in model)
                loss.backward()
                return loss
            optimizer.step(closure)
        """,
    "a flag that nobody turns off": f"""
        def run(model, loader, update=True):
            for x, y in loader:
                loss = criterion(model(x), y)
                if update:
                    {STEP.replace("            ", "                    ")}
        run(model, loader)
        """,
    "a forward pass of its own for each mode": f"""
        def run(model, loader, train=True):
            for x, y in loader:
                if train:
                    loss = criterion(model(x), y)
                    {STEP.replace("            ", "                    ")}
                else:
                    with torch.no_grad():
                        loss = criterion(model(x), y)
        run(model, loader)
        run(model, loader, train=False)
        """,
    "slices whose outputs are joined and differentiated": """
        def rendered(model, rays):
            parts = []
            for i in range(0, len(rays), 1024):
                parts.append(model(rays[i : i + 1024]))
            return torch.cat(parts)

        for rays, colours in loader:
            loss = criterion(rendered(model, rays), colours)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        """,
    "gradients that are accumulated": f"""
        for number, (x, y) in enumerate(loader):
            loss = criterion(model(x), y)
            if number % 4 == 0:
                {STEP.replace("            ", "                ")}
        """,
}


@pytest.mark.parametrize("name", FINE)
def test_not_found(name: str) -> None:
    assert lines(FINE[name], findings(FINE[name])) == []


def test_a_function_that_evaluates_is_told_of_once() -> None:
    text = """
        def evaluate(model, loader):
            model.eval()
            first = model(next(iter(loader)))
            for x, y in loader:
                print(model(x).mean().item())

        evaluate(model, loader)
        """
    assert [item.source.strip() for item in findings(text)] == ["print(model(x).mean().item())"]
    called = text.replace(
        "        evaluate(model, loader)\n",
        "        for epoch in range(3):\n"
        + 12 * " "
        + "for x, y in loader:\n"
        + 16 * " "
        + "criterion(model(x), y).backward()\n"
        + 16 * " "
        + "evaluate(model, loader)\n",
    )
    assert [item.source.strip() for item in findings(called)] == ["first = model(next(iter(loader)))"]


def test_evaluation_without_a_name_is_of_medium_confidence() -> None:
    text, _ = EVALUATED["a function that counts hits"]
    assert [item.confidence for item in findings(text)] == [Confidence.MEDIUM]


def test_both_modes_are_told_by_their_condition() -> None:
    text, _ = EVALUATED["an optimizer only for training"]
    (found,) = findings(text)
    assert "`with torch.set_grad_enabled(optimizer is not None):`" in found.message
