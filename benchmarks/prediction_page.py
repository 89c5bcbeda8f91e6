"""The page that tells how close predictions come."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Errors = tuple[float, float]
"""Signed relative errors of the highest peaks of the first device: allocated, reserved."""

_PREDICTIONS = ("simulated", "dry")
_ORDER = "at first: blocks of convolutions without cuDNN (cuBLAS's workspace, columns, gradients) were in another order"
_WHY = {
    "convnext_tiny": "at first: without cuDNN, CUDA's convolutions give contiguous outputs whatever they are given",
    "diffusion": "at first: masks of `_safe_softmax` and a product in the backward of softmax were not in the table",
    "speech": "at first: convolutions of one dimension go through those of two, with their columns; it ran only after "
    "the CTC loss took lengths in host memory",
    "swin_t": "at first: `roll` along two dimensions has a result between, which was not in the table",
    "unet_segmentation": _ORDER,
    "vae": f"{_ORDER}; the loss of logits and its backward took other blocks than CUDA's",
}
"""Why the error of a workload is above 1 %."""

_HEAD = """# Prediction

How close a [simulated run](how-to/simulate.md) and a [dry run](how-to/dry-run.md) come to what CUDA's real allocator
reports.

Every workload ran in processes of its own. *Real*: with the stock CUDA build of torch {versions} on a stand-in
for NVIDIA's driver that accounts memory and runs no kernel; the allocator and every operator are torch's own, but
workspaces that only cuDNN knows are missing. *Simulated* and *dry*: with the same torch on a GPU of the same size
simulated by memprof, with the arithmetic and without. Errors are prediction / real - 1 of the highest peak of the first
device. *Same* counts the figures (allocated, reserved, and their peaks, after setup and after each iteration) that are
equal to the byte. *Time* is processor time over that of the same workload on the CPU without memprof. All
figures: measured. A cell is empty where that run was not made: large models only
ran dry. (`mlp_amp` computes in float16 on CUDA, which the CPU does slowly, and in bfloat16 on the CPU.)
"""


def render(results: Mapping[str, Result], held_out: Mapping[str, Errors], others: Sequence[Mapping[str, Any]]) -> str:
    """Write the page.

    Args:
        results: Name of a workload -> what its runs said.
        held_out: Name of a workload that was held out -> its errors when it ran first.
        others: What other tools said of workloads.

    Returns:
        Markdown.
    """
    compared = {name: result for name, result in sorted(results.items()) if _best(result)}
    versions = sorted({result["cuda"]["torch"] for result in compared.values()})
    known = {name: result for name, result in compared.items() if name not in held_out}
    new = {name: result for name, result in compared.items() if name in held_out}
    lines = [_HEAD.format(versions=", ".join(versions))]
    lines += ["## Workloads the simulation was made with", ""]
    lines += [
        "The training loops of `tests/cuda/workloads.py`: the table of kernels was made while looking at them.",
        "",
    ]
    lines += _table(known)
    lines += ["", *_spread({side: [errors(result, side) for result in known.values()] for side in _PREDICTIONS})]
    if new:
        lines += ["", "## Workloads held out", ""]
        lines += [
            "The training loops of `benchmarks/held_out.py`, written afterwards. What they said when they ran first is",
            "what to expect of a script that nobody has looked at; what they say now has been learnt from them.",
            "",
            *_table(new, held_out),
            "",
            *_spread(
                {
                    "at first": list(held_out.values()),
                    **{f"{side}, now": [errors(result, side) for result in new.values()] for side in _PREDICTIONS},
                }
            ),
        ]
    lines += _explained(compared, held_out)
    if others:
        lines += ["", *_others(others, results)]
    failed = [
        f"- `{name}`{'' if key == 'failed' else ', ' + key.removesuffix(' failed')}: {value}"
        for name, result in sorted(results.items())
        for key, value in result.items()
        if key.endswith("failed")
    ]
    if failed:
        lines += ["", "## Not compared", "", *failed]
    return "\n".join(lines) + "\n"


def summary(result: Result) -> str:
    """Errors of a workload in a line."""
    pairs = [(side, errors(result, side)) for side in _PREDICTIONS]
    found = [f"{side} {pair[0]:+.3%} {pair[1]:+.3%}" for side, pair in pairs if pair]
    found += [f"{key}: {value}" for key, value in result.items() if key.endswith("failed")]
    return "; ".join(found)


def errors(result: Result, side: str) -> Errors | None:
    """Errors of a workload; None where it was not compared."""
    if side not in result or "cuda" not in result:
        return None
    allocated, reserved = (_peak(result, side, at) / _peak(result, "cuda", at) - 1 for at in (1, 3))
    return allocated, reserved


def _peak(result: Result, side: str, at: int) -> int:
    return max(int(row[at]) for row in result[side]["rows"])


def _best(result: Result) -> str | None:
    """The prediction that was made: the simulated run where there is one."""
    return next((side for side in _PREDICTIONS if errors(result, side)), None)


def _same(result: Result) -> str:
    """How many figures are the same to the byte, of the worse of the predictions made."""
    counts = []
    for side in _PREDICTIONS:
        if errors(result, side):
            rows = zip(result["cuda"]["rows"], result[side]["rows"], strict=True)
            pairs = [pair for real, predicted in rows for pair in zip(real, predicted, strict=True)]
            counts.append((sum(one == other for one, other in pairs), len(pairs)))
    return "{} of {}".format(*min(counts))


def _times(result: Result) -> str:
    if "cpu" not in result:
        return ""
    found = [
        f"{result[side]['seconds'] / result['cpu']['seconds']:.3g}x" if side in result else "-" for side in _PREDICTIONS
    ]
    return " / ".join(found)


def _pair(pair: Errors | None) -> str:
    return "|" if pair is None else f"{pair[0]:+.2%} | {pair[1]:+.2%}"


def _table(results: Mapping[str, Result], at_first: Mapping[str, Errors] | None = None) -> list[str]:
    first = "" if at_first is None else "at first: allocated | reserved | "
    head = f"| workload | real peak allocated, MiB | reserved | {first}simulated: allocated | reserved | dry: allocated"
    head += " | reserved | same | time simulated / dry |"
    lines = [head, "| --- |" + " ---: |" * (head.count("|") - 2)]
    for name, result in results.items():
        cells = [f"`{name}`"]
        cells += [f"{_peak(result, 'cuda', at) / (1 << 20):,.1f}" for at in (1, 3)]
        if at_first is not None:
            cells.append(_pair(at_first.get(name)))
        cells += [_pair(errors(result, side)) for side in _PREDICTIONS]
        lines.append("| " + " | ".join([*cells, _same(result), _times(result)]) + " |")
    return lines


def _spread(kinds: Mapping[str, Iterable[Errors | None]]) -> list[str]:
    """Median, 95th percentile and worst of errors without their sign."""
    lines = ["| absolute error | workloads | median | 95th percentile | worst |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind, found in kinds.items():
        pairs = [pair for pair in found if pair]
        for at, word in enumerate(("allocated", "reserved")):
            sizes = sorted(abs(pair[at]) for pair in pairs)
            if sizes:
                at_95 = sizes[max(0, -(-95 * len(sizes) // 100) - 1)]
                middle = statistics.median(sizes)
                lines.append(f"| {kind}: {word} | {len(sizes)} | {middle:.3%} | {at_95:.3%} | {sizes[-1]:.3%} |")
    return lines


def _explained(results: Mapping[str, Result], at_first: Mapping[str, Errors]) -> list[str]:
    lines = []
    for name, result in results.items():
        pairs = [at_first.get(name), *(errors(result, side) for side in _PREDICTIONS)]
        if any(abs(error) > 0.01 for pair in pairs if pair for error in pair):
            lines.append(f"- `{name}`: {_WHY.get(name, 'not known yet')}.")
    return ["", "## Errors above 1 %", "", *lines] if lines else []


def _others(others: Sequence[Mapping[str, Any]], results: Mapping[str, Result]) -> list[str]:
    """What other tools say of the same workloads, in relation to the real peaks."""
    tools = list(dict.fromkeys(str(other["tool"]) for other in others))
    names = [name for name in results if any(other["workload"] == name for other in others)]
    lines = ["## Other predictors", ""]
    lines += ["Errors of the highest peak allocated; each was asked on the CPU, before anything runs on a GPU.", ""]
    lines += [
        "| workload | memprof |" + "".join(f" {tool} |" for tool in tools),
        "| --- |" + " ---: |" * (len(tools) + 1),
    ]
    for name in sorted(names):
        cells = [f"{pair[0]:+.2%}" if (pair := errors(results[name], _best(results[name]) or "")) else ""]
        for tool in tools:
            said = [other["bytes"] for other in others if other["tool"] == tool and other["workload"] == name]
            cells.append(f"{said[0] / _peak(results[name], 'cuda', 1) - 1:+.2%}" if said and said[0] else "-")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    notes = dict.fromkeys((str(other["tool"]), str(other["how"])) for other in others)
    return [*lines, "", *(f"- {tool}: {how}" for tool, how in notes)]
