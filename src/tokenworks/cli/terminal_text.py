"""Text from outside, made safe for a terminal: ids, tags, tenants and spans are whatever somebody sent."""

from __future__ import annotations

from typing import Final

MAX_CHARS: Final = 200


def printable(text: str, most: int = MAX_CHARS) -> str:
    """What can be shown stays as it is; control, formatting and direction characters are written out as escapes.

    No more than `most` characters, escapes included.
    """
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def counted(count: int, noun: str) -> str:
    """ "1 trace", "2,000 traces"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
