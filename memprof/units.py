"""Sizes as people read and write them: KiB, MiB, GiB."""

from __future__ import annotations

import re

from memprof._errors import UsageError

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*((?:[KMGT]i?)?B?)\s*", re.IGNORECASE)


def format_bytes(nbytes: float, *, signed: bool = False) -> str:
    """Show a size with a binary unit and at most four significant digits.

    Args:
        nbytes: Size in bytes; may be negative.
        signed: Whether to write a `+` before sizes above zero.

    Returns:
        For example `512 B`, `1.5 MiB`, `+38.2 MiB`.
    """
    sign = "-" if nbytes < 0 else "+" if signed and nbytes > 0 else ""
    size = abs(nbytes)
    unit = "B"
    for name, factor in _UNITS.items():
        if round(size * 1024 / factor) >= 1024 or name == "B":  # 1023.9 KiB is shown as 1 MiB, not 1024 KiB
            unit = name
    value = size / _UNITS[unit]
    if unit == "B":
        return f"{sign}{value:.0f} B"
    digits = 0 if value >= 1000 else 1 if value >= 10 else 2
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{sign}{text} {unit}"


def parse_bytes(text: str) -> int:
    """Read a size such as `512 MiB`, `8GiB` or `1024`.

    Args:
        text: A number with an optional unit; `K`, `KB` and `KiB` all mean 1024 bytes.

    Returns:
        The size in bytes.

    Raises:
        UsageError: The text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size; write for example 512MiB or 8GiB")
    prefix = match.group(2)[:1].upper()
    unit = "B" if prefix in ("", "B") else f"{prefix}iB"
    return round(float(match.group(1)) * _UNITS[unit])
