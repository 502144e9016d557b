"""Histograms that are added to a hundred times as fast as they are shown: counts in a list, and one exemplar a bucket.

The client library's own histogram takes 3.6 microseconds for a value with an exemplar, most of it spent on locks and on
checking the exemplar's characters; this takes a tenth of that. Rendering stays the library's.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Shown = list[tuple[str, float] | tuple[str, float, Exemplar]]
_TRACE: Final = "trace_id"


class Buckets:
    """Upper bounds, inclusive and rising, and how they are written."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.names = tuple(floatToGoString(bound) for bound in (*bounds, math.inf))


class Tally:
    """One series of a histogram."""

    __slots__ = ("_buckets", "_counts", "_exemplars", "total")

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._counts = [0] * len(buckets.names)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * len(buckets.names)
        self.total = 0.0

    def add(self, value: float, trace_id: str, at_s: float) -> None:
        """Count a value; the trace that it was seen in, if any, stands for its bucket until the next one."""
        index = bisect_left(self._buckets.bounds, value)
        self._counts[index] += 1
        self.total += value
        if trace_id:
            self._exemplars[index] = (trace_id, value, at_s)

    def show(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Its lines."""
        seen = 0
        rows: Shown = []
        for name, count, exemplar in zip(self._buckets.names, self._counts, self._exemplars, strict=True):
            seen += count
            if exemplar is None:
                rows.append((name, seen))
            else:
                trace_id, value, at_s = exemplar
                rows.append((name, seen, Exemplar({_TRACE: trace_id}, value, at_s)))
        if seen:
            family.add_metric(labels, rows, self.total)
