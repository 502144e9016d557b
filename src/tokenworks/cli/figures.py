"""Figures as people read them: three digits that count, with their unit; and text of others that cannot do harm."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

NOTHING: Final = "–"
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DURATIONS: Final = (  # below so many seconds, that unit
    (1e-3, 1e-6, "µs"),
    (1.0, 1e-3, "ms"),
    (120.0, 1.0, "s"),
    (7200.0, 60.0, "min"),
    (172_800.0, 3600.0, "h"),
    (math.inf, 86_400.0, "d"),
)


def figure(value: float | None, unit: str) -> str:
    """A figure in one of the units of `observe.tables.columns`."""
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
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    value = _rounded(value)
    return f"{value:,.{_decimals(value)}f}"


def amount(value: float, whole: float) -> str:
    """Of money, with as many decimals as let four digits of `whole` be read, and two at least."""
    decimals = max(2, _decimals(whole) + 1) if whole else 2
    return f"{value:,.{decimals}f}"


def duration(seconds: float) -> str:
    """Microseconds to days, in the unit that suits."""
    unit_s, unit = next((unit_s, unit) for below_s, unit_s, unit in _DURATIONS if abs(seconds) < below_s)
    return f"{number(_rounded(seconds / unit_s))} {unit}"


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
        if share in (0, 1) or shown.lstrip("-") not in (f"{1:.{digits}%}", f"{0:.{digits}%}"):
            return shown
    return "~0%" if share < 0.5 else "~100%"


def _rounded(value: float) -> float:
    """To three digits that count; 9.999 is 10."""
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)


def _decimals(value: float) -> int:
    """Behind the point, so that three digits count."""
    return max(0, 2 - math.floor(math.log10(abs(value))))
