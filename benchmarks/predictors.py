"""What other tools predict for workloads, asked on the CPU before anything runs on a GPU.

`python -m benchmarks.predictors > OTHERS`, with those of torch-kitsune, blink-gpu and accelerate that are to be asked
installed; `python -m benchmarks.prediction --others OTHERS` puts what they say beside what memprof says.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from tests.cuda import workloads

MIB = 1 << 20


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


_MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, str]] = {
    "mlp_sgd": (workloads.mlp, (1024,), 512, "sgd"),
    "mlp_adam": (workloads.mlp, (1024,), 512, "adam"),
    "adam_foreach": (lambda: workloads.mlp(4096, 16), (1024,), 64, "adam"),
    "adam_forloop": (lambda: workloads.mlp(4096, 16), (1024,), 64, "adam"),
    "transformer_encoder": (_encoder, (128, 512), 16, "adam"),
}
"""Workloads that a tool which takes a model can be asked about: model, shape of an input, batch, optimizer."""


def mem_tracker(name: str) -> int:
    """Peak of all categories that `MemTracker` counts on fake tensors, in bytes."""
    from torch.distributed._tools.mem_tracker import MemTracker

    with workloads.fake():
        tracker = MemTracker()
        with tracker:
            for count, _ in enumerate(workloads.WORKLOADS[name]("cpu")):
                if count == workloads.ITERS:
                    break
                tracker.reset_mod_stats()
        peak = tracker.get_tracker_snapshot("peak")
    return max(int(sizes["Total"]) for sizes in peak.values())


def kitsune(name: str) -> int:
    """`predict_memory` of torch-kitsune, in bytes."""
    from kitsune.predict import predict_memory

    make, shape, batch, optimizer = _MODELS[name]
    said = predict_memory(make(), input_shape=shape, batch_size=batch, optimizer=optimizer, training=True)
    return int(said.total_bytes)


def blink(name: str) -> int:
    """`predict` of blink-gpu, in bytes."""
    import blink as package

    make, _, batch, _ = _MODELS[name]
    said = package.predict(make(), batch_size=batch)
    return int(said["memory_mb"] * MIB)


def accelerate(name: str) -> int:
    """What `accelerate estimate-memory` says of training with Adam in float32: four times the weights, in bytes."""
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes

    make, _, _, _ = _MODELS[name]
    nbytes, _ = calculate_maximum_sizes(make())
    return int(max(estimate_training_usage(nbytes, "float32").values()))


_TOOLS: tuple[tuple[str, str, Callable[[str], int], str], ...] = (
    (
        "MemTracker",
        "torch",
        mem_tracker,
        "the whole loop under `torch.distributed._tools.MemTracker`, on fake tensors of the CPU",
    ),
    ("torch-kitsune", "torch-kitsune", kitsune, "`predict_memory(model, shape, batch, optimizer, training=True)`"),
    ("blink-gpu", "blink-gpu", blink, "`blink.predict(model, batch_size=...)`, which is not told of training"),
    (
        "accelerate",
        "accelerate",
        accelerate,
        "the largest stage of `accelerate estimate-memory`, training in float32; it knows Adam alone",
    ),
)


def main() -> int:
    """Print what the tools say, as JSON."""
    found: list[dict[str, Any]] = []
    for tool, distribution, ask, how in _TOOLS:
        for name in _MODELS:
            said, note = None, how
            try:
                note = f"{importlib.metadata.version(distribution)}; {how}"
                with contextlib.redirect_stdout(sys.stderr):
                    said = ask(name)
            except Exception as error:  # whatever stops a tool is what there is to say of it
                print(f"{tool}, {name}: {type(error).__name__}: {error}", file=sys.stderr)
            found.append({"tool": tool, "workload": name, "bytes": said, "how": note})
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
