"""Bins of a number, in words; and the range of them whose share grew most.

That is what can be said of any distribution: where there are several peaks, a median lies in one of them or between
them, and jumps from one to another when hardly anything moved.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

_DIGITS: Final = ".4g"


class Bin(msgspec.Struct, frozen=True):
    """One range of a number, or one word, and its share then and now."""

    label: str
    before: float
    after: float


def range_label(bounds: np.ndarray, first: int, last: int) -> str:
    """What the bins `first` to `last` hold; bin i reaches up to bounds[i], the last one has no end."""
    if first == 0 and last == len(bounds):
        return "anything"
    if last == len(bounds):
        return f"above {bounds[first - 1]:{_DIGITS}}"
    upper = f"{bounds[last]:{_DIGITS}}"
    if first == 0:
        is_below = last + 1 < len(bounds) and bounds[last] == np.nextafter(bounds[last + 1], -np.inf)
        return f"below {bounds[last + 1]:{_DIGITS}}" if is_below else f"up to {upper}"
    lower = bounds[first - 1]
    is_one_value = bounds[last] == np.nextafter(lower, np.inf)
    return upper if is_one_value else f"{lower:{_DIGITS}} to {upper}"


def grew_most(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """The first and the last of the neighbouring bins [bins] whose share grew most together (Kadane's algorithm)."""
    best, most, first, total = (0, 0), -np.inf, 0, 0.0
    for at, growth in enumerate((after - before).tolist()):
        if total <= 0:
            first, total = at, 0.0
        total += growth
        if total > most:
            best, most = (first, at), total
    return best
