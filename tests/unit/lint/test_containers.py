"""What containers keep: MP102, MP103, MP107, MP113, MP116, MP117, MP205."""

from __future__ import annotations

import pytest

from memprof.lint import Confidence
from tests.unit.lint.programs import findings, lines

STEP = """
for i, (x, y) in enumerate(loader):
    x, y = x.to(device), y.to(device)
    output = model(x)
    loss = criterion(output, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    """

WITH_GRAPH = {
    "list": ("kept = []", "kept.append(loss)"),
    "output": ("kept = []", "kept.append(output)"),
    "tuple": ("kept = []", "kept.append((i, loss))"),
    "dict of lists": ("kept = {'loss': []}", "kept['loss'].append(loss)"),
    "defaultdict": ("kept = defaultdict(list)", "kept['loss'].append(loss)"),
    "setdefault": ("kept = {}", "kept.setdefault('loss', []).append(loss)"),
    "added list": ("kept = []", "kept += [loss]"),
    "sum of lists": ("kept = []", "kept = kept + [loss]"),
    "extended": ("kept = []", "kept.extend([loss, output])"),
    "by step": ("kept = {}", "kept[i] = loss"),
    "deque without limit": ("kept = deque()", "kept.append(loss)"),
}


@pytest.mark.parametrize("name", WITH_GRAPH)
def test_containers_keep_graphs(name: str) -> None:
    setup, line = WITH_GRAPH[name]
    text = setup + STEP + line + "\n"

    assert lines(text, findings(text)) == [("MP102", line)]


def test_an_object_made_outside_keeps_graphs() -> None:
    text = """
        class History:
            def __init__(self):
                self.losses = []

            def on_step(self, loss):
                self.losses.append(loss)

        history = History()
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            history.on_step(loss)
        """

    assert lines(text, findings(text)) == [("MP102", "self.losses.append(loss)")]


def test_a_list_that_is_passed_in_keeps_graphs() -> None:
    text = """
        def step(x, y, history):
            loss = criterion(model(x), y)
            loss.backward()
            history.append(loss)

        history = []
        for x, y in loader:
            step(x, y, history)
        """

    assert lines(text, findings(text)) == [("MP102", "history.append(loss)")]


CLEAN = {
    "item": ("kept = []", "kept.append(loss.item())"),
    "host": ("kept = []", "kept.append(output.detach().cpu())"),
    "bounded": ("kept = deque(maxlen=100)", "kept.append(loss)"),
    "cleared": ("kept = []", "kept.append(loss)\n    if i % 10 == 0:\n        print(sum(kept))\n        kept.clear()"),
    "trimmed": ("kept = []", "kept.append(output.detach())\n    kept = kept[-100:]"),
    "popped": ("kept = []", "kept.append(output.detach())\n    if len(kept) > 8:\n        kept.pop(0)"),
    "of one iteration": ("", "kept = []\n    kept.append(loss)"),
    "one key": ("kept = {}", "kept['loss'] = loss"),
    "a tensor that is written to": ("kept = torch.zeros(10)", "kept[i] = loss.item()"),
    "numbers": ("kept = []", "kept.append(i)"),
}


@pytest.mark.parametrize("name", CLEAN)
def test_other_containers_are_left_alone(name: str) -> None:
    setup, line = CLEAN[name]

    assert findings(setup + STEP + line + "\n", confidence=Confidence.LOW) == []


def test_what_is_differentiated_later_is_left_alone() -> None:
    text = """
        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 2)
                self.saved = []

            def forward(self, x):
                return self.layer(x)

        policy = Policy()

        def act(state):
            action = policy(state)
            policy.saved.append(action.max())
            return action.argmax()

        def finish():
            loss = torch.stack(policy.saved).sum()
            loss.backward()
            optimizer.step()
            del policy.saved[:]

        for episode in range(10):
            for t in range(100):
                act(state)
            finish()
        """

    assert findings(text, confidence=Confidence.LOW) == []


def test_outputs_over_time_are_left_alone() -> None:
    text = """
        for x, y in loader:
            outputs = []
            for t in range(x.size(1)):
                outputs.append(model(x[:, t]))
            loss = criterion(torch.stack(outputs), y)
            loss.backward()
            optimizer.step()
        """

    assert findings(text, confidence=Confidence.LOW) == []


# ---- without a graph -------------------------------------------------------------------------


def test_activations_without_a_graph_pile_up() -> None:
    text = "kept = []" + STEP + "kept.append(output.detach())\n"
    (finding,) = findings(text)

    assert (finding.code, finding.remedy, finding.confidence) == ("MP103", "move_to_cpu", Confidence.MEDIUM)


EVALUATION = """
    @torch.no_grad()
    def evaluate(loader):
        outputs = []
        for x, y in loader:
            outputs.append(KEPT)
        return torch.cat(outputs)
    """


def test_outputs_of_a_whole_data_set_are_low() -> None:
    (finding,) = findings(EVALUATION.replace("KEPT", "model(x)"), confidence=Confidence.LOW)

    assert (finding.code, finding.confidence) == ("MP205", Confidence.LOW)


@pytest.mark.parametrize("kept", ["model(x).cpu()", "model(x).argmax(1)", "model(x).argmax(1) == y"])
def test_outputs_on_the_host_or_reduced_are_left_alone(kept: str) -> None:
    assert findings(EVALUATION.replace("KEPT", kept), confidence=Confidence.LOW) == []


# ---- hooks -----------------------------------------------------------------------------------

HOOK = """
    kept = []

    def hook(module, inputs, output):
        kept.append(VALUE)

    model[0].register_forward_hook(hook)
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    """


def test_a_hook_stores_activations() -> None:
    text = HOOK.replace("VALUE", "output")

    assert lines(text, findings(text)) == [("MP107", "kept.append(output)")]


def test_a_hook_of_a_factory_and_of_a_partial() -> None:
    factory = """
        kept = defaultdict(list)

        def make(name):
            def hook(module, inputs, output):
                kept[name].append(output)

            return hook

        for name, layer in model.named_modules():
            layer.register_forward_hook(make(name))
        """
    partial = """
        kept = defaultdict(list)

        def hook(name, module, inputs, output):
            kept[name].append(output)

        for name, layer in model.named_modules():
            layer.register_forward_hook(functools.partial(hook, name))
        """

    assert [code for code, _ in lines(factory, findings(factory))] == ["MP107"]
    assert [code for code, _ in lines(partial, findings(partial))] == ["MP107"]


@pytest.mark.parametrize("value", ["output.std().item()", "output.detach().cpu()", "tuple(output.shape)"])
def test_a_hook_that_stores_numbers_is_left_alone(value: str) -> None:
    assert findings(HOOK.replace("VALUE", value), confidence=Confidence.LOW) == []


def test_a_hook_that_is_removed_is_low() -> None:
    text = """
        kept = []

        def hook(module, inputs, output):
            kept.append(output)

        def probe(x):
            handle = model[0].register_forward_hook(hook)
            model(x)
            handle.remove()
        """

    assert findings(text) == []


# ---- weights ---------------------------------------------------------------------------------

EPOCHS = """
    kept = []
    best = None
    for epoch in range(10):
        for x, y in loader:
            criterion(model(x), y).backward()
            optimizer.step()
        STORE
    """


@pytest.mark.parametrize(
    "store",
    [
        "kept.append(copy.deepcopy(model.state_dict()))",
        "kept.append(copy.deepcopy(model))",
        "kept.append({k: v.clone() for k, v in model.state_dict().items()})",
    ],
)
def test_copies_of_the_weights_pile_up(store: str) -> None:
    text = EPOCHS.replace("STORE", store)

    assert lines(text, findings(text)) == [("MP113", store)]


@pytest.mark.parametrize(
    "store",
    [
        "best = copy.deepcopy(model.state_dict())",
        "kept.append({k: v.cpu().clone() for k, v in model.state_dict().items()})",
        "torch.save(model.state_dict(), 'weights.pt')",
    ],
)
def test_one_copy_or_one_elsewhere_is_left_alone(store: str) -> None:
    assert findings(EPOCHS.replace("STORE", store), confidence=Confidence.LOW) == []


# ---- queues, data sets -----------------------------------------------------------------------


def test_a_queue_without_a_limit() -> None:
    text = "kept = queue.Queue()" + STEP + "kept.put(loss)\n"

    assert lines(text, findings(text)) == [("MP116", "kept.put(loss)")]
    assert findings("kept = queue.Queue(maxsize=4)" + STEP + "kept.put(loss)\n", confidence=Confidence.LOW) == []


def test_queues_and_buffers_of_other_packages_are_left_alone() -> None:
    text = """
        def work(updates, buffer):
            for x, y in loader:
                loss = criterion(model(x), y)
                loss.backward()
                updates.put([p.grad for p in model.parameters()])
                buffer.push(loss)
        """

    assert findings(text, confidence=Confidence.LOW) == []


DATASET = """
    class Images(Dataset):
        def __init__(self):
            self.seen = []
            self.cache = {}

        def __getitem__(self, index):
            image = torch.randn(3, 32, 32)
            STORE
            return image
    """


def test_a_data_set_that_remembers_items() -> None:
    text = DATASET.replace("STORE", "self.seen.append(image)")

    assert lines(text, findings(text)) == [("MP117", "self.seen.append(image)")]
    assert findings(DATASET.replace("STORE", "self.cache[index] = image"), confidence=Confidence.LOW) == []


def test_a_collate_function_that_remembers_batches() -> None:
    text = """
        seen = []

        def collate(batch):
            seen.append(batch)
            return torch.stack(batch)

        batches = DataLoader(data, collate_fn=collate)
        """
    local = text.replace("seen.append(batch)\n", "seen = []\n            seen.append(batch)\n")

    assert lines(text, findings(text)) == [("MP117", "seen.append(batch)")]
    assert findings(local, confidence=Confidence.LOW) == []


def test_a_lambda_as_a_hook() -> None:
    text = """
        kept = {"a": []}
        model[0].register_forward_hook(lambda module, inputs, output: kept["a"].append(output))
        model[1].register_forward_hook(lambda module, inputs, output: kept["a"].append(output.mean().item()))
        """

    assert [(item.code, item.line) for item in findings(text)] == [("MP107", 18)]


def test_gradients_kept_with_their_graph() -> None:
    text = "kept = []" + STEP + "(g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)\n"
    text += "    (g.norm() + loss).backward()\n    kept.append(g)\n"

    assert lines(text, findings(text)) == [("MP106", "kept.append(g)")]


def test_a_key_that_the_caller_counts() -> None:
    text = """
        kept = {}

        def remember(step):
            kept[step] = copy.deepcopy(model.state_dict())

        for step in range(100):
            criterion(model(x), y).backward()
            optimizer.step()
            remember(step)
        """
    named = text.replace("remember(step)\n        ", "remember('last')\n        ")

    assert [code for code, _ in lines(text, findings(text))] == ["MP113"]
    assert "remember('last')" in named
    assert findings(named, confidence=Confidence.LOW) == []


def test_what_is_emptied_after_an_epoch_is_low() -> None:
    text = """
        class Trainer:
            def __init__(self):
                self.losses = []

            def step(self, x, y):
                loss = criterion(model(x), y)
                loss.backward()
                self.losses.append(loss)

            def epoch(self):
                for x, y in loader:
                    self.step(x, y)
                self.losses.clear()
        """

    assert findings(text) == []
    assert [item.code for item in findings(text, confidence=Confidence.LOW)] == ["MP102"]


MEMOISED = """
def memoise(function):
    store = {}

    def wrapper(x):
        if KEY not in store:
            store[KEY] = function(x)
        return store[KEY]

    return wrapper

@memoise
def doubled(x):
    return x * 2

for x, y in loader:
    loss = criterion(model(doubled(x.to(device))), y)
    loss.backward()
    optimizer.step()
"""


def test_a_decorator_that_caches_by_tensor() -> None:
    by_tensor = MEMOISED.replace("KEY", "x")
    assert lines(by_tensor, findings(by_tensor)) == [("MP111", "store[x] = function(x)")]
    assert findings(MEMOISED.replace("KEY", "len(x)")) == []


STEPS = """
for number, (x, y) in enumerate(loader):
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("losses = [None] * 100\n", "losses[number] = loss"),
        ("import heapq\nhardest = []\n", "heapq.heappush(hardest, (-loss, number))"),
    ],
)
def test_other_ways_to_store(before: str, line: str) -> None:
    text = f"{before}{STEPS}    {line}\n"
    assert lines(text, findings(text)) == [("MP102", line)]


def test_stores_that_stay_short() -> None:
    assert findings(f"losses = [None] * 4\n{STEPS}    losses[0] = loss\n") == []
    assert (
        findings(
            f"import heapq\nhardest = []\n{STEPS}    heapq.heappush(hardest, (-loss, number))\n    heapq.heappop(hardest)\n"
        )
        == []
    )


GATHERED = """
@torch.no_grad()
def collect(model, loader):
    outputs, labels = [], []
    for x, y in loader:
        outputs.append(model(x.to(device)))
        labels.append(y)
    return outputs, labels

def evaluate(model, loader):
    model.eval()
    found, labels = collect(model, loader)
    scores = torch.cat(found)
    return (scores.argmax(1).cpu() == torch.cat(labels)).float().mean()

evaluate(model, loader)
"""


def test_outputs_that_a_caller_joins() -> None:
    assert lines(GATHERED, findings(GATHERED)) == [("MP205", "scores = torch.cat(found)")]
    assert findings(GATHERED.replace("model(x.to(device))", "model(x.to(device)).cpu()")) == []


def test_outputs_joined_in_a_comprehension() -> None:
    text = """
        @torch.no_grad()
        def evaluate(model, loader):
            model.eval()
            scores = torch.cat([model(x.to(device)) for x, _ in loader])
            return scores.argmax(1)

        evaluate(model, loader)
        """
    assert [item.code for item in findings(text)] == ["MP205"]
    assert findings(text.replace("model(x.to(device))", "model(x.to(device)).argmax(1).cpu()")) == []


def test_a_queue_without_graphs_is_for_somebody_who_takes_it_out() -> None:
    assert findings(f"waiting = queue.Queue()\n{STEPS}    waiting.put(loss.detach())\n") == []
