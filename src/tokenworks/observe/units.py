"""A figure with its unit, as a person reads it."""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

Unit = Literal["s", "share", "count", "per_s", "tokens", "bytes", "money", "times", ""]
UNITS: Final = get_args(Unit)
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def shown(value: float, unit: str, currency: str = "") -> str:
    """`value` in `unit` (one of `UNITS`); "unknown" where there is none."""
    if not math.isfinite(value):
        return "unknown"
    if unit == "s":
        return duration(value)
    if unit == "share":
        return f"{value:.1%}" if abs(value) < 0.1 else f"{value:.0%}"
    if unit == "bytes":
        return size(value)
    suffix = {"per_s": "/s", "tokens": " tokens", "money": f" {currency}", "times": "x"}.get(unit, "")
    return f"{plain(value)}{suffix}"


def duration(seconds: float) -> str:
    """Three digits, in µs, ms or s."""
    size_s = abs(seconds)
    if size_s == 0:
        return "0 s"
    if size_s < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if size_s < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if size_s < 1000 else f"{seconds:,.0f} s"


def size(num_bytes: float) -> str:
    """In powers of 1024."""
    power = 0
    while abs(num_bytes) >= 1024 and power < len(_BINARY) - 1:
        num_bytes /= 1024
        power += 1
    return f"{num_bytes:.3g} {_BINARY[power]}"


def plain(value: float) -> str:
    """A number without a unit: whole where it is, else three digits."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
