"""`memprof.oom` where memory really runs out: on a simulated GPU that is too small for the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import programs

MODEL = """
import torch
from torch import nn
from torch.nn import functional as F
import memprof

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = [(torch.randn(4096, 64, device="cuda"), torch.randint(4, (4096,), device="cuda")) for _ in range(3)]
"""

STEP = """
@memprof.oom.retry(model=model)
def loss_of(images, labels):
    return F.cross_entropy(model(images), labels)

for images, labels in data:
    optimizer.zero_grad()
    loss = loss_of(images, labels)
    optimizer.step()
    print(f"{loss.item():.4f}")
"""

LOOP = """
total = 0.0
for part in memprof.oom.retry(data, model=model):
    if part.start == 0:
        total = 0.0
    with part as (images, labels):
        loss = F.cross_entropy(model(images), labels) * part.weight
        loss.backward()
        total += loss.item()
    if part.last:
        optimizer.step()
        optimizer.zero_grad()
        print(f"{total:.4f}")
"""

TRAIN = """
@memprof.oom.find_batch_size(start=4096)
def train(batch_size):
    for images, labels in data:
        optimizer.zero_grad()
        F.cross_entropy(model(images[:batch_size]), labels[:batch_size]).backward()
        optimizer.step()

train()
print(train.batch_size)
"""


@pytest.mark.parametrize("loop", [STEP, LOOP], ids=["function", "iterator"])
def test_a_batch_that_is_too_large_is_trained_on_in_parts(loop: str, tmp_path: Path) -> None:
    script = programs.write(tmp_path, "train.py", MODEL + loop)
    roomy, _ = programs.analyze("--simulate", "8GiB", str(script), cwd=tmp_path)
    tight, report = programs.analyze("--simulate", "64MiB", str(script), cwd=tmp_path)

    assert len(roomy.stdout.split()) == 3
    assert tight.stdout == roomy.stdout
    notes = [note for note in report["run"]["notes"] if "ran out of memory with 4096 examples at a time" in note]
    assert len(notes) == 1
    assert "MP401" in programs.codes(report)
    assert all(finding["evidence"]["caught"] for finding in report["findings"] if finding["code"] == "MP401")


def test_a_function_finds_its_batch_size(tmp_path: Path) -> None:
    script = programs.write(tmp_path, "train.py", MODEL + TRAIN)
    done, report = programs.analyze("--simulate", "64MiB", str(script), cwd=tmp_path)
    assert int(done.stdout) in (1024, 2048)
    assert any("train() ran out of memory with batch size 4096" in note for note in report["run"]["notes"])
