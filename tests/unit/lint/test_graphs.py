"""Hidden states, backward's arguments, autograd functions, caches: MP104, MP105, MP106, MP108, MP111."""

from __future__ import annotations

import pytest

from memprof.lint import Confidence
from tests.unit.lint.programs import findings, lines

RNN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x, h=None):
        out, h = self.rnn(x, h)
        return self.head(out), h

net = Net()
optimizer = torch.optim.Adam(net.parameters())
hidden = None
"""
FIT = """    loss = criterion(out, y)
    loss.backward(retain_graph=True)
    optimizer.step()
"""


@pytest.mark.parametrize("call", ["out, hidden = net(x, hidden)", "out, hidden = net(x, h=hidden)"])
def test_a_hidden_state_with_its_history(call: str) -> None:
    text = f"{RNN}for x, y in loader:\n    {call}\n{FIT}"

    assert lines(text, findings(text)) == [("MP104", call)]


def test_a_hidden_state_handed_on_under_another_name() -> None:
    text = f"{RNN}for x, y in loader:\n    out, new = net(x, hidden)\n{FIT}    hidden = new\n"

    assert lines(text, findings(text)) == [("MP104", "out, new = net(x, hidden)")]


def test_a_hidden_state_in_an_attribute() -> None:
    text = (
        RNN
        + """
class Stream:
    def __init__(self, net):
        self.net = net
        self.hidden = None

    def update(self, x):
        out, self.hidden = self.net(x, self.hidden)
        return out.mean().item()

stream = Stream(net)
for x, y in loader:
    print(stream.update(x))
"""
    )

    assert lines(text, findings(text))[0] == ("MP104", "out, self.hidden = self.net(x, self.hidden)")


CUT = {
    "detached before": "for x, y in loader:\n    hidden = hidden.detach()\n    out, hidden = net(x, hidden)\n",
    "detached in a tuple": (
        "for x, y in loader:\n    hidden = tuple(h.detach() for h in hidden)\n    out, hidden = net(x, hidden)\n"
    ),
    "detached by a helper": (
        "def repackage(h):\n    return h.detach()\n\nfor x, y in loader:\n    hidden = repackage(hidden)\n"
        "    out, hidden = net(x, hidden)\n"
    ),
    "detached in place": "for x, y in loader:\n    out, hidden = net(x, hidden)\n    hidden.detach_()\n",
    "detached now and then": (
        "for i, (x, y) in enumerate(loader):\n    if i % 4 == 0:\n        hidden = hidden.detach()\n"
        "    out, hidden = net(x, hidden)\n"
    ),
    "made anew": "for x, y in loader:\n    hidden = None\n    out, hidden = net(x, hidden)\n",
    "detached where passed": "for x, y in loader:\n    out, hidden = net(x, hidden.detach())\n",
}


@pytest.mark.parametrize("name", CUT)
def test_a_state_that_is_cut_off_is_left_alone(name: str) -> None:
    text = RNN + CUT[name] + FIT.replace("retain_graph=True", "")

    assert findings(text, confidence=Confidence.LOW) == []


def test_time_steps_within_an_iteration_are_left_alone() -> None:
    text = f"{RNN}for x, y in loader:\n    hidden = None\n    for t in range(9):\n        out, hidden = net(x[t], hidden)\n"

    assert findings(text + FIT.replace("retain_graph=True", ""), confidence=Confidence.LOW) == []


def test_generation_without_autograd_is_left_alone() -> None:
    text = f"{RNN}with torch.no_grad():\n    for t in range(99):\n        out, hidden = net(out, hidden)\n"

    assert findings(text, confidence=Confidence.LOW) == []


# ---- MP105, MP106 ----------------------------------------------------------------------------

LOOP = "for x, y in loader:\n    loss = criterion(model(x), y)\n    optimizer.zero_grad()\n"


def test_retain_graph_without_need() -> None:
    text = f"{LOOP}    loss.backward(retain_graph=True)\n    optimizer.step()\n"

    assert lines(text, findings(text)) == [("MP105", "loss.backward(retain_graph=True)")]


@pytest.mark.parametrize(
    "text",
    [
        f"{LOOP}    loss.backward()\n",
        f"{LOOP}    loss.backward(retain_graph=False)\n",
        f"{LOOP}    loss.backward(retain_graph=True)\n    other = loss * 2\n    other.backward()\n",
        f"{LOOP}    for part in loss:\n        part.backward(retain_graph=True)\n",
        f"features = model(x)\n{LOOP}    loss = loss + features.mean()\n    loss.backward(retain_graph=True)\n",
        "criterion(model(x), y).backward(retain_graph=True)\n",
    ],
)
def test_retain_graph_that_may_be_needed_is_left_alone(text: str) -> None:
    assert findings(text, confidence=Confidence.LOW) == []


def test_create_graph_without_need() -> None:
    text = f"{LOOP}    loss.backward(create_graph=True)\n    optimizer.step()\n"

    assert lines(text, findings(text)) == [("MP106", "loss.backward(create_graph=True)")]


def test_gradients_for_logging_with_a_graph() -> None:
    text = f"{LOOP}    g = torch.autograd.grad(loss, model.parameters(), create_graph=True)\n    print(g[0].norm())\n"

    assert [item.code for item in findings(text)] == ["MP106"]


def test_a_gradient_penalty_is_left_alone() -> None:
    text = (
        f"{LOOP}    (g,) = torch.autograd.grad(loss, x, create_graph=True)\n    penalty = (g.norm() - 1) ** 2\n"
        "    total = loss + penalty\n    total.backward()\n    optimizer.step()\n"
    )

    assert findings(text, confidence=Confidence.LOW) == []


# ---- MP108 -----------------------------------------------------------------------------------

FUNCTION = """
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, power):
            result = torch.pow(input, power)
            STORE
            return result

        @staticmethod
        def backward(ctx, grad):
            return grad, None
    """


@pytest.mark.parametrize(
    "store", ["ctx.result = result", "ctx.x = input", "ctx.half = result / 2", "ctx.e = input.exp()"]
)
def test_tensors_on_the_context(store: str) -> None:
    text = FUNCTION.replace("STORE", store)

    assert lines(text, findings(text)) == [("MP108", store)]


def test_an_input_without_a_gradient_on_the_context() -> None:
    text = FUNCTION.replace("forward(ctx, input, power):", "forward(ctx, input, target):").replace(
        "torch.pow(input, power)", "torch.where(target > 0, input, target.neg())"
    )
    text = text.replace("STORE", "ctx.target = target")

    assert findings(text) == []
    differentiated = text.replace("return grad, None", "return grad, grad")
    assert lines(differentiated, findings(differentiated)) == [("MP108", "ctx.target = target")]


@pytest.mark.parametrize(
    "store", ["ctx.power = power", "ctx.save_for_backward(input)", "ctx.shape = input.shape", "ctx.n = input.size(0)"]
)
def test_numbers_on_the_context_are_left_alone(store: str) -> None:
    assert findings(FUNCTION.replace("STORE", store), confidence=Confidence.LOW) == []


# ---- MP111 -----------------------------------------------------------------------------------


def test_a_cached_function_of_tensors() -> None:
    annotated = "@functools.lru_cache(maxsize=None)\ndef encode(x: torch.Tensor):\n    return model(x)\n"
    called = "@functools.cache\ndef encode(x):\n    return model(x)\n\nfor x, y in loader:\n    encode(x)\n"

    assert [item.code for item in findings(annotated)] == ["MP111"]
    assert [item.code for item in findings(called)] == ["MP111"]


def test_a_cached_function_of_numbers_is_left_alone() -> None:
    text = "@functools.lru_cache\ndef mask(n: int):\n    return torch.ones(n, n).tril()\n\nmask(4)\n"

    assert findings(text, confidence=Confidence.LOW) == []


def test_a_dict_keyed_by_tensors() -> None:
    leaky = f"seen = {{}}\n{LOOP}    loss.backward()\n    seen[x] = loss.item()\n"
    clean = f"seen = {{}}\n{LOOP}    loss.backward()\n    seen[x.size(0)] = loss.item()\n"

    assert lines(leaky, findings(leaky)) == [("MP111", "seen[x] = loss.item()")]
    assert findings(clean, confidence=Confidence.LOW) == []


def test_retain_graph_of_a_function_that_is_called_in_a_loop() -> None:
    text = """
        def saliency(image):
            image = image.clone().requires_grad_()
            scores = model(image)
            (grad,) = torch.autograd.grad(scores.sum(), image, retain_graph=True)
            return grad.abs()

        for x, y in loader:
            print(saliency(x).mean().item())
        """
    used = text.replace("return grad.abs()", "scores.sum().backward()\n            return grad.abs()")

    assert [item.code for item in findings(text)] == ["MP105"]
    assert findings(used, confidence=Confidence.LOW) == []


def test_tensors_on_the_context_of_setup_context() -> None:
    text = """
        class Clip(torch.autograd.Function):
            @staticmethod
            def forward(x, limit):
                return x.clamp(-limit, limit)

            @staticmethod
            def setup_context(ctx, inputs, output):
                x, limit = inputs
                ctx.x = x
                ctx.limit = limit

            @staticmethod
            def backward(ctx, grad):
                return grad * (ctx.x.abs() < ctx.limit), None
        """

    assert lines(text, findings(text)) == [("MP108", "ctx.x = x")]


CARRYING = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 8)
        self.hidden = None

    def forward(self, x):
        output, self.hidden = self.rnn(x, self.hidden)
        return output

net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for x, y in loader:
    loss = criterion(net(x), y)
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    optimizer.step()
"""


def test_a_state_that_a_module_keeps() -> None:
    """The graph is retained because of the state: nothing is said of that."""
    assert lines(CARRYING, findings(CARRYING)) == [("MP104", "output, self.hidden = self.rnn(x, self.hidden)")]


@pytest.mark.parametrize(
    "text",
    [
        CARRYING.replace("    optimizer.zero_grad()\n", "    optimizer.zero_grad()\n    net.hidden = None\n"),
        CARRYING.replace(
            "        return output\n",
            "        self.hidden = [h.detach() for h in self.hidden]\n        return output\n",
        ),
        CARRYING.replace("retain_graph=True", ""),
    ],
    ids=["set by the caller", "detached", "would fail otherwise"],
)
def test_a_state_that_begins_anew(text: str) -> None:
    assert "MP104" not in [item.code for item in findings(text)]


def test_a_graph_that_another_package_goes_through_again() -> None:
    text = """
        from trpo import hessian_vector_product

        def losses(x, y):
            output = model(x)
            return criterion(output, y), output.pow(2).mean()

        for x, y in loader:
            loss, divergence = losses(x, y)
            gradients = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
            OTHER
            optimizer.step()
        """
    again = text.replace("OTHER", "product = hessian_vector_product(divergence, model.parameters())")
    assert findings(again) == []
    assert [item.code for item in findings(text.replace("OTHER", "report(loss)"))] == ["MP105"]


def test_a_graph_that_a_function_retains_for_nothing() -> None:
    text = """
        def update(loss):
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            optimizer.step()

        for x, y in loader:
            update(criterion(model(x), y))
        """
    assert lines(text, findings(text)) == [("MP105", "loss.backward(retain_graph=True)")]
    outside = text.replace("        for x", "        shared = model(first)\n        for x").replace(
        "update(criterion(model(x), y))", "update(criterion(shared, y))"
    )
    assert findings(outside) == []
