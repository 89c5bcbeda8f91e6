"""The directive `gpu-table`: the catalogue of GPUs."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from memprof.simulate.gpus import GPUS
from memprof.units import format_bytes

_TITLES = ("GPU", "total", "context", "for PyTorch", "source of the total")


class GpuTable(SphinxDirective):
    """Shows every GPU memprof knows by name."""

    def run(self) -> list[nodes.Node]:
        """Render a table."""
        rows = [
            (
                gpu.name,
                format_bytes(gpu.total_bytes),
                format_bytes(gpu.context_bytes),
                format_bytes(gpu.usable_bytes),
                gpu.source,
            )
            for gpu in GPUS
        ]
        group = nodes.tgroup(cols=len(_TITLES))
        group += [nodes.colspec(colwidth=width) for width in (12, 9, 9, 11, 40)]
        head = nodes.thead()
        head += _row(_TITLES)
        body = nodes.tbody()
        body += [_row(cells) for cells in rows]
        group += [head, body]
        table = nodes.table()
        table += group
        return [table]


def _row(cells: tuple[str, ...]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph(text=cell)
        row += entry
    return row


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("gpu-table", GpuTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
