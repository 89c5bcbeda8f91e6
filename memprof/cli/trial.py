"""The process in which `memprof fix` runs a script: as it is, or with edits.

    python -m memprof.cli.trial ORDER.json

The order says what to run and where the answer goes; `memprof.cli.fix` writes it and reads the answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memprof.cli.run import load_program, record, simulated_gpu

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis


def main(order_file: str) -> int:
    """Run what an order says and write the answer.

    Args:
        order_file: JSON with `script`, `module`, `args`, `level`, `device`, `max_iterations`, `simulate`, `recording`
            (a file to write), `texts` (path of a source file -> file that holds the text to run in its place) and
            `answer` (the file to write).

    Returns:
        The script's exit status.
    """
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    from memprof.profiler import import_capture

    import_capture()
    from memprof.capture.comparison import LossLog, seed
    from memprof.capture.overlay import overlaid

    with overlaid({path: Path(file).read_bytes() for path, file in order["texts"].items()}):
        program = load_program(order["module"], order["script"], tuple(order["args"]))
        seed()
        gpu = None if order["simulate"] is None else simulated_gpu(order["simulate"])
        with LossLog() as losses:
            outcome, session = record(
                program,
                Path(order["recording"]),
                level=order["level"],
                device=order["device"],
                max_iterations=order["max_iterations"],
                simulation=gpu,
            )
        from memprof.advise.diagnosis import diagnose
        from memprof.profiler import read_session

        diagnosis = diagnose(read_session(session))
        answer = {
            "exit_status": outcome.exit_status,
            "exception": outcome.exception,
            "losses": list(losses.values),
            **_figures(diagnosis),
            "findings": [_finding(finding) for finding in diagnosis.findings],
        }
    Path(order["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return outcome.exit_status


def _figures(diagnosis: Diagnosis) -> dict[str, Any]:
    from memprof.model.iterations import usual_duration_ns
    from memprof.report.wording import main_device

    model = diagnosis.model
    device = main_device(model)
    peak = model.peaks.get(device or "")
    trend = model.trends.get(device or "")
    loop = [item for item in model.iterations if item.kind != "other" and item.complete]
    return {
        "device": device,
        "peak_bytes": None if peak is None else peak.allocated_bytes,
        "peak_source": None if peak is None else peak.source.value,
        "bytes_per_iteration": None if trend is None else trend.bytes_per_iteration,
        "growth_source": None if trend is None else trend.source.value,
        "iteration_ns": usual_duration_ns(loop),
        "iterations": len(loop),
    }


def _finding(finding: Any) -> dict[str, Any]:
    where = finding.location
    return {
        "code": finding.code,
        "kind": finding.kind.value,
        "severity": finding.severity.value,
        "file": None if where is None else where.file,
        "line": None if where is None else where.line,
        "bytes_per_iteration": finding.bytes_per_iteration,
        "device": finding.device,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
