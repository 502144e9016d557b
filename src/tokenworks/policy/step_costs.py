"""What a step costs, in seconds, as a function of its rows: a small table, learnt from the steps that were run.

Rows are nearly free while a step waits for memory and dear once it waits for arithmetic; where the bend lies depends on
device, model and precision, so it is measured. Between the table's points the cost is a straight line, beyond them it
goes on as between the outer two, down to no less than a proportional share. The caller reads the clock; nothing here
does. Where little is known, few rows are thought cheap rather than dear: then the plain step is taken, and measured.

A step is often slower than it must be (a neighbour, a page fault, a kernel being built) and never faster: estimates
follow shorter times quickly and longer ones slowly. A point that was not measured for long is forgotten, so that a cost
that kept something from being tried cannot keep it so for ever.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

DOWN: Final = 0.5
UP: Final = 1 / 16
"""Share of the difference that an estimate goes towards a shorter and a longer time."""

MAX_AGE_STEPS: Final = 1000


@dataclass(slots=True)
class _Point:
    """The estimate for one bucket of row counts."""

    rows: float  # mean of those measured
    seconds: float
    step: int  # when it was measured last


class StepCosts:
    """Seconds by rows. While nothing is known, every step costs the same."""

    def __init__(self) -> None:
        self._points: dict[int, _Point] = {}
        self._buckets: list[int] = []  # keys of `_points`, rising
        self._steps = 0

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of `num_rows` rows took this long; times of 0 (a clock that stands still) say nothing."""
        if seconds <= 0:
            return
        self._steps += 1
        bucket = bucket_of(num_rows)
        point = self._points.get(bucket)
        if point is None:
            self._points[bucket] = _Point(num_rows, seconds, self._steps)
            self._forget_old()
            return
        share = DOWN if seconds < point.seconds else UP
        point.seconds += share * (seconds - point.seconds)
        point.rows += UP * (num_rows - point.rows)
        point.step = self._steps
        if self._steps % MAX_AGE_STEPS == 0:
            self._forget_old()

    def _forget_old(self) -> None:
        oldest = self._steps - MAX_AGE_STEPS
        self._points = {bucket: point for bucket, point in self._points.items() if point.step > oldest}
        self._buckets = sorted(self._points)

    def seconds(self, num_rows: int) -> float:
        """Predicted seconds of a step; in units of any step while nothing is known."""
        if not self._buckets:
            return 1.0
        right = min(max(bisect_right(self._buckets, num_rows), 1), len(self._buckets) - 1)
        left = max(right - 1, 0)
        return _line(self._points[self._buckets[left]], self._points[self._buckets[right]], num_rows)


def bucket_of(num_rows: int) -> int:
    """Exact below 8 rows, then four buckets an octave: 8, 10, 12, 14, 16, 20, ..."""
    shift = max(0, num_rows.bit_length() - 3)
    return num_rows >> shift << shift


def _line(left: _Point, right: _Point, num_rows: int) -> float:
    """Between two points, straight; outside them as well, but there more rows never cost less, nor more each."""
    slope = (right.seconds - left.seconds) / (right.rows - left.rows) if right.rows > left.rows else 0.0
    if num_rows > right.rows:
        return right.seconds + max(0.0, slope) * (num_rows - right.rows)
    line = left.seconds + slope * (num_rows - left.rows)
    if num_rows >= left.rows:
        return line
    proportion = left.seconds * num_rows / left.rows
    return proportion if left is right else min(max(line, proportion), left.seconds)
