"""Percentiles that can be merged: counts in buckets whose bounds grow by a constant factor.

The method is DDSketch's (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch", VLDB 2019): a
value x > 0 falls into bucket ceil(log(x) / log(g)), g = (1 + ERROR) / (1 - ERROR), and every quantile that is read is
within `ERROR` of the true one, relatively, however many sketches were merged. Values of 0 and below count as `FLOOR`.

Encoded, a sketch is its buckets in rising order: uint16 number, uint32 count, little endian, 6 bytes each.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

ERROR: Final = 0.01
FLOOR: Final = 1.0
_GAMMA: Final = (1 + ERROR) / (1 - ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
BUCKET: Final = np.dtype([("number", "<u2"), ("count", "<u4")])
_MOST: Final = 0xFFFF
_LARGEST: Final = 0xFFFFFFFF
_ONE: Final = struct.Struct("<HI")
_ROUNDING: Final = 1e-9  # 0.07 x 100 is a little more than 7
_FEW: Final = 12  # buckets, below which NumPy takes longer to begin than the work takes


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

    def merge(self, other: Sketch) -> None:
        """Take in another."""
        self._counts.update(other._counts)

    def quantile(self, share: float) -> float:
        """The least value that at least `share` (0 to 1) of all do not exceed; NaN where there are none.

        That is the nearest rank, so that a P99 of less than a hundred values is the largest of them, and no better.
        """
        wanted = max(1, math.ceil(share * len(self) - _ROUNDING))
        seen = 0
        for number in sorted(self._counts):
            seen += self._counts[number]
            if seen >= wanted:
                return _value(number)
        return math.nan

    def count_above(self, value: float) -> int:
        """How many lie above the bucket of `value`."""
        limit = _bucket(value)
        return sum(count for number, count in self._counts.items() if number > limit)

    def encode(self) -> bytes:
        """The buckets."""
        numbers = sorted(number for number, count in self._counts.items() if count)
        return _encoded(np.array(numbers, np.int64), np.array([self._counts[number] for number in numbers]))

    @classmethod
    def decode(cls, raw: bytes) -> Sketch:
        """What `encode` gave; raises ValueError for what it cannot have given."""
        return cls.merged([raw])

    @classmethod
    def merged(cls, encoded: Iterable[bytes]) -> Sketch:
        """One sketch of many encoded ones, at NumPy's speed; raises ValueError as `decode` does."""
        numbers, counts = _totals(encoded)
        sketch = cls()
        sketch._counts.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        return sketch


def encode_value(value: float) -> bytes:
    """What a sketch of one value encodes to, some times as fast."""
    return _ONE.pack(_bucket(value), 1)


def encode_values(values: np.ndarray) -> bytes:
    """What a sketch of these values encodes to."""
    if not len(values):
        return b""
    counts = np.bincount(_buckets(values))
    found = np.flatnonzero(counts)
    return _encoded(found, counts[found])


def merge_encoded(encoded: Sequence[bytes]) -> bytes:
    """What the sketch of all of them encodes to; raises ValueError as `Sketch.decode` does."""
    if len(encoded) == 1:
        return encoded[0]
    num_bytes = sum(map(len, encoded))
    if num_bytes > _FEW * _ONE.size or num_bytes % _ONE.size:
        return _encoded(*_totals(encoded))
    counts: Counter[int] = Counter()
    for number, count in _ONE.iter_unpack(b"".join(encoded)):
        counts[number] += count
    return b"".join(_ONE.pack(number, min(counts[number], _LARGEST)) for number in sorted(counts))


def _totals(encoded: Iterable[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The buckets in rising order, and what is in them."""
    rows = np.frombuffer(b"".join(encoded), BUCKET)
    totals = np.bincount(rows["number"], weights=rows["count"]).astype(np.int64)
    numbers = np.flatnonzero(totals)
    return numbers, totals[numbers]


def _encoded(numbers: np.ndarray, counts: np.ndarray) -> bytes:
    rows = np.empty(len(numbers), BUCKET)
    rows["number"] = numbers
    rows["count"] = np.minimum(counts, _LARGEST)
    return rows.tobytes()


def _buckets(values: np.ndarray) -> np.ndarray:
    """`_bucket` of each."""
    numbers = np.ceil(np.log(np.maximum(values, FLOOR)) / _LOG_GAMMA)
    clipped: np.ndarray = numbers.astype(np.int64).clip(0, _MOST)
    return clipped


def _bucket(value: float) -> int:
    return min(_MOST, math.ceil(math.log(value) / _LOG_GAMMA)) if value > FLOOR else 0


def _value(number: int) -> float:
    """The value that is within `ERROR` of everything in the bucket."""
    return 2 * _GAMMA**number / (_GAMMA + 1)
