"""Percentiles that can be merged: counts in buckets whose bounds grow by a constant factor.

The method is DDSketch's (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch", VLDB 2019): a
value x > 0 falls into bucket ceil(log(x) / log(g)), g = (1 + ERROR) / (1 - ERROR), and every quantile that is read is
within `ERROR` of the true one, relatively, however many sketches were merged. Values of 0 and below count as `FLOOR`.

Encoded, a sketch is its buckets in rising order: uint16 number, uint32 count, little endian, 6 bytes each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np

ERROR: Final = 0.01
FLOOR: Final = 1.0
_GAMMA: Final = (1 + ERROR) / (1 - ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
BUCKET: Final = np.dtype([("number", "<u2"), ("count", "<u4")])
_MOST: Final = 0xFFFF


class Sketch:
    """Values in whatever unit, usually nanoseconds, from `FLOOR` up."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self._counts[_bucket(value)] += times

    def add_many(self, values: np.ndarray) -> None:
        """Count many; any numeric dtype."""
        numbers = np.ceil(np.log(np.maximum(values, FLOOR)) / _LOG_GAMMA).astype(np.int64).clip(0, _MOST)
        for number, count in zip(*np.unique(numbers, return_counts=True), strict=True):
            self._counts[int(number)] += int(count)

    def merge(self, other: Sketch) -> None:
        """Take in another."""
        self._counts.update(other._counts)

    def quantile(self, share: float) -> float:
        """The value below which `share` (0 to 1) of all lie; NaN where there are none."""
        wanted = share * (len(self) - 1)
        seen = 0
        for number in sorted(self._counts):
            seen += self._counts[number]
            if seen > wanted:
                return _value(number)
        return math.nan

    def count_above(self, value: float) -> int:
        """How many lie above the bucket of `value`."""
        limit = _bucket(value)
        return sum(count for number, count in self._counts.items() if number > limit)

    def encode(self) -> bytes:
        """The buckets."""
        rows = [(number, min(count, 0xFFFFFFFF)) for number, count in sorted(self._counts.items()) if count]
        return np.array(rows, BUCKET).tobytes()

    @classmethod
    def decode(cls, raw: bytes) -> Sketch:
        """What `encode` gave; raises ValueError for what it cannot have given."""
        return cls.merged([raw])

    @classmethod
    def merged(cls, encoded: Iterable[bytes]) -> Sketch:
        """One sketch of many encoded ones, at NumPy's speed; raises ValueError as `decode` does."""
        rows = np.frombuffer(b"".join(encoded), BUCKET)
        sketch = cls()
        if len(rows):
            totals = np.bincount(rows["number"], weights=rows["count"])
            sketch._counts.update({int(number): int(totals[number]) for number in np.flatnonzero(totals)})
        return sketch


def _bucket(value: float) -> int:
    return min(_MOST, math.ceil(math.log(value) / _LOG_GAMMA)) if value > FLOOR else 0


def _value(number: int) -> float:
    """The value that is within `ERROR` of everything in the bucket."""
    return 2 * _GAMMA**number / (_GAMMA + 1)
