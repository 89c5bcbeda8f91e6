"""The directive `module-list`: every module of memprof with the first line of its docstring."""

from __future__ import annotations

import ast
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

ROOT = Path(__file__).parents[2]


def summary(path: Path) -> str:
    """First line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def render(package: Path) -> str:
    """A package and its subpackages as Markdown: a table of modules for each."""
    rows = [
        f"| `{path.name}` | {summary(path)} |".replace("`|`", "`\\|`")
        for path in sorted(package.glob("*.py"))
        if path.name != "__init__.py"
    ]
    name = package.relative_to(ROOT).as_posix()
    tables = [f"**`{name}/`** {summary(package / '__init__.py')}", "\n".join(["| file | holds |", "|---|---|", *rows])]
    inner = [render(path.parent) for path in sorted(package.glob("*/__init__.py"))]
    return "\n\n".join([*tables, *inner])


class ModuleList(SphinxDirective):
    """Shows what every file of the package holds, in its own words."""

    def run(self) -> list[nodes.Node]:
        """Render the tables."""
        for path in (ROOT / "memprof").rglob("*.py"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(render(ROOT / "memprof"))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("module-list", ModuleList)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
