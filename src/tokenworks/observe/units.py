"""Figures as people read them, wherever they do: three digits that count, with their unit.

The one home of these words: table, explanation, diagnosis and chains all print by them, and the page's script says the
same (a test compares them).
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final, Literal, get_args

NOTHING: Final = "–"
Unit = Literal["s", "share", "count", "per_s", "tokens", "bytes", "money", "times", ""]
UNITS: Final = get_args(Unit)
"""Of the figures that rules of diagnosis name; the table's columns have units of their own."""
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
    """A figure in one of the units of `tables.columns`."""
    if value is None or math.isnan(value):
        return NOTHING
    if unit == "share":
        return percent(value)
    if unit == "s":
        return duration(value)
    if unit in ("bytes", "bytes/s"):
        return size(value) + unit.removeprefix("bytes")
    return money(value) if unit == "currency" else number(value)


def shown(value: float, unit: str, currency: str = "") -> str:
    """A figure in one of `UNITS`, which it says; "unknown" where there is none."""
    if not math.isfinite(value):
        return "unknown"
    if unit in ("s", "share", "bytes"):
        return figure(value, unit)
    if unit == "money":
        return f"{money(value)} {currency}"
    suffix = {"per_s": "/s", "tokens": " tokens", "times": "x"}.get(unit, "")
    return f"{number(value)}{suffix}"


def number(value: float) -> str:
    """12,345 or 1.23 or 0.0123 or 4.25e-5; whole numbers in full."""
    return f"{value:.2e}".replace("e-0", "e-") if 0 < abs(value) < 1e-4 else _plain(value)


def money(value: float) -> str:
    """The same, and plainly however small: 0.0000425. Nobody reads powers of ten on a bill."""
    return _plain(value)


def amount(value: float, whole: float) -> str:
    """Of money, with as many decimals as let four digits of `whole` be read, and two at least; no 0 for what is not."""
    decimals = max(2, _decimals(whole) + 1) if whole else 2
    text = f"{value:,.{decimals}f}"
    return text if value == 0 or text.strip("-0.") else "~0"


def duration(seconds: float) -> str:
    """Microseconds to days, in the unit that suits."""
    if not seconds:
        return "0 s"
    unit_s, unit = next((unit_s, unit) for below_s, unit_s, unit in _DURATIONS if abs(seconds) < below_s)
    return f"{number(seconds / unit_s)} {unit}"


def size(num_bytes: float) -> str:
    """Bytes, in powers of 1024."""
    power = 0
    while abs(num_bytes) >= 1024 and power < len(_BINARY) - 1:
        num_bytes, power = num_bytes / 1024, power + 1
    return f"{number(num_bytes)} {_BINARY[power]}"


def percent(share: float) -> str:
    """Never 100 % or 0 % for what is not."""
    for digits in (1, 2, 3):
        text = f"{share:.{digits}%}"
        if share in (0, 1) or text.lstrip("-") not in (f"{1:.{digits}%}", f"{0:.{digits}%}"):
            return text
    return "~0%" if share < 0.5 else "~100%"


def moment(at_ns: int) -> str:
    """This machine's date and time."""
    return datetime.fromtimestamp(at_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def _plain(value: float) -> str:
    if float(value).is_integer():
        return f"{int(value):,}"
    value = _rounded(value)
    return f"{int(value):,}" if value.is_integer() else f"{value:.{_decimals(value)}f}"


def _rounded(value: float) -> float:
    """To three digits that count; 9.999 is 10."""
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def _decimals(value: float) -> int:
    """Behind the point, so that three digits count."""
    return max(0, 2 - math.floor(math.log10(abs(value))))
