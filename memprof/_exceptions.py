"""Exceptions that the user's code raised: which lie behind one, and what it says."""

from __future__ import annotations

from collections.abc import Iterator


def with_those_behind(error: BaseException, *, contexts: bool = True) -> Iterator[BaseException]:
    """An exception, what it was raised from, and the members of groups among them, each once.

    Args:
        error: It.
        contexts: Also go to exceptions during whose handling another was raised, by chance or not.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        item = pending.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        pending += getattr(item, "exceptions", ())  # of an `ExceptionGroup`, which Python 3.10 does not have
        pending += (item.__context__ if contexts else None, item.__cause__)


def message_of(error: BaseException) -> str:
    """What an exception says, also where its own `__str__` fails."""
    try:
        return str(error)
    except Exception:
        return "<no message: its __str__ failed>"


__all__ = ["message_of", "with_those_behind"]
