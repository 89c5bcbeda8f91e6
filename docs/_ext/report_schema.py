"""The directive `report-schema`: the JSON schema of a report as tables, one for each kind of object."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

SCHEMAS = Path(__file__).parents[2] / "memprof" / "report"
DEFAULT = "schema.json"

Schema = dict[str, Any]


def describe_type(schema: Schema) -> str:
    """Say in a few words which values a schema allows."""
    if "$ref" in schema:
        return f"[{_title(schema['$ref'])}](#{_title(schema['$ref']).lower().replace(' ', '-')})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(describe_type(choice) for choice in schema[key])
    names = schema.get("type", "any")
    kinds = [names] if isinstance(names, str) else list(names)
    return " or ".join(_describe_kind(kind, schema) for kind in kinds)


def _describe_kind(kind: str, schema: Schema) -> str:
    if kind == "array":
        return f"array of {describe_type(schema['items'])}" if "items" in schema else "array"
    extra = schema.get("additionalProperties")
    if kind == "object" and isinstance(extra, dict):
        return f"object: name -> {describe_type(extra)}"
    return kind


def _title(reference: str) -> str:
    name = reference.rsplit("/", 1)[-1]
    return re.sub(r"(?<=.)([A-Z])|_", r" \1", name).capitalize()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rows(schema: Schema, prefix: str = "") -> list[str]:
    """Rows of a table, those of an object inside an object after their own, with a dotted name."""
    required = set(schema.get("required", ()))
    rows = []
    for name, item in schema.get("properties", {}).items():
        optional = "" if name in required else " (may be absent)"
        cells = (f"`{prefix}{name}`", describe_type(item) + optional, item.get("description", ""))
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        nested, ending = item, "."
        if "properties" not in nested:
            nested, ending = item.get("items") or item.get("additionalProperties") or {}, "[]."
        if isinstance(nested, dict) and "properties" in nested:
            rows += _rows(nested, f"{prefix}{name}{ending}")
    return rows


def render(schema: Schema) -> list[tuple[str, str]]:
    """Turn a schema into sections of Markdown: (title, text)."""
    title = _title(schema.get("title", "report").split()[-1])
    sections = [(title, schema), *((_title(name), part) for name, part in schema.get("$defs", {}).items())]
    rendered = []
    for title, part in sections:
        rows = _rows(part)
        text = [part.get("description", "")]
        table = "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])
        text.append(table if rows else describe_type(part))
        rendered.append((title, "\n\n".join(filter(None, text))))
    return rendered


class ReportSchema(SphinxDirective):
    """Shows a schema that is shipped in the package: the file named by the argument, or that of the report."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Render the tables as sections of the page."""
        path = SCHEMAS / (self.arguments[0] if self.arguments else DEFAULT)
        self.env.note_dependency(str(path))
        schema = json.loads(path.read_text(encoding="utf-8"))
        result: list[nodes.Node] = []
        for title, text in render(schema):
            section = nodes.section(names=[nodes.make_id(title)])
            section += nodes.title(title, title)
            self.state.document.note_explicit_target(section)
            section += self.parse_text_to_nodes(text)
            result.append(section)
        return result


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("report-schema", ReportSchema)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
