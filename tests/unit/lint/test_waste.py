"""Evaluation, networks that nothing trains, switches, leftovers, layers: MP2xx, MP110, MP114, MP115, MP312, MP403."""

from __future__ import annotations

import textwrap

import pytest

from memprof.lint import Confidence
from tests.unit.lint.programs import findings, lines

# ---- MP201 -----------------------------------------------------------------------------------

EVALUATE = """
    def evaluate(model, loader):
        model.eval()
        hits = 0
        for x, y in loader:
            output = model(x)
            hits += (output.argmax(1) == y).sum().item()
        return hits

    evaluate(model, loader)
    """


def test_evaluation_with_autograd() -> None:
    (finding,) = findings(EVALUATE)

    assert (finding.code, finding.remedy, finding.confidence) == ("MP201", "no_grad", Confidence.HIGH)
    assert lines(EVALUATE, [finding]) == [("MP201", "output = model(x)")]


def test_evaluation_in_the_training_loop() -> None:
    text = """
        for epoch in range(9):
            model.train()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            model.eval()
            prediction = model(x_val)
            print(criterion(prediction, y_val).item())
        """

    assert lines(text, findings(text)) == [("MP201", "prediction = model(x_val)")]


SHARED = """
    def batch_loss(net, x, y):
        return criterion(net(x), y)

    WHERE
    def evaluate(net):
        net.eval()
        total = 0
        for x, y in loader:
            total += batch_loss(net, x, y).item()
        return total

    for x, y in loader:
        optimizer.zero_grad()
        batch_loss(model, x, y).backward()
        optimizer.step()
    print(evaluate(model))
    """


def test_evaluation_through_a_function_that_training_uses_as_well() -> None:
    text = SHARED.replace("WHERE", "")

    (finding,) = findings(text)

    assert finding.confidence is Confidence.MEDIUM
    assert lines(text, [finding]) == [("MP201", "total += batch_loss(net, x, y).item()")]
    assert findings(SHARED.replace("WHERE", "@torch.no_grad()"), confidence=Confidence.LOW) == []


def test_features_from_a_generator() -> None:
    text = """
        def features(net, data):
            for x in data:
                yield net(x)

        net = nn.Sequential(nn.Linear(8, 8))
        net.to(device).eval()
        for vector in features(net, loader):
            print(vector.mean().item())
        """

    assert lines(text, findings(text)) == [("MP201", "yield net(x)")]


@pytest.mark.parametrize(
    "text",
    [
        EVALUATE.replace("def evaluate", "@torch.no_grad()\n    def evaluate"),
        EVALUATE.replace("def evaluate", "@torch.inference_mode()\n    def evaluate"),
        EVALUATE.replace("    evaluate(model, loader)", "    with torch.no_grad():\n        evaluate(model, loader)"),
        "torch.set_grad_enabled(False)\n" + EVALUATE.replace("\n    ", "\n"),
        # adversarial examples and saliency need gradients of a model in evaluation mode
        EVALUATE.replace("output = model(x)", "x.requires_grad_()\n            output = model(x)"),
        """
        def saliency(model, loader):
            model.eval()
            for x, y in loader:
                score = model(x).max()
                score.backward()
                show(x.grad)
        """,
        """
        for p in model.parameters():
            p.requires_grad = False
        model.eval()
        for x, y in loader:
            print(model(x).argmax())
        """,
        """
        for epoch in range(9):
            for phase in ("train", "val"):
                model.train() if phase == "train" else model.eval()
                for x, y in loader:
                    with torch.set_grad_enabled(phase == "train"):
                        loss = criterion(model(x), y)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
        """,
        """
        class Net(nn.Module):
            def predict(self, x):
                return self.layer(x)
        """,
    ],
)
def test_other_evaluation_is_left_alone(text: str) -> None:
    assert findings(text, confidence=Confidence.LOW) == []


# ---- MP203 -----------------------------------------------------------------------------------

BACKBONE = """
    backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    head = nn.Linear(8, 1)
    opt = torch.optim.SGD(PARAMETERS, lr=0.1)
    SETUP
    for x, y in loader:
        features = FORWARD
        loss = criterion(head(features), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    """


def backbone(forward: str = "backbone(x)", parameters: str = "head.parameters()", setup: str = "pass") -> str:
    text = BACKBONE.replace("FORWARD", forward).replace("PARAMETERS", parameters).replace("SETUP", setup)
    return HEADLESS + "\n".join(line[4:] for line in text.splitlines())


HEADLESS = """
device = "cuda"
criterion = nn.MSELoss()
loader = DataLoader(data, batch_size=4)
"""


def test_a_backbone_that_no_optimizer_trains() -> None:
    text = backbone()

    assert lines(text, findings(text, setup=False), setup=False) == [("MP203", "features = backbone(x)")]


@pytest.mark.parametrize(
    "text",
    [
        backbone(parameters="list(backbone.parameters()) + list(head.parameters())"),
        backbone(parameters="[{'params': backbone.parameters()}, {'params': head.parameters()}]"),
        backbone(setup="backbone.requires_grad_(False)"),
        backbone(setup="for p in backbone.parameters(): p.requires_grad = False"),
        backbone(setup="freeze(backbone)"),
        backbone(setup="net = nn.Sequential(backbone, head)"),
        backbone(parameters="parameters"),
        backbone(forward="backbone(head(x))"),
        backbone(forward="backbone(x).detach()"),
    ],
)
def test_a_backbone_that_is_trained_frozen_or_unknown_is_left_alone(text: str) -> None:
    assert findings(text, setup=False, confidence=Confidence.LOW) == []


# ---- MP204 -----------------------------------------------------------------------------------

GAN = """
netG = nn.Sequential(nn.Linear(8, 8))
netD = nn.Sequential(nn.Linear(8, 1))
bce = nn.BCEWithLogitsLoss()
optG = torch.optim.Adam(netG.parameters())
optD = torch.optim.Adam(netD.parameters())
for real in loader:
    fake = netG(torch.randn(4, 8))
    optD.zero_grad()
    errD = bce(netD(real), ones) + bce(netD(FAKE), zeros)
    errD.backward(retain_graph=True)
    optD.step()
    optG.zero_grad()
    errG = bce(netD(fake), ones)
    errG.backward()
    optG.step()
"""


def test_the_generator_is_differentiated_in_the_discriminators_step() -> None:
    text = GAN.replace("FAKE", "fake")
    (finding,) = findings(text, setup=False)

    assert (finding.code, finding.remedy) == ("MP204", "detach")
    assert lines(text, [finding], setup=False)[0][1].startswith("errD =")


def test_what_a_penalty_differentiates_keeps_a_gradient_of_its_own() -> None:
    penalty = """
    slope = torch.autograd.grad(errD, fake, create_graph=True)[0]
    (errD + slope.norm()).backward(retain_graph=True)
"""
    text = GAN.replace("FAKE", "fake").replace("\n    errD.backward(retain_graph=True)\n", penalty)

    (finding,) = findings(text, setup=False)

    assert finding.code == "MP204"
    assert finding.message.endswith("`fake = fake.detach().requires_grad_()`.")


def test_a_detached_generator_is_left_alone() -> None:
    assert findings(GAN.replace("FAKE", "fake.detach()"), setup=False, confidence=Confidence.LOW) == []


def test_an_output_that_both_networks_learn_from_is_left_alone() -> None:
    text = """
        netG = nn.Sequential(nn.Linear(8, 8))
        netD = nn.Sequential(nn.Linear(8, 1))
        optG = torch.optim.Adam(netG.parameters())
        optD = torch.optim.Adam(netD.parameters())
        for real in loader:
            fake = netG(torch.randn(4, 8))
            scores = netD(fake)
            errD = scores.mean() - netD(real).mean()
            errD.backward(retain_graph=True)
            optD.step()
            errG = -scores.mean()
            errG.backward()
            optG.step()
        """

    assert findings(text, setup=False, confidence=Confidence.LOW) == []


def test_two_optimizers_stepped_together_are_left_alone() -> None:
    text = """
        encoder = nn.Linear(8, 8)
        decoder = nn.Linear(8, 8)
        opt1 = torch.optim.Adam(encoder.parameters())
        opt2 = torch.optim.Adam(decoder.parameters())
        for x in loader:
            loss = F.mse_loss(decoder(encoder(x)), x)
            loss.backward()
            opt1.step()
            opt2.step()
        """

    assert findings(text, setup=False, confidence=Confidence.LOW) == []


# ---- switches --------------------------------------------------------------------------------

LOOP = "for x, y in loader:\n    criterion(model(x), y).backward()\n    optimizer.step()\n"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("MP207", LOOP + "    optimizer.zero_grad(set_to_none=False)\n"),
        ("MP208", "torch.autograd.set_detect_anomaly(True)\n" + LOOP),
        ("MP208", "with torch.autograd.detect_anomaly():\n    " + LOOP.replace("\n", "\n    ")),
        ("MP312", LOOP + "    torch.cuda.empty_cache()\n"),
        ("MP209", "ckpt = torch.load('a.pt')\nmodel.load_state_dict(ckpt['model'])\n" + LOOP),
        ("MP114", LOOP + "    optimizer.add_param_group({'params': [w]})\n"),
        ("MP115", LOOP + "    model.append(nn.Linear(8, 8))\n"),
    ],
)
def test_calls_that_cost(code: str, text: str) -> None:
    assert [item.code for item in findings(text)] == [code]


@pytest.mark.parametrize(
    "text",
    [
        LOOP + "    optimizer.zero_grad()\n",
        LOOP + "    optimizer.zero_grad(set_to_none=True)\n",
        "for p in model.parameters():\n    p.grad += 1\n" + LOOP + "    optimizer.zero_grad(set_to_none=False)\n",
        "graph = torch.cuda.CUDAGraph()\n" + LOOP + "    optimizer.zero_grad(set_to_none=False)\n",
        "torch.autograd.set_detect_anomaly(False)\n" + LOOP,
        "torch.autograd.set_detect_anomaly(args.debug)\n" + LOOP,
        "if args.debug:\n    torch.autograd.set_detect_anomaly(True)\n" + LOOP,
        LOOP + "torch.cuda.empty_cache()\n",
        LOOP + "    if step % 100 == 0:\n        torch.cuda.empty_cache()\n",
        "for epoch in range(9):\n    " + LOOP.replace("\n", "\n    ") + "\n    torch.cuda.empty_cache()\n",
        "ckpt = torch.load('a.pt', map_location='cpu')\nmodel.load_state_dict(ckpt['model'])\n" + LOOP,
        "ckpt = torch.load('a.pt')\nmodel.load_state_dict(ckpt['model'])\ndel ckpt\n" + LOOP,
        "model.load_state_dict(torch.load('a.pt'))\n" + LOOP,
        "targets = torch.load('targets.pt')\n" + LOOP,
        "optimizer.add_param_group({'params': [w]})\n" + LOOP,
        "for epoch in range(9):\n    " + LOOP.replace("\n", "\n    ") + "\n    optimizer.add_param_group({})\n",
        LOOP + "    if step == 5:\n        optimizer.add_param_group({'params': [w]})\n",
    ],
)
def test_other_calls_are_left_alone(text: str) -> None:
    assert findings(text, confidence=Confidence.LOW) == []


# ---- MP110 -----------------------------------------------------------------------------------

FAILING = """
    errors = []
    for x, y in loader:
        try:
            criterion(model(x), y).backward()
        except RuntimeError as error:
            HANDLE
    """


@pytest.mark.parametrize("handle", ["errors.append(error)", "errors.append((x.size(0), error))"])
def test_tracebacks_that_keep_tensors(handle: str) -> None:
    text = FAILING.replace("HANDLE", handle)

    assert lines(text, findings(text)) == [("MP110", handle)]


def test_a_second_try_inside_of_except() -> None:
    again = "criterion(model(x[:2]), y[:2]).backward()"
    text = FAILING.replace("RuntimeError", "torch.cuda.OutOfMemoryError").replace("HANDLE", again)

    assert lines(text, findings(text)) == [("MP110", again)]
    assert findings(FAILING.replace("HANDLE", again), confidence=Confidence.LOW) == []


@pytest.mark.parametrize("handle", ["errors.append(str(error))", "print(error)", "failed = True", "raise"])
def test_errors_kept_as_text_are_left_alone(handle: str) -> None:
    assert findings(FAILING.replace("HANDLE", handle), confidence=Confidence.LOW) == []


# ---- MP403 -----------------------------------------------------------------------------------

NET = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            BODY

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x
    """


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("self.layers = [nn.Linear(8, 8) for _ in range(3)]", "self.layers = [nn.Linear(8, 8) for _ in range(3)]"),
        ("self.layers = [nn.Linear(8, 8), nn.ReLU()]", "self.layers = [nn.Linear(8, 8), nn.ReLU()]"),
        ("self.layers = []\n            self.layers.append(nn.Linear(8, 8))", "self.layers = []"),
        ("self.scales = [nn.Parameter(torch.ones(1))]", "self.scales = [nn.Parameter(torch.ones(1))]"),
    ],
)
def test_layers_in_a_plain_list(body: str, line: str) -> None:
    text = NET.replace("BODY", body)

    assert lines(text, findings(text)) == [("MP403", line)]


@pytest.mark.parametrize(
    "body",
    [
        "self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])",
        "self.layers = nn.ModuleList()\n            self.layers.append(nn.Linear(8, 8))",
        "layers = [nn.Linear(8, 8)]\n            self.layers = nn.Sequential(*layers)",
        "self.layers = [nn.Linear(8, 8)]\n            self.body = nn.Sequential(*self.layers)",
        "self.layers = [nn.ReLU(), nn.Tanh()]",
        "self.first = nn.Linear(8, 8)\n            self.layers = [self.first]",
        (
            "self.layers = []\n            for i in range(3):\n                layer = nn.Linear(8, 8)\n"
            "                self.add_module(str(i), layer)\n                self.layers.append(layer)"
        ),
    ],
)
def test_layers_that_are_registered_are_left_alone(body: str) -> None:
    assert findings(NET.replace("BODY", body), confidence=Confidence.LOW) == []


# ---- MP114, MP115 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("MP114", "kept = []\n" + LOOP + "    new = torch.optim.SGD(model.parameters())\n    kept.append(new)\n"),
        ("MP114", LOOP + "    optimizer.param_groups[0]['params'] = [nn.Parameter(x)]\n"),
        ("MP115", LOOP + "    model.body = nn.Sequential(*model.body, nn.Linear(8, 8))\n"),
        (
            "MP115",
            (
                "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
                "        self.layers = nn.ModuleList()\n\n    def forward(self, x):\n"
                "        self.layers.append(nn.Linear(8, 8))\n        return self.layers[-1](x)\n\nnet = Net()\n"
                "for x, y in loader:\n    net(x).mean().backward()\n    torch.optim.SGD(net.parameters(), 0.1).step()\n"
            ),
        ),
    ],
)
def test_models_and_optimizers_that_grow(code: str, text: str) -> None:
    assert [item.code for item in findings(text)] == [code]


@pytest.mark.parametrize(
    "text",
    [
        LOOP + "    new = torch.optim.SGD(model.parameters())\n",
        LOOP + "    old = optimizer.state.pop(w)\n    optimizer.param_groups[0]['params'] = [nn.Parameter(x)]\n",
        "model.body = nn.Sequential(*model.body, nn.Linear(8, 8))\n" + LOOP,
        LOOP + "    if step == 5:\n        model.append(nn.Linear(8, 8))\n",
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.layers = nn.ModuleList()\n        for i in range(3):\n"
            "            self.layers.append(nn.Linear(8, 8))\n"
        ),
    ],
)
def test_models_and_optimizers_that_are_changed_once_are_left_alone(text: str) -> None:
    assert findings(text, confidence=Confidence.LOW) == []


def test_an_exception_with_its_traceback_in_a_dict() -> None:
    text = "import sys\n" + FAILING.replace("HANDLE", "errors.append(sys.exc_info())").replace("\n    ", "\n")

    assert [item.code for item in findings(text)] == ["MP110"]


def test_a_model_of_which_a_part_is_trained() -> None:
    text = """
        net = torchvision.models.resnet18()
        opt = torch.optim.SGD(net.fc.parameters(), lr=0.1)
        for x, y in loader:
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
        """
    own = text.replace("net = torchvision.models.resnet18()", "net = Net()").replace(
        "        net = Net",
        "        class Net(nn.Module):\n            def __init__(self):\n                super().__init__()\n"
        "                self.body, self.fc = nn.Linear(8, 8), nn.Linear(8, 8)\n\n            def forward(self, x):\n"
        "                return self.fc(self.body(x))\n\n        net = Net",
    )

    setup = HEADLESS + "import torchvision\n"
    text, own = setup + textwrap.dedent(text), setup + textwrap.dedent(own)
    frozen = text.replace("opt = ", "net.requires_grad_(False)\nopt = ")

    (found,) = findings(text, setup=False)
    assert (found.code, found.remedy, found.source) == ("MP203", "freeze", "    loss = F.cross_entropy(net(x), y)")
    (part,) = findings(own, setup=False)
    assert (part.code, part.remedy, part.source) == (found.code, found.remedy, found.source)
    assert "`net.body.requires_grad_(False)`" in part.message
    for whole in (own.replace("net.fc.parameters()", "net.parameters()"), own.replace("body(x)", "body(x).detach()")):
        assert findings(whole, setup=False, confidence=Confidence.LOW) == []
    assert findings(frozen, setup=False, confidence=Confidence.LOW) == []


# ---- MP209, MP212 ----------------------------------------------------------------------------


def test_a_checkpoint_that_becomes_an_attribute() -> None:
    text = """
        class Trainer:
            def __init__(self):
                self.state = None

            def resume(self, file):
                self.state = torch.load(file)
                model.load_state_dict(self.state["model"])

            def fit(self):
                for x, y in loader:
                    criterion(model(x), y).backward()
                    optimizer.step()
        """
    freed = text.replace("def fit(self):\n", "def fit(self):\n                self.state = None\n")

    assert [item.code for item in findings(text)] == ["MP209"]
    assert findings(freed, confidence=Confidence.LOW) == []


UNUSED = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 8)
            self.pooler = nn.Linear(8, 8)

        def forward(self, x):
            return USED

    net = Net()
    """


def test_a_layer_that_nothing_uses() -> None:
    text = UNUSED.replace("USED", "self.body(x)")

    assert lines(text, findings(text)) == [("MP212", "self.pooler = nn.Linear(8, 8)")]


@pytest.mark.parametrize(
    "text",
    [
        UNUSED.replace("USED", "self.pooler(self.body(x))"),
        UNUSED.replace("USED", "self.body(x)") + "print(net.pooler)\n",
        UNUSED.replace("USED", "self.body(x)") + "drop(net, 'pooler.weight')\n",
        UNUSED.replace("USED", "[layer(x) for layer in self.children()]"),
        UNUSED.replace("USED", "self.body(x)").replace("net = Net()", ""),
        UNUSED.replace("USED", "self.body(x)").replace("self.pooler = nn.Linear(8, 8)", "self.drop = nn.Dropout()"),
    ],
)
def test_layers_that_may_be_used_are_left_alone(text: str) -> None:
    assert findings(text, confidence=Confidence.LOW) == []


def test_a_model_that_is_wrapped_is_trained() -> None:
    text = """
        net = nn.Sequential(nn.Linear(8, 8))
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        parallel = nn.DataParallel(net)
        for x, y in loader:
            loss = criterion(parallel(x), y)
            loss.backward()
            opt.step()
        """

    assert findings(text, setup=False, confidence=Confidence.LOW) == []


RESUMED = """
def resume(path):
    checkpoint = torch.load(path)
    model.load_state_dict(checkpoint["model"])
    return RESULT

def main():
    started = resume("last.pt")
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_a_checkpoint_that_a_caller_keeps() -> None:
    kept = RESUMED.replace("RESULT", "checkpoint")
    assert lines(kept, findings(kept)) == [("MP209", "checkpoint = torch.load(path)")]
    assert findings(RESUMED.replace("RESULT", "checkpoint['epoch']")) == []
    assert findings(kept.replace("started = resume", "resume")) == []


LAYERS = """
class Net(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        BODY

    def forward(self, x):
        return self.layers[0](x)
"""
HIDDEN_LAYERS = {
    "by key": "self.layers = {}\n        for size in sizes:\n            self.layers[size] = nn.Linear(size, size)",
    "added": "self.layers = []\n        for size in sizes:\n            self.layers += [nn.Linear(size, size), nn.ReLU()]",
    "extended": "self.layers = []\n        for size in sizes:\n            self.layers.extend([nn.Linear(size, size)])",
    "made under a name": "layers = []\n        for size in sizes:\n            layers.append(nn.Linear(size, size))\n"
    "        self.layers = layers",
}


@pytest.mark.parametrize("name", HIDDEN_LAYERS)
def test_layers_that_come_into_a_plain_container(name: str) -> None:
    text = LAYERS.replace("BODY", HIDDEN_LAYERS[name])
    assert [item.code for item in findings(text)] == ["MP403"]


PICKED = """
class Net(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.choices = {"small": nn.Linear(8, 8), "large": nn.Linear(8, 80)}
        self.body = self.pick(name)

    def pick(self, name):
        RETURN

    def forward(self, x):
        return self.body(x)
"""


@pytest.mark.parametrize(
    "picked",
    ["return self.choices[name]", "found = self.choices[name]\n        return found", "self.body = self.choices[name]"],
)
def test_layers_to_choose_from(picked: str) -> None:
    assert findings(PICKED.replace("RETURN", picked)) == []
    assert [item.code for item in findings(PICKED.replace("RETURN", "return nn.Linear(8, 8)"))] == ["MP403"]


def test_layers_of_a_name_that_become_a_module() -> None:
    body = HIDDEN_LAYERS["made under a name"] + "\n        self.all = nn.Sequential(*layers)"
    assert findings(LAYERS.replace("BODY", body)) == []
    assert findings(LAYERS.replace("BODY", HIDDEN_LAYERS["by key"].replace("= {}", "= nn.ModuleDict()"))) == []


BY_HAND = """
for x, y in loader:
    loss = criterion(model(x), y)
    for p in model.parameters():
        if p.grad is not None:
            CLEAR
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize("clear", ["p.grad.zero_()", "p.grad.data.zero_()"])
def test_gradients_filled_with_zeros_by_hand(clear: str) -> None:
    text = BY_HAND.replace("CLEAR", clear)
    assert lines(text, findings(text)) == [("MP207", clear)]
    assert findings(text.replace(clear, "p.grad = None")) == []
    assert findings(text.replace("model.parameters()", "others")) == []


JOINED = """
def predict(model, loader):
    model.eval()
    found = torch.empty(0, 10, device="cuda")
    with torch.no_grad():
        for x, y in loader:
            found = torch.cat([found, model(x.cuda())HOST])
    return found.argmax(1)

predict(model, loader)
"""


def test_outputs_joined_batch_by_batch() -> None:
    text = JOINED.replace("HOST", "")
    assert [(item.code, item.remedy) for item in findings(text)] == [("MP205", "move_to_cpu")]
    assert findings(JOINED.replace("HOST", ".cpu()").replace(', device="cuda"', "")) == []


ADDED = """
net = nn.Linear(8, 8)
optimizer = torch.optim.Adam(net.parameters())
for number, (x, y) in enumerate(loader):
    setattr(net, NAME, nn.Linear(8, 8).to(device))
    loss = criterion(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_layers_set_under_new_names() -> None:
    assert [item.code for item in findings(ADDED.replace("NAME", 'f"head{number}"'))] == ["MP115"]
    assert findings(ADDED.replace("NAME", '"head"')) == []


def test_a_collate_object_that_stores_batches() -> None:
    text = """
        class Collate:
            def __init__(self):
                self.batches = []

            def __call__(self, items):
                batch = torch.stack(items)
                self.batches.append(batch)
                return batch

        batches = DataLoader(data, collate_fn=Collate())
        """
    assert lines(text, findings(text)) == [("MP117", "self.batches.append(batch)")]
    assert findings(text.replace("collate_fn=Collate()", "batch_size=2")) == []


def test_an_exception_in_a_dictionary_of_facts() -> None:
    kept = FAILING.replace("HANDLE", "errors.append({'number': 1, 'error': error})").replace("\n    ", "\n")
    assert [item.code for item in findings(kept)] == ["MP110"]
    told = FAILING.replace("HANDLE", "errors.append(dict(number=1, error=str(error)))").replace("\n    ", "\n")
    assert findings(told) == []


MADE_ELSEWHERE = {
    "by a method": (
        "self.layers = []\n        self.build(sizes)",
        "def build(self, sizes):\n        for size in sizes:\n            self.layers.append(nn.Linear(size, size))",
    ),
    "by a function": ("self.layers = made(sizes)", "def other(self):\n        return 1"),
}


@pytest.mark.parametrize("name", MADE_ELSEWHERE)
def test_layers_that_are_made_elsewhere(name: str) -> None:
    body, method = MADE_ELSEWHERE[name]
    made = "def made(sizes):\n    return [nn.Linear(size, size) for size in sizes]\n\n"
    text = made + LAYERS.replace("BODY", f"{body}\n\n    {method}")
    assert [item.code for item in findings(text)] == ["MP403"]
    assert findings(text.replace("nn.Linear(size, size)", "nn.ReLU()")) == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("optimizer.param_groups.append({'params': [offset], 'lr': 0.1})", "MP114"),
        ("model.register_parameter(f'offset{number}', nn.Parameter(torch.zeros(8)))", "MP115"),
    ],
)
def test_other_ways_to_grow(line: str, code: str) -> None:
    text = (
        "for number, (x, y) in enumerate(loader):\n    offset = nn.Parameter(torch.zeros(8))\n"
        f"    {line}\n    criterion(model(x) + offset, y).backward()\n    optimizer.step()\n"
    )
    assert lines(text, findings(text)) == [(code, line)]


def test_features_of_a_network_of_torchvision() -> None:
    text = HEADLESS + (
        "import torchvision\nnet, vgg = nn.Linear(8, 8), torchvision.models.vgg16().features\n"
        "opt = torch.optim.SGD(net.parameters(), lr=0.1)\nfor x, y in loader:\n"
        "    target = vgg(y)\n    loss = F.mse_loss(vgg(net(x)), target)\n    loss.backward()\n    opt.step()\n"
    )
    assert lines(text, findings(text, setup=False), setup=False) == [("MP203", "target = vgg(y)")]
