"""Operators are seen without a dispatch mode, and nothing a user does with torch comes out otherwise for it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import memprof
from memprof.capture import dispatch_key

pytestmark = pytest.mark.skipif(not dispatch_key.available(), reason="this torch shows operators to a mode only")


class Plain(torch.Tensor):
    """A subclass without `__torch_dispatch__`."""


class Dispatching(torch.Tensor):
    """A subclass that calls each operator again with its own tensors."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs or {})


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def subclasses() -> Any:
    made = (torch.ones(3).as_subclass(Plain), Plain([1, 2, 3]), torch.Tensor._make_subclass(Plain, torch.ones(2)))
    assert {type(item) for item in made} == {Plain}
    assert type(made[0] + 1) is Plain
    return torch.stack([item.sum() for item in made]).as_subclass(torch.Tensor)


def dispatching_subclass() -> Any:
    tensor = torch.Tensor._make_subclass(Dispatching, torch.ones(3, 3))
    return (tensor @ tensor + 1).sum().as_subclass(torch.Tensor)


def parameters() -> Any:
    left, right = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.utils.swap_tensors(left.weight, right.weight)
    lazy = nn.LazyLinear(3)
    return nn.Parameter(torch.ones(3)) * nn.Buffer(torch.ones(3)) * lazy(torch.ones(2, 4)).shape[0]


def higher_order() -> Any:
    x = torch.ones(3, requires_grad=True)
    checkpoint(lambda x: (x * 2).exp(), x, use_reentrant=False).sum().backward()
    return torch.ops.higher_order.cond(torch.tensor(True), lambda x: (x.sin(),), lambda x: (x.cos(),), (x.detach(),))[0]


def transforms() -> Any:
    def squared(x: torch.Tensor) -> torch.Tensor:
        return (x**2).sum()

    x = torch.ones(3)
    return torch.func.grad(squared)(x) + torch.func.vmap(torch.sin)(x) + torch.func.hessian(squared)(x).sum()


def modes_of_others() -> Any:
    with Counting() as mode:
        torch.ones(3) + 1
    return torch.tensor(mode.count)


def fake_tensors() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = nn.Linear(3, 3)
        model(torch.ones(2, 3)).sum().backward()
    return torch.tensor(model.weight.grad.shape[0])


def compiled() -> Any:
    x = torch.ones(3, requires_grad=True)
    torch.compile(lambda x: (x.sin() + 1).sum(), backend="aot_eager", fullgraph=True)(x).backward()
    return x.grad


def traced() -> Any:
    return torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.ones(2, 2, 2))(torch.ones(2, 2, 2))


def without_versions() -> Any:
    with torch.inference_mode():
        return nn.Linear(3, 3)(torch.ones(2, 3)).shape[0] * torch.ones(())


def layouts() -> Any:
    dense = torch.ones(3, 3, requires_grad=True)
    torch.sparse.mm(torch.eye(3).to_sparse(), dense).sum().backward()
    embedding = nn.Embedding(10, 3, sparse=True)
    for _ in range(2):
        embedding(torch.tensor([1, 2])).sum().backward()
    return dense.grad + embedding.weight.grad.to_dense().sum()


def other_thread() -> Any:
    made = []
    thread = threading.Thread(target=lambda: made.append((torch.ones(3, requires_grad=True) * 2).sum()))
    thread.start()
    thread.join()
    made[0].backward()
    return made[0].detach()


def saved_and_loaded() -> Any:
    file = io.BytesIO()
    torch.save(nn.Linear(2, 2).state_dict(), file)
    file.seek(0)
    return torch.tensor(len(torch.load(file)))


def failing() -> Any:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        F.linear(torch.ones(2, 3), torch.ones(2, 2))
    return torch.ones(())


CASES: list[Callable[[], Any]] = [
    subclasses,
    dispatching_subclass,
    parameters,
    higher_order,
    transforms,
    modes_of_others,
    fake_tensors,
    compiled,
    traced,
    without_versions,
    layouts,
    other_thread,
    saved_and_loaded,
    failing,
]


@pytest.mark.filterwarnings("ignore:.*torch.jit..* is deprecated")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_is_done_comes_out_as_without_a_profiler(case: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    alone = case()
    torch.manual_seed(0)
    with memprof.Profiler("tensors") as profiler:
        profiled = case()
    assert torch.equal(alone, profiled)
    assert memprof.diagnose(profiler.recording).model.run.notes == ()


def test_what_was_replaced_is_back_afterwards() -> None:
    dispatch = torch._ops.HigherOrderOperator.dispatch
    with memprof.Profiler("tensors"):
        assert "_make_subclass" in torch.Tensor.__dict__
    assert "_make_subclass" not in torch.Tensor.__dict__
    assert "__new__" not in torch.Tensor.__dict__
    assert torch._ops.HigherOrderOperator.dispatch is dispatch
    assert not torch._C._dispatch_tls_is_dispatch_key_included("Fake")


def test_gradients_are_added_in_place_while_ops_are_seen() -> None:
    """Two gradients meet at `x`; a new tensor for their sum would be one more `add`."""
    ops: list[str] = []
    hook = dispatch_key.OpHook(lambda func, *_: ops.append(str(func)))
    x = torch.ones(8, 8, requires_grad=True)
    y = x * 1.0
    loss = (y * 2.0 + y.exp()).sum()
    hook.enter()
    try:
        loss.backward()
    finally:
        hook.exit()
    assert "aten.add_.Tensor" in ops
    assert "aten.add.Tensor" not in ops


def test_a_key_that_outlasts_its_hook_means_nothing() -> None:
    """Leaving `inference_mode` puts back the keys of when it was entered, ours among them."""
    ops: list[str] = []
    hook = dispatch_key.OpHook(lambda func, *_: ops.append(str(func)))
    hook.enter()
    with torch.inference_mode():
        hook.exit()
    try:
        seen = len(ops)
        assert torch.equal(torch.ones(2) + 1, torch.full((2,), 2.0))
        assert len(ops) == seen
    finally:
        torch._C._dispatch_tls_set_dispatch_key_included("Fake", False)


def test_without_the_key_a_dispatch_mode_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_key, "available", lambda: False)
    with memprof.Profiler("tensors") as profiler:
        kept = torch.ones(1024, 256)
    diagnosis = memprof.diagnose(profiler.recording)
    assert kept.nbytes in {storage.nbytes for storage in diagnosis.model.storages.values()}
    (note,) = diagnosis.model.run.notes
    assert "TorchDispatchMode" in note
