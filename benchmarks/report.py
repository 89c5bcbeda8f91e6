"""The results as Markdown, and where they go in the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN = "<!-- benchmarks: begin (written by python -m benchmarks --write) -->"
END = "<!-- benchmarks: end -->"

STEPS_AIM = {"mlp": 1.05, "transformer": 1.02}
AUTO_AIM = 1.05
TENSORS_OVER_NOTHING_AIM = 1.3
HELP_AIM_S = 0.2
IMPORT_AIM_S = 0.05


def to_markdown(results: dict[str, Any]) -> str:
    parts = [_machine(results), _aims(results)]
    parts += [_workload(item) for item in results["workloads"].values()]
    parts += [_once(results), _recordings(results), _observer(results)]
    return "\n\n".join(parts) + "\n"


def write_between_markers(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        ValueError: The page lacks a marker.
    """
    page = path.read_text(encoding="utf-8")
    head, found_begin, rest = page.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{path} lacks the lines {begin!r} and {end!r}")
    path.write_text(f"{head}{begin}\n\n{text}\n{end}{tail}", encoding="utf-8")


def aims(results: dict[str, Any]) -> list[tuple[str, float, float, str]]:
    """Each aim: what, measured, wanted at most, unit."""
    rows = []
    for name, item in results["workloads"].items():
        subjects = item["subjects"]
        if name in STEPS_AIM:
            rows.append((f"`steps`, {item['title']}", subjects["steps"]["ratio"]["median"], STEPS_AIM[name], "x"))
        rows.append((f"`auto`, {item['title']}", subjects["auto"]["ratio"]["median"], AUTO_AIM, "x"))
        over = item["tensors_over_nothing"]["median"]
        rows.append((f"`tensors` over a mode that does nothing, {item['title']}", over, TENSORS_OVER_NOTHING_AIM, "x"))
    start = results["start_up"]
    rows.append(("`memprof --help`", start["help_s"], HELP_AIM_S, " s"))
    rows.append(("`import memprof`", start["import_s"], IMPORT_AIM_S, " s"))
    return rows


def _machine(results: dict[str, Any]) -> str:
    m = results["machine"]
    busy = f"load average {m['load_before']:.1f} before and {m['load_after']:.1f} after the run"
    quick = " **Quick run: a smoke test, its numbers mean nothing.**" if results["quick"] else ""
    return (
        f"Measured on {m['cpu']}, {m['cores']} cores, {m['system']}, Python {m['python']}, "
        f"torch {m['torch']} on CPU with one thread, memprof {m['memprof']}; {busy}; "
        f"{results['duration_s']:.0f} s in all.{quick}"
    )


def _aims(results: dict[str, Any]) -> str:
    lines = ["| aim | measured | at most | |", "|---|---:|---:|---|"]
    for what, measured, wanted, unit in aims(results):
        verdict = "met" if measured <= wanted else "**missed**"
        lines.append(f"| {what} | {measured:.3f}{unit} | {wanted:g}{unit} | {verdict} |")
    return "\n".join(lines)


def _workload(item: dict[str, Any]) -> str:
    bare_ms = item["bare"]["median_ms"]
    lines = [
        f"## {item['title']}",
        "",
        f"{item['ops']} ops an iteration; {item['iterations_per_block']} iterations a block.",
        "",
        "| subject | median ms | ratio | min - max | processor time | rounds | |",
        "|---|---:|---:|---:|---:|---:|---|",
        f"| bare loop | {bare_ms:.2f} | 1 | | 1 | {item['bare']['rounds']} | |",
    ]
    order = ["steps", "auto", "tensors", *(key for key in item["subjects"] if key not in ("steps", "auto", "tensors"))]
    for key in order:
        row = item["subjects"][key]
        if "ratio" not in row:
            lines.append(f"| {row['title']} | | | | | 0 | {row['note']} |")
            continue
        ratio, cpu = row["ratio"], row["cpu_ratio"]
        lines.append(
            f"| {row['title']} | {row['median_ms']:.2f} | {ratio['median']:.3f} "
            f"| {ratio['min']:.3f} - {ratio['max']:.3f} | {cpu['median']:.3f} | {row['rounds']} | {row['note']} |"
        )
    over = item["tensors_over_nothing"]
    lines += [
        "",
        (
            f"`tensors` over the mode that does nothing, round by round: {over['median']:.3f} "
            f"({over['min']:.3f} - {over['max']:.3f})."
        ),
    ]
    return "\n".join(lines)


def _once(results: dict[str, Any]) -> str:
    start = results["start_up"]
    lines = [
        "## Paid once",
        "",
        "| workload | level | entering, ms | leaving, ms | loop alone, ratio |",
        "|---|---|---:|---:|---:|",
    ]
    for item in results["workloads"].values():
        for level in ("steps", "auto", "tensors"):
            row = item["subjects"][level]
            loop = row.get("loop_ratio", row["ratio"])["median"]
            lines.append(f"| {item['title']} | `{level}` | {row['enter_ms']:.1f} | {row['exit_ms']:.1f} | {loop:.3f} |")
    torch = "torch is imported" if start["imports_torch"] else "torch is not imported"
    lines += [
        "",
        (
            f"`memprof --help` takes {1e3 * start['help_s']:.0f} ms ({1e3 * start['help_min_s']:.0f} - "
            f"{1e3 * start['help_max_s']:.0f}), where `python -c pass` takes {1e3 * start['python_s']:.0f} ms; "
            f"`import memprof` takes {1e3 * start['import_s']:.1f} ms ({1e3 * start['import_min_s']:.1f} - "
            f"{1e3 * start['import_max_s']:.1f}) and {torch}. Medians of {start['rounds']} processes each."
        ),
    ]
    return "\n".join(lines)


def _recordings(results: dict[str, Any]) -> str:
    lines = [
        "## Size of a recording",
        "",
        "Bytes that each further iteration adds to the file.",
        "",
        "| workload | `steps` | `auto` | `tensors` |",
        "|---|---:|---:|---:|",
    ]
    for item in results["workloads"].values():
        sizes = item["recording_bytes"]
        lines.append(f"| {item['title']} | {sizes['steps']:,.0f} | {sizes['auto']:,.0f} | {sizes['tensors']:,.0f} |")
    return "\n".join(lines)


def _observer(results: dict[str, Any]) -> str:
    lines = [
        "## Effect on what is observed",
        "",
        "Bytes of live tensors as the allocator counts them, in the last of three iterations, the garbage collector",
        "switched off.",
        "",
        "| workload | run | after forward | after backward | after the step | peak | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for item in results["workloads"].values():
        runs = item["live_bytes"]
        for run, seen in runs.items():
            verdict = "" if run == "bare" else "equal" if seen == runs["bare"] else "**differs**"
            run_title = "bare loop" if run == "bare" else f"`{run}`"
            numbers = " | ".join(f"{seen[place]:,}" for place in ("forward", "backward", "step", "peak"))
            lines.append(f"| {item['title']} | {run_title} | {numbers} | {verdict} |")
    return "\n".join(lines)
