"""`# noqa` comments."""

from __future__ import annotations

import io
import re
import tokenize

_CODES = r"(?P<codes>\s*:\s*(?P<list>[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*))?"
_NOQA = re.compile(rf"#\s*noqa{_CODES}", re.IGNORECASE)
_WHOLE_FILE = re.compile(rf"#\s*memprof\s*:\s*noqa{_CODES}", re.IGNORECASE)

ALL = frozenset(("*",))
"""What a bare `# noqa` suppresses."""


def suppressed(text: str) -> dict[int, frozenset[str]]:
    """Codes that comments suppress, by line; under line 0 those of a `# memprof: noqa`, for the whole file.

    A `# noqa` with codes of other tools suppresses nothing here.
    """
    found: dict[int, frozenset[str]] = {}
    if "noqa" not in text.lower():
        return found
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                whole = _WHOLE_FILE.match(token.string) if not token.line[: token.start[1]].strip() else None
                match = whole or _NOQA.search(token.string)
                if match is not None:
                    line = 0 if whole is not None else token.start[0]
                    found[line] = found.get(line, frozenset()) | _codes_of(match)
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def _codes_of(match: re.Match[str]) -> frozenset[str]:
    codes = match["list"]
    return ALL if codes is None else frozenset(code.upper() for code in re.split(r"[,\s]+", codes))


def is_suppressed(code: str, lines: dict[int, frozenset[str]], first: int, last: int) -> bool:
    """Whether a comment on the first or the last line of a finding, or for the whole file, suppresses it."""
    return any("*" in lines[line] or code in lines[line] for line in (0, first, last) if line in lines)
