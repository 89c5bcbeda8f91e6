"""Write `docs/rules/`: one page a rule, from the same text that `memprof explain` shows.

With `--check` nothing is written, and a page that does not say what its rule says is a failure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

RULES_DIR = Path(__file__).parent / "rules"

_INDEX = """\
# Rules

Each rule looks for one way of wasting memory, decides on what was recorded, and says so with a finding. The
same text is shown by `memprof explain CODE`.

{table}

```{{toctree}}
:hidden:

{toctree}
```
"""


class DocumentedRule(Protocol):
    """What a rule's page is made from."""

    code: str

    def name(self) -> str:
        """Give the name in words joined by hyphens."""
        ...

    def summary(self) -> str:
        """Give the first line of the page."""
        ...

    def page(self) -> str:
        """Give the page as Markdown."""
        ...


def pages(rules: Iterable[DocumentedRule]) -> dict[str, str]:
    """Render every file of `docs/rules/`.

    Args:
        rules: Rule classes, in the order of the index.

    Returns:
        File name -> content.
    """
    rules = tuple(rules)
    files = {f"{rule.code}.md": rule.page().rstrip() + "\n" for rule in rules}
    rows = [f"| [{rule.code}]({rule.code}.md) | {rule.name()} | {rule.summary()} |" for rule in rules]
    files["index.md"] = _INDEX.format(
        table="\n".join(["| code | rule | problem |", "|---|---|---|", *rows]),
        toctree="\n".join(rule.code for rule in rules),
    )
    return files


def drift(files: Mapping[str, str], folder: Path) -> list[str]:
    """Say what is missing, stale or too much in a folder of pages, one sentence each."""
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    problems = [f"{name} is missing" for name in sorted(files.keys() - found.keys())]
    problems += [f"{name} belongs to no rule" for name in sorted(found.keys() - files.keys())]
    problems += [f"{name} is out of date" for name in sorted(files) if found.get(name) not in (None, files[name])]
    return problems


def write(files: Mapping[str, str], folder: Path) -> list[str]:
    """Bring a folder of pages up to date, touching only files that differ.

    Returns:
        Names of the files written or removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for path in folder.glob("*.md"):
        if path.name not in files:
            path.unlink()
            changed.append(path.name)
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            changed.append(name)
    return sorted(changed)


def rule_pages() -> dict[str, str]:
    """Render the pages of the rules that memprof has."""
    from memprof.detect import RULES

    return pages(RULES)


def main() -> int:
    """Run as a command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write docs/rules/ from the rules.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on drift")
    files = rule_pages()
    if parser.parse_args().check:
        problems = drift(files, RULES_DIR)
        for problem in problems:
            print(f"docs/rules: {problem}", file=sys.stderr)
        if problems:
            print("bring them up to date with: python docs/generate_rules.py", file=sys.stderr)
        return 1 if problems else 0
    for name in write(files, RULES_DIR):
        print(f"docs/rules/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
