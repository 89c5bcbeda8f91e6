"""Each family of edits, on small sources."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from memprof.advise.edits import RECIPES, recipes_for
from memprof.advise.edits.anomaly import switch_off
from memprof.advise.edits.changes import CannotEdit, apply
from memprof.advise.edits.plan import EditError, candidates_of, edit
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile
from memprof.detect.finding import REMEDY_SLUGS, Finding, Kind, RelatedLocation, Remedy, Severity
from memprof.model.memory import Source
from memprof.record.events import Location


def finding(
    file: Path,
    line: int,
    code: str,
    slug: str,
    *,
    made: int | None = None,
    holder: str = "",
    text: str = "",
    device: str = "cuda:0",
) -> Finding:
    related = () if made is None else (RelatedLocation("allocated", Location(str(file), made, "")),)
    return Finding(
        code=code,
        name="",
        kind=Kind.LEAK,
        severity=Severity.WARNING,
        location=Location(str(file), line, ""),
        device=device,
        bytes=None,
        bytes_per_iteration=None,
        source=Source.MEASURED,
        message="",
        holder=holder,
        remedies=(Remedy(slug, text),),
        related=related,
    )


def marked(text: str) -> tuple[str, int, int | None]:
    """A source without its marks `#<` (the line of the finding) and `#>` (the line that made the tensors)."""
    source = dedent(text)
    lines = source.splitlines()
    line = next(row for row, code in enumerate(lines, 1) if "#<" in code)
    made = next((row for row, code in enumerate(lines, 1) if "#>" in code), None)
    return source.replace("  #<", "").replace("  #>", ""), line, made


def edited(
    folder: Path, text: str, code: str, slug: str, *, recipe: int = 0, holder: str = "", remedy: str = ""
) -> list[str]:
    """The lines of the diff that are new or gone."""
    source, line, made = marked(text)
    file = folder / "train.py"
    file.write_text(source, encoding="utf-8")
    candidate = candidates_of(finding(file, line, code, slug, made=made, holder=holder, text=remedy))[recipe]
    files = edit([candidate]).files
    assert list(files) == [str(file.resolve())]
    return [row for row in files[str(file.resolve())].diff("train.py")[2:] if row[0] in "+-"]


def refusal(folder: Path, text: str, code: str, slug: str, **options: object) -> str:
    with pytest.raises(CannotEdit) as caught:
        edited(folder, text, code, slug, **options)  # type: ignore[arg-type]
    return str(caught.value)


# ---- values that are kept --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("total += loss", "total += loss.item()"),
        ("self.total += loss * 0.5", "self.total += loss.item() * 0.5"),
        ("total += loss / len(loader)", "total += loss.item() / len(loader)"),
        ("total += loss * images.size(0)  # a sum", "total += loss.item() * images.size(0)  # a sum"),
        ("total += a * b", "total += (a * b).item()"),
        ("total += (a * b)", "total += (a * b).item()"),
        ("total = total + loss", "total = total + loss.item()"),
        ("total = loss + total", "total = loss.item() + total"),
        ("ema = 0.9 * ema + 0.1 * loss", "ema = (0.9 * ema + 0.1 * loss).item()"),
        ("m['mae'] += F.l1_loss(a, b)", "m['mae'] += F.l1_loss(a, b).item()"),
        ("history.append(loss)", "history.append(loss.item())"),
        ("history['loss'].append(-loss)", "history['loss'].append((-loss).item())"),
        ("d.setdefault(key, []).append(loss)", "d.setdefault(key, []).append(loss.item())"),
        ("d[key] = loss", "d[key] = loss.item()"),
        ("x: float = loss", "x: float = loss.item()"),
        ("history.append((step, loss))", "history.append((step, loss.item()))"),
        ("history.append({'step': step, 'loss': loss})", "history.append({'step': step, 'loss': loss.item()})"),
        ("history.append(Record(step, loss=loss))", "history.append(Record(step, loss=loss.item()))"),
        ("history.insert(0, loss)", "history.insert(0, loss.item())"),
        ("meter.update(loss, n)", "meter.update(loss.item(), n)"),
    ],
)
def test_a_number_is_stored(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, f"loss = f(x)  #>\n{before}  #<\n", "MP101", "item") == [f"-{before}", f"+{after}"]


def test_what_comes_in_as_an_argument_may_be_a_number_already(tmp_path: Path) -> None:
    text = """
    class Meter:
        def update(self, val, n=1):
            self.sum += val * n  #<
    """
    assert edited(tmp_path, text, "MP101", "item")[1].strip("+ ") == "self.sum += float(val * n)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("total += loss", "total += loss.detach()"),
        ("w = d * w + (1 - d) * p", "w = (d * w + (1 - d) * p).detach()"),
        ("features[name] = out", "features[name] = out.detach()"),
        ("losses = [f(x) for x in xs]", "losses = [f(x).detach() for x in xs]"),
        ("memory.append((obs, q, action))", "memory.append((obs, q.detach(), action))"),
    ],
)
def test_a_copy_without_history_is_stored(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, f"q = f(x)  #>\n{before}  #<\n", "MP102", "detach") == [f"-{before}", f"+{after}"]


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("MP102", "outs.append(q)", "outs.append(q.detach().cpu())"),
        ("MP103", "outs.append(q.detach())", "outs.append(q.detach().cpu())"),
        (
            "MP103",
            "kept.append(copy.deepcopy(model.state_dict()))",
            'kept.append({name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()})',
        ),
    ],
)
def test_a_copy_on_the_host_is_stored(tmp_path: Path, code: str, before: str, after: str) -> None:
    assert edited(tmp_path, f"q = f(x)  #>\n{before}  #<\n", code, "move_to_cpu") == [f"-{before}", f"+{after}"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("a, b = f(x)", "several names"),
        ("history.append(loss.item())", "detached already"),
        ("history.append((a, b))", "not clear which"),
        ("log(a, b)", "not clear which"),
        ("history.append(1)", "a constant"),
        ("return loss", "stores nothing"),
        ("for x in history: pass", "head of a block"),
    ],
)
def test_what_is_not_clear_is_left_alone(tmp_path: Path, statement: str, reason: str) -> None:
    text = f"def f():\n    loss = g()  #>\n    {statement}  #<\n"
    if statement.startswith("for"):
        text = text.replace(": pass  #<", ":  #<\n        pass")
    assert reason in refusal(tmp_path, text, "MP102", "item")


def test_what_is_on_the_host_is_not_moved_there(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("outs.append(q)\n", encoding="utf-8")
    with pytest.raises(EditError, match="on the host already"):
        edit(candidates_of(finding(file, 1, "MP103", "move_to_cpu", device="cpu"))[:1])


def test_only_tensors_are_detached_where_other_things_are_stored_too(tmp_path: Path) -> None:
    text = """
    import torch

    def track(name, value):
        history.setdefault(name, []).append(value)  #<
    """
    for slug, suffix in (("detach", ".detach()"), ("move_to_cpu", ".detach().cpu()")):
        assert edited(tmp_path, text, "MP102", slug, recipe=1)[1].strip("+ ") == (
            f"history.setdefault(name, []).append(value{suffix} if isinstance(value, torch.Tensor) else value)"
        )


def test_the_tensors_of_a_dictionary_are_detached(tmp_path: Path) -> None:
    rows = edited(tmp_path, "import torch\nouts.append(step(x))  #<\n", "MP102", "detach", recipe=2)
    assert rows[1] == (
        "+outs.append({name: value.detach() if isinstance(value, torch.Tensor) else value "
        "for name, value in step(x).items()})"
    )


def test_what_nobody_needs_is_not_stored(tmp_path: Path) -> None:
    text = """
    def collate(batch):
        x = stack(batch)
        seen.append(x)  #<
        return x
    """
    assert edited(tmp_path, text, "MP117", "del") == ["-    seen.append(x)"]
    for statement in ("seen.append(stack(batch))", "x = seen.setdefault(0, x)"):
        assert "more than store" in refusal(tmp_path, f"a = 1\n{statement}  #<\n", "MP117", "del")


def test_outputs_and_labels_move_together(tmp_path: Path) -> None:
    text = """
    for x, y in loader:
        out = model(x)
        outs.append(out)  #<
        labels.append(y)
        count += len(y)
    """
    rows = edited(tmp_path, text, "MP103", "move_to_cpu", recipe=2)
    assert [row[1:].strip() for row in rows if row[0] == "+"] == ["outs.append(out.cpu())", "labels.append(y.cpu())"]
    assert "nothing beside it" in refusal(tmp_path, "outs.append(out)  #<", "MP103", "move_to_cpu", recipe=2)


def test_only_the_expression_changes_in_a_call_over_several_lines(tmp_path: Path) -> None:
    text = """
    loss = f()  #>
    history.append(  #<
        loss,   # the loss
    )
    """
    assert edited(tmp_path, text, "MP102", "item") == ["-    loss,   # the loss", "+    loss.item(),   # the loss"]


# ---- autograd off ----------------------------------------------------------------------------


def test_a_function_that_only_evaluates_gets_a_decorator(tmp_path: Path) -> None:
    text = """
    import torch

    class Trainer:
        @staticmethod
        def validate(model, loader):
            for x in loader:
                out = model(x)  #<
    """
    assert edited(tmp_path, text, "MP201", "no_grad") == ["+    @torch.no_grad()"]


def test_a_loop_that_only_evaluates_goes_into_a_block(tmp_path: Path) -> None:
    text = '''
    import torch as t

    for epoch in range(3):
        for x in loader:
            model(x).sum().backward()
        # validation
        for x in loader:
            out = model(x)  #<

            print("""
    as it is""")
    '''
    assert edited(tmp_path, text, "MP201", "no_grad") == [
        "-    for x in loader:",
        "-        out = model(x)",
        "+    with t.no_grad():",
        "+        for x in loader:",
        "+            out = model(x)",
        '-        print("""',
        '+            print("""',
    ]


def test_a_single_statement_beside_a_backward_goes_into_a_block(tmp_path: Path) -> None:
    text = """
    import torch

    def step():
        q = policy(obs)  #<
        loss().backward()
    """
    assert edited(tmp_path, text, "MP201", "no_grad") == [
        "-    q = policy(obs)",
        "+    with torch.no_grad():",
        "+        q = policy(obs)",
    ]


def test_a_function_for_both_asks_the_model(tmp_path: Path) -> None:
    text = """
    import torch

    def run(model, loader):
        out = model(x)  #<
        return out
    """
    assert edited(tmp_path, text, "MP201", "no_grad", recipe=2)[1:] == [
        "+    with torch.set_grad_enabled(model.training):",
        "+        out = model(x)",
    ]


def test_torch_is_imported_where_it_is_not(tmp_path: Path) -> None:
    text = '''
    """A script."""
    from __future__ import annotations

    from torch import nn

    def validate(model):
        return model(1)  #<
    '''
    assert edited(tmp_path, text, "MP201", "no_grad") == ["+import torch", "+@torch.no_grad()"]


@pytest.mark.parametrize(
    ("head", "decorator"),
    [
        ("try:\n    import torch\nexcept ImportError:\n    raise SystemExit(1)", "+@torch.no_grad()"),
        ("if True:\n    import torch as t", "+@t.no_grad()"),
        ("import os, torch.nn", "+@torch.no_grad()"),
    ],
)
def test_an_import_is_never_made_twice(tmp_path: Path, head: str, decorator: str) -> None:
    text = f"{head}\n\ndef validate(model):\n    return model(1)  #<\n"
    assert edited(tmp_path, text, "MP201", "no_grad") == [decorator]


def test_an_import_within_a_function_is_none_for_another(tmp_path: Path) -> None:
    text = "def load():\n    import torch\n\ndef validate(model):\n    return model(1)  #<\n"
    assert edited(tmp_path, text, "MP201", "no_grad") == ["+import torch", "+@torch.no_grad()"]


def test_what_is_under_no_grad_needs_no_edit(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text("import torch\n@torch.no_grad()\ndef f(m):\n    return m(1)\n", encoding="utf-8")
    assert not edit(candidates_of(finding(file, 4, "MP201", "no_grad"))[:1]).files


def test_a_frozen_part_inside_a_forward_gets_a_block_of_its_own(tmp_path: Path) -> None:
    text = """
    import torch

    class Model(torch.nn.Module):
        def forward(self, x):
            features = self.backbone(x)  #<
            return self.head(features)
    """
    assert edited(tmp_path, text, "MP203", "no_grad") == [
        "-        features = self.backbone(x)",
        "+        with torch.no_grad():",
        "+            features = self.backbone(x)",
    ]


# ---- generators, contexts, modules, caches ---------------------------------------------------


def test_the_input_of_the_discriminator_is_known_by_the_line_that_made_it(tmp_path: Path) -> None:
    text = """
    fake = netG(noise)  #>
    verdict = netD(fake)  #<
    loss = bce(verdict, zeros)
    """
    assert edited(tmp_path, text, "MP204", "detach")[1] == "+verdict = netD(fake.detach())"


@pytest.mark.parametrize("mark", ["made", "used"])
def test_the_input_of_the_discriminator_is_cut_off(tmp_path: Path, mark: str) -> None:
    text = """
    for real in loader:
        fake = netG(noise)  #made
        loss = bce(netD(real), ones) + bce(netD(fake), zeros)  #used
        loss.backward()
        loss = bce(netD(fake), ones)
    """
    text = text.replace(f"#{mark}", "#<").replace("  #made", "").replace("  #used", "")
    assert edited(tmp_path, text, "MP204", "detach")[1].strip("+ ") == (
        "loss = bce(netD(real), ones) + bce(netD(fake.detach()), zeros)"
    )


FUNCTION = """
class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        {forward}
        return result

    @staticmethod
    def backward(ctx, grad):
        {backward}
"""


@pytest.mark.parametrize(
    ("forward", "backward", "new"),
    [
        (
            "result = x.exp()\n        ctx.result = result  #<",
            "return grad * ctx.result",
            ["ctx.save_for_backward(result)", "(result,) = ctx.saved_tensors", "return grad * result"],
        ),
        (
            "ctx.value = x.exp()  #<\n        result = ctx.value * scale",
            "return grad * ctx.value",
            [
                "value = x.exp()",
                "ctx.save_for_backward(value)",
                "result = value * scale",
                "(value,) = ctx.saved_tensors",
                "return grad * value",
            ],
        ),
        (
            "ctx.x = x  #<\n        result = x.exp()",
            "x = ctx.x\n        return grad * x.exp()",
            ["ctx.save_for_backward(x)", "(x,) = ctx.saved_tensors"],
        ),
        (
            "ctx.save_for_backward(scale)\n        ctx.x = x  #<\n        result = x * scale",
            "(scale,) = ctx.saved_tensors\n        return grad * ctx.x * scale",
            ["ctx.save_for_backward(scale, x)", "scale, x = ctx.saved_tensors", "return grad * x * scale"],
        ),
        (
            "ctx.kept = (x, scale)  #<\n        result = x * scale",
            "x, scale = ctx.kept\n        return grad * x * scale",
            ["ctx.save_for_backward(x, scale)", "x, scale = ctx.saved_tensors"],
        ),
    ],
)
def test_a_tensor_on_the_context_is_saved_for_backward(
    tmp_path: Path, forward: str, backward: str, new: list[str]
) -> None:
    rows = edited(tmp_path, FUNCTION.format(forward=forward, backward=backward), "MP108", "save_for_backward")
    assert [row[1:].strip() for row in rows if row.startswith("+")] == new


@pytest.mark.parametrize(
    ("forward", "backward", "reason"),
    [
        ("ctx.grad = x  #<", "return ctx.grad * grad", "`grad` is a variable of its backward"),
        ("ctx.a, ctx.b = x, scale  #<", "return ctx.a", "no assignment to one attribute"),
        ("ctx.kept = (x, scale)  #<", "return ctx.kept[0]", "read in more places"),
        ("if x: ctx.save_for_backward(x)\n        ctx.x = x  #<", "return ctx.x", "another place"),
        (
            "ctx.save_for_backward(scale)\n        ctx.x = x  #<",
            "return f(ctx.x, *ctx.saved_tensors)",
            "not clear where",
        ),
    ],
)
def test_a_context_that_is_not_plain_is_left_alone(tmp_path: Path, forward: str, backward: str, reason: str) -> None:
    text = FUNCTION.format(forward=forward, backward=backward)
    assert reason in refusal(tmp_path, text, "MP108", "save_for_backward")


@pytest.mark.parametrize(
    ("imports", "before", "after"),
    [
        ("from torch import nn", "[nn.Linear(2, 2)]", "nn.ModuleList([nn.Linear(2, 2)])"),
        ("import torch.nn as nn", "[]", "nn.ModuleList([])"),
        ("import torch", "{'a': torch.nn.Linear(2, 2)}", "torch.nn.ModuleDict({'a': torch.nn.Linear(2, 2)})"),
        (
            "import torch",
            "[torch.nn.Parameter(w) for w in ws]",
            "torch.nn.ParameterList([torch.nn.Parameter(w) for w in ws])",
        ),
    ],
)
def test_hidden_modules_are_registered(tmp_path: Path, imports: str, before: str, after: str) -> None:
    rows = edited(tmp_path, f"{imports}\nself.layers = {before}  #<\n", "MP403", "register_module")
    assert rows == [f"-self.layers = {before}", f"+self.layers = {after}"]


UNUSED = """
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 8)
            {line}
            self.head = nn.Linear(8, 1)

        def forward(self, x):
            return {result}
    """


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("self.extra = nn.Linear(8, 8)  # once used  #<", ["self.extra = nn.Linear(8, 8)  # once used"]),
        ("self.extra = Block(8)  #<", ["self.extra = Block(8)"]),
        (
            "self.extra = nn.Sequential(  #<\n                nn.Linear(8, 8),\n            )",
            ["self.extra = nn.Sequential(", "    nn.Linear(8, 8),", ")"],
        ),
    ],
)
def test_a_layer_that_nothing_uses_is_not_built(tmp_path: Path, line: str, gone: list[str]) -> None:
    text = UNUSED.format(line=line, result="self.head(self.body(x))")
    assert edited(tmp_path, text, "MP212", "drop_module") == [f"-        {row}" for row in gone]


@pytest.mark.parametrize(
    ("line", "result", "reason"),
    [
        ("self.extra = nn.Linear(8, 8)  #<", "self.extra(x)", "named elsewhere"),
        ("self.extra = nn.Linear(8, 8)  #<", "getattr(self, 'extra')(x)", "a string"),
        ("self.extra = nn.Linear(8, 8)  #<", "self.get(f'extra{x}')", "a string"),
        ("self.extra = given  #<", "x", "from elsewhere"),
        ("self.extra, self.other = pair()  #<", "x", "one layer"),
        ("self.extra = self.other = nn.Linear(8, 8)  #<", "x", "one layer"),
        ("if wide:\n                self.extra = nn.Linear(8, 8)  #<", "x", "empty"),
    ],
)
def test_a_layer_that_something_may_use_is_left(tmp_path: Path, line: str, result: str, reason: str) -> None:
    assert reason in refusal(tmp_path, UNUSED.format(line=line, result=result), "MP212", "drop_module")


GATHERED = """
    import torch

    def evaluate(model, loader):
        {start}
        for x, y in loader:
            {store}
            labels.append(y)
        {joined}  #<
        return logits, torch.cat(labels)
    """


@pytest.mark.parametrize(
    ("store", "joined", "after"),
    [
        ("kept.append(model(x))", "logits = torch.cat(kept)", ["kept.append(model(x).cpu())"]),
        ("kept += [model(x)]", "logits = torch.stack(kept, dim=0)", ["kept += [model(x).cpu()]"]),
        ("kept.extend((model(x), x))", "logits = torch.cat(kept)", ["kept.extend((model(x).cpu(), x.cpu()))"]),
        ("kept.append(a + b)", "logits = torch.cat(kept).argmax(1)", ["kept.append((a + b).cpu())"]),
    ],
)
def test_parts_are_moved_before_they_are_joined(tmp_path: Path, store: str, joined: str, after: list[str]) -> None:
    text = GATHERED.format(start="kept, labels = [], []", store=store, joined=joined)
    rows = edited(tmp_path, text, "MP205", "move_to_cpu")
    assert rows == [f"-        {store}", *(f"+        {row}" for row in after)]
    rows = edited(tmp_path, text, "MP205", "move_to_cpu", recipe=1)
    assert rows == [
        f"-        {store}",
        "-        labels.append(y)",
        f"+        {after[0]}",
        "+        labels.append(y.cpu())",
    ]


def test_an_attribute_is_filled_by_other_methods(tmp_path: Path) -> None:
    text = """
        import torch

        class Metric:
            def update(self, x):
                self.kept.append(x)

            def compute(self):
                return torch.cat(self.kept)  #<

        class Other:
            def update(self, x):
                self.kept.append(x)
        """
    rows = edited(tmp_path, text, "MP205", "move_to_cpu")
    assert rows == ["-        self.kept.append(x)", "+        self.kept.append(x.cpu())"]


@pytest.mark.parametrize(
    ("store", "joined", "reason"),
    [
        ("kept.append(x)", "logits = torch.cat([a, b])", "no list that has a name"),
        ("kept[i] = x", "logits = torch.cat(kept)", "where `kept` is added to"),
        ("kept.extend(found)", "logits = torch.cat(kept)", "any number"),
    ],
)
def test_parts_whose_store_is_not_clear_are_left(tmp_path: Path, store: str, joined: str, reason: str) -> None:
    text = GATHERED.format(start="kept, labels = [], []", store=store, joined=joined)
    assert reason in refusal(tmp_path, text, "MP205", "move_to_cpu")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("self.fc = nn.Linear(320, 50)", "self.fc = nn.Linear(500, 50)"),
        ("self.fc = torch.nn.Linear(8 * 4 * 4, out)", "self.fc = torch.nn.Linear(500, out)"),
        ("fc = nn.Linear(out_features=50, in_features=320)", "fc = nn.Linear(out_features=50, in_features=500)"),
    ],
)
def test_a_layer_gets_the_size_of_its_input(tmp_path: Path, before: str, after: str) -> None:
    text = "write `nn.Linear(500, 50)` at model.py:3"
    assert edited(tmp_path, f"{before}  #<\n", "MP402", "fix_shape", remedy=text) == [f"-{before}", f"+{after}"]


@pytest.mark.parametrize(
    ("line", "text", "reason"),
    [
        ("fc = nn.Linear(320, 50)", "pool to a fixed size before it", "more than another size"),
        ("fc = make(320, 50)", "write `nn.Linear(500, 50)`", "which layer"),
        ("fc = nn.Linear(*sizes)", "write `nn.Linear(500, 50)`", "not written there"),
    ],
)
def test_a_size_that_is_not_written_is_left_alone(tmp_path: Path, line: str, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, f"{line}  #<\n", "MP402", "fix_shape", remedy=text)


def test_a_cache_is_taken_off(tmp_path: Path) -> None:
    text = """
    @functools.lru_cache(maxsize=None)  #<
    @other
    def normalised(x):
        return x
    """
    assert edited(tmp_path, text, "MP111", "del") == ["-@functools.lru_cache(maxsize=None)"]
    assert "no function with a cache" in refusal(tmp_path, "cache[x] = y  #<", "MP111", "del")


def test_a_dictionary_that_caches_is_passed_by(tmp_path: Path) -> None:
    text = """
    def wrapped(x):
        if x not in memo:
            memo[x] = function(x)  #<
        return memo[x]
    """
    rows = edited(tmp_path, text, "MP111", "del", recipe=1)
    assert [row.strip("+- ") for row in rows] == ["memo[x] = function(x)", "return function(x)"]
    for other in ("return memo[x].clone()", "x = memo[x]"):
        reason = refusal(tmp_path, text.replace("return memo[x]", other), "MP111", "del", recipe=1)
        assert "not returned right after" in reason
    assert "under a condition" in refusal(tmp_path, "memo[x] = f(x)  #<", "MP111", "del", recipe=1)


HANDLER = """
try:
    step()
except ValueError as error:
    {body}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("failures.append(error)", "failures.append(error.with_traceback(None))"),
        ("failures.append((step, error))", "failures.append((step, error.with_traceback(None)))"),
        ("self.last = error", "self.last = error.with_traceback(None)"),
    ],
)
def test_an_exception_is_kept_without_its_frames(tmp_path: Path, before: str, after: str) -> None:
    rows = edited(tmp_path, HANDLER.format(body=f"{before}  #<"), "MP110", "del")
    assert [row[1:].strip() for row in rows] == [before, after]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("failures.append(error)  #<\n    raise", "raises again"),
        ("failures.append(str(error.args))  #<", "not clear where"),
    ],
)
def test_a_traceback_that_is_needed_stays(tmp_path: Path, body: str, reason: str) -> None:
    assert reason in refusal(tmp_path, HANDLER.format(body=body), "MP110", "del")
    assert "in no `except" in refusal(tmp_path, "failures.append(error)  #<", "MP110", "del")


# ---- hidden state ----------------------------------------------------------------------------

RNN = """
for x in loader:
    out, hidden = rnn(x, hidden)  #<
    loss = out.sum()
    loss.backward(retain_graph=True)
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("holder", "line"),
    [
        ("variable `hidden` a.py:3", "hidden = hidden.detach()"),
        ("tuple `hidden` a.py:3", "hidden = tuple(state.detach() for state in hidden)"),
        ("variable `hidden[0]` a.py:3", "hidden = tuple(state.detach() for state in hidden)"),
    ],
)
def test_a_state_is_cut_off_at_the_end_of_the_loop(tmp_path: Path, holder: str, line: str) -> None:
    assert edited(tmp_path, RNN, "MP104", "detach", holder=holder) == [
        "-    loss.backward(retain_graph=True)",
        "+    loss.backward()",
        f"+    {line}",
    ]


def test_without_a_backward_a_state_is_cut_off_after_the_call(tmp_path: Path) -> None:
    text = """
    class Stream:
        def push(self, x):
            out, self.hidden = self.model(x, self.hidden)  #<
            return out
    """
    assert edited(tmp_path, text, "MP104", "detach") == ["+        self.hidden = self.hidden.detach()"]


def test_states_that_take_turns_are_cut_off_at_once(tmp_path: Path) -> None:
    text = """
    for x in loader:
        for name in names:
            states[name] = cell(x, states[name])  #<
        loss(states).backward()
    """
    assert edited(tmp_path, text, "MP104", "detach", recipe=2) == ["+        states[name] = states[name].detach()"]


def test_the_collector_runs_in_the_training_loop(tmp_path: Path) -> None:
    text = """
    import torch

    class Step:
        def __init__(self, x):
            self.x = x  #<
            self.me = self

    for epoch in range(3):
        for x in loader:
            Step(x).loss().backward()
    """
    assert edited(tmp_path, text, "MP109", "gc") == ["+import gc", "+        gc.collect()"]
    assert "which loop" in refusal(tmp_path, "self.me = self  #<", "MP109", "gc")


# ---- names deleted ---------------------------------------------------------------------------


def test_names_are_deleted_at_the_end_of_the_loop(tmp_path: Path) -> None:
    text = """
    for x in loader:
        with torch.no_grad():
            out = model(x)  #<
        print(out.mean())
        # the end
    print("done")
    """
    assert edited(tmp_path, text, "MP202", "del", remedy="`del out` at the end") == ["+    del out"]


def test_all_that_a_turn_computes_is_deleted_where_one_name_was_not_enough(tmp_path: Path) -> None:
    text = """
    for x in loader:
        mask = net(x)  #<
        prob = mask.softmax(1)
        hits = hits + prob.sum()
        total += 1
    """
    assert edited(tmp_path, text, "MP202", "del", recipe=1, remedy="`del mask` now") == ["+    del mask, prob"]


@pytest.mark.parametrize(
    ("body", "after", "reason"),
    [
        ("out = model(x)  #<", "print(out)", "read outside"),
        ("use(out)\n    out = model(x)  #<", "", "read outside"),
        ("if x:\n        out = model(x)  #<", "", "not every turn"),
        ("out = model(x)  #<\n    if x:\n        continue\n    use(out)", "", "`continue`"),
        ("out = model(x)  #<\n    break", "", "a jump"),
    ],
)
def test_names_that_are_needed_are_not_deleted(tmp_path: Path, body: str, after: str, reason: str) -> None:
    text = f"out = None\nfor x in loader:\n    {body}\n{after}\n" if "use(out)\n    out" in body else ""
    text = text or f"for x in loader:\n    {body}\n{after}\n"
    assert reason in refusal(tmp_path, text, "MP202", "del", remedy="`del out` at the end")


# ---- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("loss.backward(retain_graph=True)", "loss.backward()"),
        ("loss.backward(g, retain_graph=True)", "loss.backward(g)"),
        ("loss.backward(retain_graph=True, inputs=w)", "loss.backward(inputs=w)"),
        ("loss.backward(g, retain_graph = True, inputs=w)", "loss.backward(g, inputs=w)"),
    ],
)
def test_an_argument_is_taken_out_with_its_comma(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, f"{before}  #<\n", "MP105", "remove_retain_graph") == [f"-{before}", f"+{after}"]


def test_a_second_derivative_that_nobody_takes_is_left_out(tmp_path: Path) -> None:
    before, after = "g = torch.autograd.grad(y, x, create_graph=True)", "g = torch.autograd.grad(y, x)"
    assert edited(tmp_path, f"{before}  #<\n", "MP106", "remove_create_graph") == [f"-{before}", f"+{after}"]


def test_gradients_are_freed(tmp_path: Path) -> None:
    assert edited(tmp_path, "opt.zero_grad(set_to_none=False)  #<\n", "MP207", "zero_grad") == [
        "-opt.zero_grad(set_to_none=False)",
        "+opt.zero_grad(set_to_none=True)",
    ]


def test_gradients_are_freed_behind_the_step(tmp_path: Path) -> None:
    text = """
    for x in loader:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    validate()  #<
    """
    asked = "`optimizer.zero_grad()` right after `optimizer.step()`"
    assert edited(tmp_path, text, "MP207", "zero_grad", recipe=1, remedy=asked) == ["+    optimizer.zero_grad()"]
    assert "not clear after which step" in refusal(tmp_path, "validate()  #<", "MP207", "zero_grad", recipe=1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("opt = torch.optim.Adam(ps, lr=0.1)", "opt = torch.optim.Adam(ps, lr=0.1, foreach=False)"),
        ("opt = AdamW(ps, foreach=True, lr=1)", "opt = AdamW(ps, foreach=False, lr=1)"),
    ],
)
def test_an_optimizer_steps_one_by_one(tmp_path: Path, before: str, after: str) -> None:
    text = f"{before}\nopt.step()  #<\n"
    assert edited(tmp_path, text, "MP213", "optimizer_foreach_off") == [f"-{before}", f"+{after}"]
    twice = f"{before}\n{before}\nopt.step()  #<\n"
    assert "which optimizer" in refusal(tmp_path, twice, "MP213", "optimizer_foreach_off")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state = torch.load(path)", 'state = torch.load(path, map_location="cpu")'),
        ("state = torch.load(path, map_location=device)", 'state = torch.load(path, map_location="cpu")'),
    ],
)
def test_a_checkpoint_is_loaded_to_the_host(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, f"{before}  #<\n", "MP209", "map_location") == [f"-{before}", f"+{after}"]


def test_a_checkpoint_goes_after_its_last_use(tmp_path: Path) -> None:
    text = """
    checkpoint = torch.load(path)  #<
    model.load_state_dict(checkpoint["model"])
    if resume:
        epoch = checkpoint["epoch"]
    for x in loader:
        step(x)
    """
    assert edited(tmp_path, text, "MP209", "del", remedy="`del checkpoint` now") == ["+del checkpoint"]
    inside = "with folder():\n    state = torch.load(path)  #<\nmodel.load(state)\nrun()\n"
    assert edited(tmp_path, inside, "MP209", "del", remedy="`del state` now") == ["+del state"]
    outside = "if resume:\n    state = torch.load(path)  #<\nprint(state)\n"
    assert "used outside the block" in refusal(tmp_path, outside, "MP209", "del", remedy="`del state` now")


@pytest.mark.parametrize(
    ("remedy", "line"),
    [
        ("`requires_grad_(False)` on `backbone`, once", "model.backbone.requires_grad_(False)"),
        ("`requires_grad_(False)` on the module called at a.py:5, once", "model.requires_grad_(False)"),
    ],
)
def test_a_module_is_frozen_before_the_loop(tmp_path: Path, remedy: str, line: str) -> None:
    text = """
    model = Model()
    for epoch in range(3):
        for x in loader:
            out = model(x)  #<
    """
    assert edited(tmp_path, text, "MP203", "freeze", remedy=remedy) == [f"+{line}"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("torch.autograd.set_detect_anomaly(True)", "torch.autograd.set_detect_anomaly(False)"),
        ("autograd.set_detect_anomaly(mode=debug)", "autograd.set_detect_anomaly(mode=False)"),
        ("context = torch.autograd.detect_anomaly()", "context = torch.autograd.set_detect_anomaly(False)"),
        ("context = detect_anomaly(check_nan=True)", "context = torch.autograd.set_detect_anomaly(False)"),
    ],
)
def test_anomaly_detection_is_switched_off(before: str, after: str) -> None:
    source = SourceFile("train.py", f"import torch\n{before}\n".encode())
    problem = Problem("MP208", "anomaly_off", "train.py", 2)
    assert apply(source, switch_off(source, problem)).text.decode() == f"import torch\n{after}\n"


# ---- files and lists -------------------------------------------------------------------------


def test_every_recipe_is_for_a_remedy_that_exists() -> None:
    assert {recipe.slug for recipe in RECIPES} <= REMEDY_SLUGS | {"anomaly_off"}
    assert all(recipe.changes_results for recipe in recipes_for("MP104", "detach"))
    assert not any(recipe.changes_results for recipe in recipes_for("MP102", "detach"))


def test_edits_of_one_file_are_made_one_after_another(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    source = "import torch\nfor x in loader:\n    out = model(x)\n    total += loss(out)\n"
    file.write_text(source, encoding="utf-8")
    wanted = [
        finding(file, 3, "MP201", "no_grad"),
        finding(file, 4, "MP101", "item"),
        finding(file, 3, "MP202", "del", text="`del out` now"),
    ]
    files = edit([candidates_of(item)[0] for item in wanted])
    (result,) = files.files.values()
    assert result.edited.text.decode() == (
        "import torch\nwith torch.no_grad():\n    for x in loader:\n        out = model(x)\n"
        "        total += loss(out).item()\n        del out\n"
    )
    assert files.original_line(str(file.resolve()), 5) == 4
    assert files.original_line(str(file.resolve()), 6) is None


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"\xef\xbb\xbftotal += loss\r\n", 1),
        (b"# -*- coding: latin-1 -*-\nname = '\xf6'\ntotal += loss\n", 3),
        (b"total += loss", 1),
    ],
)
def test_encoding_and_line_breaks_stay(tmp_path: Path, raw: bytes, line: int) -> None:
    file = tmp_path / "train.py"
    file.write_bytes(raw)
    (text,) = edit(candidates_of(finding(file, line, "MP101", "item"))[:1]).texts.values()
    assert text == raw.replace(b"loss", b"loss.item()")


def test_installed_files_and_broken_files_are_refused(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "pkg.py"
    package.parent.mkdir()
    package.write_text("total += loss\n", encoding="utf-8")
    with pytest.raises(EditError, match="belongs to an installed package"):
        edit(candidates_of(finding(package, 1, "MP101", "item"))[:1])
    broken = tmp_path / "broken.py"
    broken.write_text("total +=\n", encoding="utf-8")
    with pytest.raises(EditError, match="cannot be parsed"):
        edit(candidates_of(finding(broken, 1, "MP101", "item"))[:1])
    with pytest.raises(EditError, match="cannot be read"):
        edit(candidates_of(finding(tmp_path / "gone.py", 1, "MP101", "item"))[:1])


def test_a_finding_without_a_line_has_no_edit(tmp_path: Path) -> None:
    from dataclasses import replace

    assert candidates_of(replace(finding(tmp_path / "a.py", 1, "MP101", "item"), location=None)) == ()


# ---- copies, and state of parameters that are gone -------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("out = volumes.clone()", "out = volumes"),
        ("out = torch.clone(volumes)", "out = volumes"),
        ("out = volumes.detach().clone()", "out = volumes.detach()"),
        ("tasks.append(Task(name, deepcopy(encoder), head))", "tasks.append(Task(name, encoder, head))"),
        ("reference = copy.deepcopy(model).eval()", "reference = model.eval()"),
    ],
)
def test_the_original_in_place_of_a_copy(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, f"{before}  #<\n", "MP215", "share_tensor") == [f"-{before}", f"+{after}"]


@pytest.mark.parametrize(
    "line",
    [
        "both = a.clone() + b.clone()",
        "moved = batch.to(device)",
        "out = volumes.clone(memory_format=torch.channels_last)",
        "out = deepcopy(net, memo)",
    ],
)
def test_a_copy_that_is_not_clear_is_left(tmp_path: Path, line: str) -> None:
    assert "does not make one copy" in refusal(tmp_path, f"{line}  #<\n", "MP215", "share_tensor")


REPLACED = """
    def densify(self):
        fresh = split(self.cloud.points)
        self.optimizer.param_groups[0]["params"] = [fresh]  #<
        self.cloud.points = fresh
"""


def test_state_of_replaced_parameters_is_dropped(tmp_path: Path) -> None:
    assert edited(tmp_path, REPLACED, "MP114", "del") == [
        '+    for parameter in self.optimizer.param_groups[0]["params"]:',
        "+        self.optimizer.state.pop(parameter, None)",
    ]
    named = REPLACED.replace("fresh", "parameter")
    assert edited(tmp_path, named, "MP114", "del")[0].startswith("+    for old_parameter in ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (REPLACED.replace('[0]["params"]', "[0]"), "a whole group"),
        (REPLACED.replace('param_groups[0]["params"]', "param_groups"), "does not replace the parameters"),
        (REPLACED.replace("    fresh = ", "    self.optimizer.state.clear()\n        fresh = "), "sees to"),
        ("optimizer.add_param_group({'params': [offset]})  #<\n", "does not replace the parameters"),
    ],
)
def test_groups_that_are_changed_otherwise_are_left(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text, "MP114", "del")
