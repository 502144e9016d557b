"""Figures as people read them: three digits that count, with their unit; and text of others that cannot do harm."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

NOTHING: Final = "–"
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def figure(value: float | None, unit: str) -> str:
    """A figure in one of the units of `observe.columns`."""
    if value is None or math.isnan(value):
        return NOTHING
    if unit == "share":
        return _percent(value)
    if unit == "s":
        return duration(value)
    if unit in ("bytes", "bytes/s"):
        return size(value) + unit.removeprefix("bytes")
    return number(value)


def number(value: float) -> str:
    """12,345 or 1.23 or 0.0123; whole numbers in full."""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def duration(seconds: float) -> str:
    """Microseconds to hours, in the unit that suits."""
    if abs(seconds) < 1e-3:
        return f"{number(_rounded(seconds * 1e6))} µs"
    if abs(seconds) < 1:
        return f"{number(_rounded(seconds * 1e3))} ms"
    if abs(seconds) < 600:
        return f"{number(_rounded(seconds))} s"
    return f"{number(_rounded(seconds / 60))} min" if abs(seconds) < 7200 else f"{number(_rounded(seconds / 3600))} h"


def size(num_bytes: float) -> str:
    """Bytes, in powers of 1024."""
    power = min(int(math.log2(abs(num_bytes)) // 10), len(_BINARY) - 1) if abs(num_bytes) >= 1 else 0
    return f"{number(_rounded(num_bytes / 1024**power))} {_BINARY[power]}"


def moment(at_ns: int) -> str:
    """This machine's date and time."""
    return datetime.fromtimestamp(at_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def plain(text: str, most: int = 60) -> str:
    """Somebody's text without what moves a terminal's cursor, cut to `most` characters."""
    shown = "".join(character if character.isprintable() else "·" for character in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _percent(share: float) -> str:
    """Never 100 % or 0 % for what is not."""
    for digits in (1, 2, 3):
        shown = f"{share:.{digits}%}"
        if share in (0, 1) or shown not in (f"{1:.{digits}%}", f"{0:.{digits}%}"):
            return shown
    return "<0.001%" if share < 0.5 else ">99.999%"


def _rounded(value: float) -> float:
    """To three digits that count."""
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)
