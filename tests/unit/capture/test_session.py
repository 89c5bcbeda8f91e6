"""Live runs: iterations found, nothing changed, nothing kept."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import memprof
from memprof.capture.counters import GLIBC
from memprof.model.memory import Category


def plain() -> list[float]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters())
    losses = []
    for _ in range(6):
        loss = model(torch.randn(3, 4)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def loader() -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.utils.data.DataLoader(torch.randn(12, 4), batch_size=2):
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()


class Normalised(torch.utils.data.Dataset[torch.Tensor]):
    """Samples that go through transforms written as modules, as those of torchvision are, and through a frozen model."""

    def __init__(self) -> None:
        self.encoder = torch.nn.Linear(4, 4)
        self.transform = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Flatten(0))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.no_grad():
            return self.encoder(self.transform(torch.full((1, 4), float(index))))


def transforms_that_are_modules() -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.utils.data.DataLoader(Normalised(), batch_size=2):
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()


def accumulation() -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index in range(12):
        model(torch.randn(2, 4)).sum().backward()
        if index % 2:
            optimizer.step()
            optimizer.zero_grad()


def gan() -> None:
    one, two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    first, second = (torch.optim.SGD(item.parameters(), lr=0.1) for item in (one, two))
    for _ in range(6):
        fake = one(torch.randn(2, 4))
        two(fake.detach()).sum().backward()
        second.step()
        two(fake).sum().backward()
        first.step()


def rnn() -> None:
    cell = torch.nn.RNNCell(4, 4)
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.1)
    for _ in range(6):
        state = torch.zeros(2, 4)
        for _ in range(3):
            state = cell(torch.randn(2, 4), state)
        optimizer.zero_grad()
        state.sum().backward()
        optimizer.step()


def lbfgs() -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    batch = torch.randn(8, 4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(batch).pow(2).mean()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)


def functions(kept: list[torch.Tensor] | None = None) -> None:
    """A loop without a module, with weights that are updated by hand."""
    weight = torch.ones(64, 64, requires_grad=True)
    for _ in range(6):
        loss = (torch.ones(64, 64) @ weight).tanh().square().mean()
        loss.backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
        weight.grad = None
        if kept is not None:
            kept.append(loss)


def functions_and_optimizer() -> None:
    position = torch.ones(4, requires_grad=True)
    optimizer = torch.optim.Adam([position])
    for _ in range(6):
        for _ in range(2):
            (position * 2).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("level", ["steps", "tensors"])
@pytest.mark.parametrize(
    "program",
    [plain, loader, transforms_that_are_modules, accumulation, gan, rnn, lbfgs, functions, functions_and_optimizer],
)
def test_six_iterations_are_found(program: Callable[[], object], level: str) -> None:
    with memprof.Profiler(level) as prof:
        program()
    kinds = [iteration.kind for iteration in prof.diagnosis.model.iterations]
    assert kinds.count("train") == 6
    assert "evaluate" not in kinds
    assert not prof.recording.run.notes


def test_a_loop_of_functions_is_judged_as_others_are() -> None:
    with memprof.Profiler("tensors") as clean:
        functions()
    kept: list[torch.Tensor] = []
    with memprof.Profiler("tensors") as leaky:
        functions(kept)
    assert clean.findings == ()
    assert [finding.code for finding in leaky.findings] == ["MP102"]


def test_what_is_written_down_does_not_show_in_the_memory_of_the_host(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.ones(8, 4)
    with memprof.Profiler("steps", output=tmp_path / "run.memprof") as prof:
        for _ in range(600):
            optimizer.zero_grad()
            model(batch).sum().backward()
            optimizer.step()
    run = prof.recording.run
    if run.counter != {"cpu": GLIBC}:
        pytest.skip(f"needs a counter that tells each byte, not {run.counter}")
    ends = [tick.samples[-1].allocated_bytes for tick in prof.recording.ticks]
    assert len(ends) > 600
    assert ends[-2] - ends[200] < 100_000  # it would be a megabyte where each iteration stayed in memory


@pytest.mark.parametrize("level", ["auto", "steps", "tensors"])
def test_losses_are_bit_identical(level: str) -> None:
    expected = plain()
    with memprof.Profiler(level):
        assert plain() == expected


def test_nothing_of_the_user_is_kept_alive() -> None:
    gc.collect()
    gc.disable()
    try:
        with memprof.Profiler("tensors"):
            model = torch.nn.Linear(4, 4)
            references = []
            for _ in range(5):
                out = model(torch.randn(2, 4))
                references.append(weakref.ref(out))
                out.sum().backward()
                del out
                assert references[-1]() is None
    finally:
        gc.enable()


@pytest.mark.filterwarnings(
    "ignore:Sparse CSR:UserWarning", "ignore:.*quantiz:UserWarning", "ignore:.*quantiz:DeprecationWarning"
)
def test_odd_tensors_do_not_break() -> None:
    with memprof.Profiler("tensors") as prof:
        sparse = torch.eye(3).to_sparse()
        kept = [sparse, sparse.to_sparse_csr(), torch.empty(3, device="meta"), copy.deepcopy(torch.ones(2))]
        kept[-1].resize_(100)
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    assert max(birth.nbytes for birth in prof.recording.births()) >= 400
    assert not prof.recording.run.notes


def test_births_and_deaths_are_exact() -> None:
    with memprof.Profiler("tensors") as prof:
        kept = [torch.empty(1000 + index) for index in range(5)]
        views = [item[:2] for item in kept]
        del kept[1:3], views[1:3]
    born = {b.storage: b.nbytes for b in prof.recording.births() if 4000 <= b.nbytes < 4020}
    died = {d.storage for d in prof.recording.deaths()}
    assert sorted(born.values()) == [4000, 4004, 4008, 4012, 4016]
    assert sorted(born[item] for item in born.keys() & died) == [4004, 4008]


def test_hooks_survive_somebody_who_wrapped_after_us() -> None:
    before = torch.nn.Module.__call__
    with memprof.Profiler("steps"):
        ours = torch.nn.Module.__call__
        torch.nn.Module.__call__ = lambda self, *args, **kwargs: ours(self, *args, **kwargs)  # type: ignore[method-assign]
    try:
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).shape == (1, 2)
    finally:
        torch.nn.Module.__call__ = before  # type: ignore[method-assign]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_stays_silent() -> None:
    with memprof.Profiler("tensors") as prof:
        plain()
        ticks = len(prof.recording.ticks)
        child = os.fork()
        if child == 0:
            try:
                torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum()
                prof.__exit__(None, None, None)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(prof.recording.ticks) == ticks


def test_a_forward_that_raises_is_a_training_iteration_cut_off() -> None:
    class Full(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if len(input) > 4:
                raise torch.OutOfMemoryError("as a GPU would")
            return super().forward(input)

    model = Full(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with memprof.Profiler("steps") as prof:
        for rows in (2, 4, 8, 4, 8, 4):
            try:
                model(torch.randn(rows, 4)).sum().backward()
                optimizer.step()
            except torch.OutOfMemoryError:
                optimizer.zero_grad()
        model.eval()
        for _ in range(2):
            with torch.no_grad():
                model(torch.randn(2, 4))
    rows = [(row.kind, row.complete) for row in prof.diagnosis.model.iterations if row.kind != "other"]
    done, cut = ("train", True), ("train", False)
    assert rows[:6] == [done, done, cut, done, cut, done]
    assert [kind for kind, _ in rows[6:]] == ["evaluate", "evaluate"]


def test_parameters_of_lazy_layers_are_known_once_they_are_made() -> None:
    model = torch.nn.Sequential(torch.nn.LazyLinear(512), torch.nn.ReLU(), torch.nn.LazyLinear(1))
    with memprof.Profiler(level="tensors") as prof:
        for _ in range(3):
            model(torch.randn(8, 64)).sum().backward()

    names = {item.name for item in prof.diagnosis.model.storages.values() if item.category is Category.PARAMETER}
    assert {"0.weight", "0.bias", "2.weight"} <= names
    assert not [note for note in prof.diagnosis.model.run.notes if "problem of its own" in note]


def test_parameter_whose_data_was_replaced_stays_a_parameter() -> None:
    model = torch.nn.Linear(64, 512)
    with memprof.Profiler(level="tensors") as prof:
        for _ in range(4):
            model(torch.randn(8, 64)).sum().backward()
            model.weight.data = model.weight.data * 0.9

    made = [item for item in prof.diagnosis.model.storages.values() if item.name == "weight"]
    assert len(made) == 4
    assert {item.category for item in made} == {Category.PARAMETER}
