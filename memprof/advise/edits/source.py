"""A source file as LibCST sees it, and the changes that put something around, before or behind a node."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, ParentNodeProvider, PositionProvider

from memprof.advise.edits.changes import BREAKS, CannotEdit, Change

if TYPE_CHECKING:
    from libcst.metadata import CodeRange, CodeSpan

_Node = TypeVar("_Node", bound=cst.CSTNode)

_BOM = b"\xef\xbb\xbf"

Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement


@dataclass(frozen=True)
class SourceFile:
    """A file parsed, with the place of every node.

    Attributes:
        path: Where it lies.
        text: Its text in UTF-8.
        encoding: How the file is encoded.
        bom: Whether it begins with a byte order mark.
    """

    path: str
    text: bytes
    encoding: str = "utf-8"
    bom: bool = False

    def with_text(self, text: bytes) -> SourceFile:
        """The file with another text, in UTF-8."""
        return SourceFile(self.path, text, self.encoding, self.bom)

    @classmethod
    def read(cls, path: str) -> SourceFile:
        """Read a file.

        Raises:
            CannotEdit: It cannot be read or is not Python that can be parsed.
        """
        try:
            raw = Path(path).read_bytes()
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            bom = raw.startswith(_BOM)
            text = raw.removeprefix(_BOM).decode(encoding.removesuffix("-sig"))
            source = cls(path, text.encode("utf-8"), encoding.removesuffix("-sig"), bom)
            source.module  # noqa: B018 - parsed here, so that a failure is told here
        except (OSError, SyntaxError, UnicodeError, ValueError) as error:
            raise CannotEdit(f"{path} cannot be read: {error}") from error
        except cst.ParserSyntaxError as error:
            raise CannotEdit(f"{path} cannot be parsed: {error.message}") from error
        return source

    def encoded(self, text: bytes) -> bytes:
        """Give text in the encoding of the file, as it is to be written.

        Args:
            text: In UTF-8.
        """
        return (_BOM if self.bom else b"") + text.decode("utf-8").encode(self.encoding)

    # ---- the tree --------------------------------------------------------------------------

    @cached_property
    def _wrapper(self) -> MetadataWrapper:
        return MetadataWrapper(cst.parse_module(self.text.decode("utf-8")), unsafe_skip_copy=True)

    @property
    def module(self) -> cst.Module:
        """The root of the tree."""
        return self._wrapper.module

    @cached_property
    def _spans(self) -> Mapping[cst.CSTNode, CodeSpan]:
        return self._wrapper.resolve(ByteSpanPositionProvider)

    @cached_property
    def _ranges(self) -> Mapping[cst.CSTNode, CodeRange]:
        return self._wrapper.resolve(PositionProvider)

    @cached_property
    def _parents(self) -> Mapping[cst.CSTNode, cst.CSTNode]:
        return self._wrapper.resolve(ParentNodeProvider)

    def code(self, node: cst.CSTNode) -> str:
        """The text of a node with the parentheses around it."""
        return self.module.code_for_node(node)

    def lines(self, node: cst.CSTNode) -> tuple[int, int]:
        """First and last line of a node; a body counts."""
        where = self._ranges[node]
        return where.start.line, where.end.line

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """The node around a node."""
        return self._parents.get(node)

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The nodes around a node, innermost first."""
        above = self.parent(node)
        while above is not None:
            yield above
            above = self.parent(above)

    def nodes(self, kind: type[_Node] | tuple[type[_Node], ...], root: cst.CSTNode | None = None) -> Iterator[_Node]:
        """All nodes of a kind below a node (the module), in order; nested functions are entered."""
        stack: list[cst.CSTNode] = [self.module if root is None else root]
        while stack:
            node = stack.pop()
            if isinstance(node, kind):
                yield node
            stack.extend(reversed(node.children))

    def statement(self, line: int) -> Statement:
        """The innermost statement whose own text, a body left out, covers a line.

        Raises:
            CannotEdit: There is none.
        """
        best: Statement | None = None
        for node in self.nodes(cst.CSTNode):
            if not isinstance(node, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
                continue
            first, last = self.lines(node)
            if first <= line <= last:
                best = node  # the walk goes inwards
        if best is None:
            raise CannotEdit(f"line {line} of {self.path} is no statement; was the file changed since the run?")
        return best

    def function(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """The function a node is in."""
        return next((above for above in self.ancestors(node) if isinstance(above, cst.FunctionDef)), None)

    def scope(self, node: cst.CSTNode) -> cst.FunctionDef | cst.Module:
        """The function a node is in, or the module."""
        return self.function(node) or self.module

    def loops(self, node: cst.CSTNode) -> list[cst.For | cst.While]:
        """The loops around a node in its function, innermost first."""
        found: list[cst.For | cst.While] = []
        for above in self.ancestors(node):
            if isinstance(above, (cst.FunctionDef, cst.ClassDef, cst.Lambda)):
                break
            if isinstance(above, (cst.For, cst.While)):
                found.append(above)
        return found

    def block(self, node: cst.CSTNode) -> Sequence[cst.CSTNode]:
        """The statements of a body: of a loop, a function, or the module.

        Raises:
            CannotEdit: The body is on the line of its header.
        """
        if isinstance(node, cst.Module):
            return node.body
        body = getattr(node, "body", None)
        if not isinstance(body, cst.IndentedBlock):
            raise CannotEdit("the body stands on the line of its header")
        return body.body

    # ---- changes ---------------------------------------------------------------------------

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Where a node begins and ends in `text`, with the parentheses around it."""
        span = self._spans[node]
        start, end = span.start, span.start + span.length
        if isinstance(node, cst.BaseExpression):
            start -= sum(len(self.code(paren).encode("utf-8")) for paren in node.lpar)
            end += sum(len(self.code(paren).encode("utf-8")) for paren in node.rpar)
        return start, end

    def replaced(self, node: cst.CSTNode, text: str) -> Change:
        """Put text in place of a node."""
        return Change(*self.span(node), text)

    def suffixed(self, node: cst.BaseExpression, suffix: str) -> tuple[Change, ...]:
        """Put a method call behind an expression: `a + b` becomes `(a + b).item()`."""
        start, end = self.span(node)
        atom = bool(node.lpar) or isinstance(
            node, (cst.Name, cst.Attribute, cst.Call, cst.Subscript, cst.List, cst.ListComp, cst.Dict, cst.DictComp)
        )
        if isinstance(node, cst.Await):
            atom = bool(node.lpar)
        if atom:
            return (Change(end, end, suffix),)
        return Change(start, start, "("), Change(end, end, f"){suffix}")

    def wrapped(self, node: cst.BaseExpression, before: str, after: str) -> tuple[Change, ...]:
        """Put text around an expression."""
        start, end = self.span(node)
        return Change(start, start, before), Change(end, end, after)

    def line_span(self, first: int, last: int) -> tuple[int, int]:
        """Where lines begin and end, the line break included."""
        starts = self._line_starts
        return starts[first - 1], starts[last] if last < len(starts) else len(self.text)

    @property
    def line_count(self) -> int:
        """Lines of the file."""
        return len(self._line_starts)

    @cached_property
    def _line_starts(self) -> list[int]:
        starts = [0, *(found.end() for found in BREAKS.finditer(self.text))]
        if starts[-1] == len(self.text):
            starts.pop()
        return starts

    def indentation(self, node: cst.CSTNode) -> str:
        """White space in front of a statement.

        Raises:
            CannotEdit: Something else stands in front of it on its line.
        """
        start, _ = self.span(node)
        begin, _ = self.line_span(self.lines(node)[0], self.lines(node)[0])
        space = self.text[begin:start].decode("utf-8")
        if space.strip():
            raise CannotEdit(f"line {self.lines(node)[0]} holds more than one statement")
        return space

    @property
    def newline(self) -> str:
        """The line break of the file."""
        return self.module.default_newline

    def before(self, statement: cst.CSTNode, *lines: str) -> Change:
        """Put lines in front of a statement, indented as it is."""
        space = self.indentation(statement)
        begin, _ = self.line_span(self.lines(statement)[0], self.lines(statement)[0])
        return Change(begin, begin, "".join(f"{space}{line}{self.newline}" for line in lines))

    def after(self, statement: cst.CSTNode, *lines: str) -> Change:
        """Put lines behind a statement, indented as it is."""
        space = self.indentation(statement)
        last = self.lines(statement)[1]
        _, end = self.line_span(last, last)
        text = "".join(f"{space}{line}{self.newline}" for line in lines)
        if not self.text[:end].endswith((b"\n", b"\r")):
            text = self.newline + text.removesuffix(self.newline)
        return Change(end, end, text)

    def under(self, first: cst.CSTNode, last: cst.CSTNode, header: str) -> tuple[Change, ...]:
        """Put statements under a header such as `with torch.no_grad():`.

        Lines are indented by one level; those inside a string are left alone. Comments directly above the first
        statement stay above the header.
        """
        begin, end = self.lines(first)[0], self.lines(last)[1]
        inside = {
            line
            for text in self.nodes((cst.SimpleString, cst.FormattedString, cst.ConcatenatedString))
            for line in range(self.lines(text)[0] + 1, self.lines(text)[1] + 1)
        }
        level = self.module.default_indent
        changes = [self.before(first, header)]
        for line in range(begin, end + 1):
            start, stop = self.line_span(line, line)
            if line not in inside and self.text[start:stop].strip():
                changes.append(Change(start, start, level))
        return tuple(changes)

    # ---- imports ---------------------------------------------------------------------------

    def torch_name(self) -> tuple[str, tuple[Change, ...]]:
        """What `torch` is called in the file, and the change that imports it where it is not imported."""
        for imported in self.nodes(cst.Import):
            if any(isinstance(above, (cst.FunctionDef, cst.ClassDef)) for above in self.ancestors(imported)):
                continue  # the name is not there elsewhere
            for alias in imported.names:
                if self.code(alias.name) == "torch":
                    return (alias.evaluated_alias or "torch"), ()
                if self.code(alias.name).startswith("torch.") and alias.asname is None:
                    return "torch", ()
        return "torch", (self._import("import torch"),)

    def imported(self, name: str) -> tuple[Change, ...]:
        """The change that imports a module by its name; () where the file does so already."""
        for statement in self.nodes(cst.Import):
            if any(self.code(alias.name) == name and alias.asname is None for alias in statement.names):
                return ()
        return (self._import(f"import {name}"),)

    def _import(self, text: str) -> Change:
        last: cst.CSTNode | None = None
        for index, statement in enumerate(self.module.body):
            small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
            docstring = index == 0 and isinstance(small, cst.Expr) and isinstance(small.value, cst.BaseString)
            if docstring or (
                isinstance(small, cst.ImportFrom)
                and isinstance(small.module, cst.Name)
                and small.module.value == "__future__"
            ):
                last = statement
            elif isinstance(small, (cst.Import, cst.ImportFrom)):
                return self.before(statement, text)
            else:
                break
        if last is not None:
            return self.after(last, text)
        if not self.module.body:
            return Change(0, 0, text + self.newline)
        return self.before(self.module.body[0], text)


__all__ = ["SourceFile", "Statement"]
