"""MP201 and MP301 where memory is highest in a forward that no backward follows."""

from __future__ import annotations

import torch

import memprof
from memprof.detect.finding import Finding


def sampled(*, grad: bool, rows: int = 60_000) -> dict[str, Finding]:
    """Findings of a training loop after whose first step a large batch is sampled once; the model stays in training."""
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh()) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with memprof.Profiler("tensors") as prof:
        for step, batch in enumerate(torch.utils.data.DataLoader(torch.randn(32, 64), batch_size=8)):
            if step == 1:
                with torch.set_grad_enabled(grad):
                    model(torch.randn(rows, 64)).mean().item()
                continue
            optimizer.zero_grad()
            model(batch).sum().backward()
            optimizer.step()
    return {finding.code: finding for finding in prof.diagnosis.findings}


def test_one_forward_with_a_graph_that_makes_the_peak_is_found() -> None:
    found = sampled(grad=True)
    assert found["MP201"].message.startswith("1 forward at ")
    assert "Put `sampled()` under `with torch.no_grad():`." in found["MP201"].message
    assert "the call at " in found["MP201"].remedies[0].text
    assert "MP301" not in found


def test_one_small_forward_with_a_graph_is_none() -> None:
    assert "MP201" not in sampled(grad=True, rows=8)


def test_one_forward_without_a_graph_is_none() -> None:
    assert not {"MP201", "MP301"} & set(sampled(grad=False))


def test_without_a_graph_the_output_is_there_as_well() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1024))
    with memprof.Profiler("tensors") as prof:
        for _ in range(4):
            output = model(torch.randn(512, 64))
            print(output.mean().item())
    (finding,) = (item for item in prof.diagnosis.findings if item.code == "MP201")
    freed = {prof.diagnosis.model.storages[storage].nbytes for storage in finding.remedies[0].frees}
    assert freed == {512 * 64 * 4}
