"""`memprof.fit` on functions. Each runs in a process of its own: a simulation must come before the first backward."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import memprof
from memprof import UsageError

HEAD = """
import json
import torch
import memprof

kept = []

def train(batch_size):
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 8)).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        loss = model(torch.randn(batch_size, 64, device="cuda")).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.myself = model

def show(found):
    print(json.dumps([found.largest, found.bounded, [(t.value, t.fits, t.needed_bytes) for t in found.trials]]))

"""


def run(program: str, *, error: str = "") -> list[Any]:
    done = subprocess.run([sys.executable, "-c", HEAD + program], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(error), done.stderr
    assert error in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_largest_value_is_found_and_one_step_more_was_tried() -> None:
    small, large, settings, dry = run(
        "show(memprof.fit(train, gpu='64MiB', first=256, step=256))\n"
        "show(memprof.fit(train, gpu='128MiB', first=256, step=256))\n"
        "show(memprof.fit(train, gpu='64MiB', first=256, step=256, settings='expandable_segments:True'))\n"
        "show(memprof.fit(train, gpu='64MiB', first=256, step=256, dry=True))\n"
        "assert not torch.cuda.is_available()\n"
    )
    for largest, bounded, trials in (small, large, settings):
        assert bounded
        fits = {value: fits for value, fits, _ in trials}
        assert fits[largest]
        assert not fits[largest + 256]
    assert large[0] > 1.5 * small[0]
    assert dry == small
    # Each call begins with an empty GPU, although its model is garbage that only the collector frees.
    assert {value: need for value, fits, need in small[2] if fits}[256] == {
        value: need for value, fits, need in large[2] if fits
    }[256]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("memprof.fit(lambda n: torch.ones(n), gpu='8GiB')", "put nothing on CUDA; let it use device 'cuda'"),
        ("memprof.fit(lambda n: torch.ones(n, device='cuda') @ torch.ones(n + 1, device='cuda'), gpu='8GiB')", "size"),
        ("torch.ones(1, requires_grad=True).backward()\nmemprof.fit(train, gpu='8GiB')", "before"),
    ],
)
def test_what_is_not_about_memory_comes_through(program: str, message: str) -> None:
    run(program, error=message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "Voodoo2"}, "no GPU 'Voodoo2' is known"),
        ({"gpu": "8GiB", "first": 0}, "1 <= first <= most"),
        ({"gpu": "8GiB", "first": 9, "most": 8}, "1 <= first <= most"),
        ({"gpu": "8GiB", "step": 0}, "at least 1"),
        ({"gpu": "8GiB", "safety": 1.0}, "below 1"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        memprof.fit(print, **options)
