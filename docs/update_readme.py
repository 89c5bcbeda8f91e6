"""Run the demo and put what it printed, and the picture it drew, into the README.

The text between the two marks in README.md is replaced, and so is docs/_static/demo.png. Sizes come out
nearly the same on every machine with the same torch; times do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = Path("docs/_static/demo.png")
SAMPLE = "samples/quickstart.py"
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
COLUMNS = 80


def run_demo() -> str:
    """Profile the sample and return what a terminal without colour would have shown."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    environment.pop("FORCE_COLOR", None)
    with tempfile.TemporaryDirectory() as folder:
        recording = str(Path(folder) / "demo.memprof")
        command = ["analyze", "--plot", str(PICTURE), "-o", recording, SAMPLE]
        result = subprocess.run(
            [sys.executable, "-m", "memprof", *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            check=True,
        )
        return result.stdout.replace(recording, "quickstart.memprof")


def section(output: str) -> str:
    """Format the generated part of the README."""
    lines = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
    return (
        f"```console\n$ memprof analyze --plot demo.png {SAMPLE}\n{lines}\n```\n\n"
        f"![Allocated memory per iteration, by category, of the sample]({PICTURE.as_posix()})\n"
    )


def replace(text: str, generated: str) -> str:
    """Put generated text between the marks.

    Raises:
        ValueError: The marks are not both there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md needs {BEGIN} and {END} once each, in this order")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{generated}{END}{tail}"


def main() -> None:
    """Run as a command."""
    text = README.read_text(encoding="utf-8")
    README.write_text(replace(text, section(run_demo())), encoding="utf-8")
    print(f"{README.name} and {PICTURE} are up to date")


if __name__ == "__main__":
    main()
