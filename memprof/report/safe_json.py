"""JSON text that any reader takes, whatever the user's program is called."""

from __future__ import annotations

import json
from typing import Any


def safe_text(text: str) -> str:
    """Make text strict JSON: a lone surrogate (an undecodable byte in a file name) becomes an escape.

    Args:
        text: Anything that came from the user's program.

    Returns:
        Text that UTF-8 can encode.
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def dump(document: Any, *, indent: int | None = None) -> str:
    r"""Write a document as JSON.

    Args:
        document: JSON values.
        indent: Spaces a level; None writes one line.

    Returns:
        JSON in ASCII, without a newline at the end. `</` is written `<\/`, which is the same JSON, so
        that the text can stand inside an HTML `<script>`.

    Raises:
        ValueError: A number is not finite.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(document, indent=indent, allow_nan=False, separators=separators)
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
