"""What a step costs, in seconds, as a function of its rows: a small table, learnt from the steps that were run.

Rows are nearly free while a step waits for memory and dear once it waits for arithmetic; where the bend lies depends on
device, model and precision, so it is measured. Between the table's points the cost is a straight line, beyond them it
goes on as between the outer two, down to no less than a proportional share. The caller reads the clock; nothing here
does. Where little is known, few rows are thought cheap rather than dear: then the plain step is taken, and measured.

A step is often slower than it must be (a neighbour, a page fault, a kernel being built) and never faster: estimates
follow shorter times quickly and longer ones slowly, and no number of rows is thought to cost more than a larger one
did. What a point costs above the one before it is believed less the longer ago it was measured, so that one bad moment
cannot keep something from being tried again; tried once, the point is believed in full again.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

DOWN: Final = 0.5
UP: Final = 1 / 8
"""Share of the difference that an estimate goes towards a shorter and a longer time."""

HALF_LIFE_STEPS: Final = 256
"""Of the belief in what a point costs more than fewer rows. A retry that disappoints so costs one step in hundreds."""


@dataclass(slots=True)
class _Point:
    """The estimate for one bucket of numbers of rows."""

    rows: float  # mean of those measured
    seconds: float
    step: int  # when it was measured last


class StepCosts:
    """Seconds by rows. While nothing is known, every step costs the same."""

    def __init__(self) -> None:
        self._points: dict[int, _Point] = {}  # by bucket
        self._rows: list[float] = []  # the points' rows, rising
        self._seconds: list[float] = []  # theirs, each lowered to the least of those with more rows
        self._steps = 0

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of `num_rows` rows took this long; times of 0 (a clock that stands still) say nothing."""
        if seconds <= 0:
            return
        self._steps += 1
        point = self._points.setdefault(bucket_of(num_rows), _Point(num_rows, seconds, self._steps))
        point.seconds += (DOWN if seconds < point.seconds else UP) * (seconds - point.seconds)
        point.rows += UP * (num_rows - point.rows)
        point.step = self._steps
        self._draw_line()

    def _draw_line(self) -> None:
        """Some twenty points at most."""
        points = sorted(self._points.values(), key=lambda point: point.rows)
        believed: list[float] = []
        for point in points:
            below = believed[-1] if believed else point.seconds
            belief = 0.5 ** ((self._steps - point.step) / HALF_LIFE_STEPS) if point.seconds > below else 1.0
            believed.append(below + belief * (point.seconds - below))
        self._rows = [point.rows for point in points]
        self._seconds = list(accumulate(reversed(believed), min))[::-1]

    def seconds(self, num_rows: int) -> float:
        """Predicted seconds of a step, never falling with its rows; in units of any step while nothing is known."""
        rows, seconds = self._rows, self._seconds
        if not rows:
            return 1.0
        right = min(max(bisect_right(rows, num_rows), 1), len(rows) - 1)
        left = max(right - 1, 0)
        slope = (seconds[right] - seconds[left]) / (rows[right] - rows[left]) if left < right else 0.0
        line = seconds[left] + slope * (num_rows - rows[left])
        if num_rows >= rows[left]:
            return line
        proportion = seconds[left] * num_rows / rows[left]  # a row costs no more in company
        return max(line, proportion) if left < right else proportion


def bucket_of(num_rows: int) -> int:
    """Exact below 8 rows, then four buckets an octave: 8, 10, 12, 14, 16, 20, ..."""
    shift = max(0, num_rows.bit_length() - 3)
    return num_rows >> shift << shift
