"""`# noqa` comments."""

from __future__ import annotations

import io
import re
import tokenize

_NOQA = re.compile(r"#\s*noqa(?P<codes>\s*:\s*(?P<list>[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*))?", re.IGNORECASE)

ALL = frozenset(("*",))
"""What a bare `# noqa` suppresses."""


def suppressed(text: str) -> dict[int, frozenset[str]]:
    """Codes that comments suppress, by line.

    A `# noqa` with codes of other tools suppresses nothing here.
    """
    found: dict[int, frozenset[str]] = {}
    if "noqa" not in text.lower():
        return found
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                match = _NOQA.search(token.string)
                if match is not None:
                    codes = match["list"]
                    found[token.start[0]] = (
                        ALL if codes is None else frozenset(code.upper() for code in re.split(r"[,\s]+", codes))
                    )
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def is_suppressed(code: str, lines: dict[int, frozenset[str]], first: int, last: int) -> bool:
    """Whether a comment on the first or the last line of a finding suppresses it."""
    return any("*" in lines[line] or code in lines[line] for line in (first, last) if line in lines)
