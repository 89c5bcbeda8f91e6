"""Rules whose evidence exists only where CUDA is: the programs on their pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memprof.detect import RULES
from memprof.detect.rule import Rule
from tests.cuda import payloads

CUDA_RULES = tuple(rule for rule in RULES if rule.needs_cuda)
LEVELS = ("steps", "blocks", "tensors")
CASES = [
    pytest.param(rule, level, id=f"{rule.code}-{level}")
    for rule in CUDA_RULES
    for level in (("tensors", "auto") if rule.needs_storages else LEVELS)
]


@pytest.mark.parametrize(("rule", "level"), CASES)
def test_the_example_fires_its_rule(on_cuda: Callable[..., Any], rule: type[Rule], level: str) -> None:
    found = on_cuda(payloads.rule_block, code=rule.code, heading="Example", level=level, memory="8G", devices=2)
    assert len(found["messages"]) == 1, found["report"]
    assert found["files"] in (["block.py"], [None])


@pytest.mark.parametrize(("rule", "level"), CASES)
def test_what_to_use_instead_does_not(on_cuda: Callable[..., Any], rule: type[Rule], level: str) -> None:
    found = on_cuda(payloads.rule_block, code=rule.code, heading="Use instead", level=level, memory="8G", devices=2)
    assert found["messages"] == [], found["report"]


@pytest.mark.parametrize("level", ["blocks", "tensors"])
def test_fragmentation_names_who_holds_the_segments_and_what_a_setting_spares(
    on_cuda: Callable[..., Any], level: str
) -> None:
    found = on_cuda(payloads.rule_block, code="MP311", heading="Example", level=level, memory="8G", devices=2)
    [message], report = found["messages"], " ".join(found["report"].split())
    assert "stranded in segments partly in use, held by block.py:" in message
    assert "beside " in message
    assert "set PYTORCH_CUDA_ALLOC_CONF=" in report
    assert "(simulated)" in report


@pytest.mark.parametrize("level", LEVELS)
def test_memory_on_the_gpu_of_another_rank_is_named_with_its_line(on_cuda: Callable[..., Any], level: str) -> None:
    found = on_cuda(payloads.rule_block, code="MP316", heading="Example", level=level, memory="8G", devices=2)
    [message] = found["messages"]
    assert message.startswith("This process is local rank 1 of 2 and reserves 32 MiB on cuda:0, the GPU of rank 0")
    if level != "steps":
        assert "32 MiB of it by block.py:5" in message


_MOVED_TWICE = """\
import torch

images = torch.randn(4096, 256)
dataset = torch.utils.data.TensorDataset(images.cuda())
everything = images.cuda()
model = torch.nn.Linear(256, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for (batch,) in torch.utils.data.DataLoader(dataset, batch_size=512):
    loss = model(batch - everything.mean(0)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize("level", ["auto", "tensors"])
def test_data_that_is_moved_to_the_gpu_twice_is_there_twice(on_cuda: Callable[..., Any], level: str) -> None:
    found = on_cuda(payloads.rule_block, code="MP215", heading="Example", level=level, program=_MOVED_TWICE)
    [message], report = found["messages"], " ".join(found["report"].split())
    assert message.startswith("1 tensor copied at block.py:5 is on cuda:0 beside the original made at block.py:4 when")
    assert "use what block.py:4 made in place of the copy of block.py:5" in report
