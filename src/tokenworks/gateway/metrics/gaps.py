"""The gaps between token events: noted once, for the record of their request and for the histogram of all.

There is one for every token of every answer, so noting one is no more than an append to its request's array. The
histogram takes them in by the thousand: of requests that have ended, and, when somebody looks, of those under way. It
is always what a histogram would be that counts each as it comes; of one event loop.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenworks.gateway.metrics.tally import Buckets, Tally

LONGEST_GAP_US: Final = (1 << 32) - 1
COUNTED_AT_ONCE: Final = 1 << 12
"""Gaps: a twentieth of a millisecond. Fewer cost more each, a fixed part being shared by less."""


class GapHistogram(Collector):
    """Whole microseconds in, seconds shown."""

    def __init__(self, name: str, text: str, bounds_s: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._tally = Tally(Buckets(bounds_s))
        self._bounds_us = np.array([round(bound_s * 1e6) for bound_s in bounds_s], np.uint32)
        self._open: dict[int, tuple[array[int], int]] = {}  # by id: a request's, and how many of them are taken in
        self._uncounted = array("I")

    def open(self) -> array[int]:
        """For the gaps of a request, to append to, until it is closed."""
        gaps_us = array("I")
        self._open[id(gaps_us)] = (gaps_us, 0)
        return gaps_us

    def close(self, gaps_us: array[int]) -> None:
        """Nothing more is appended."""
        _, taken = self._open.pop(id(gaps_us))
        self._uncounted += gaps_us[taken:] if taken else gaps_us
        if len(self._uncounted) >= COUNTED_AT_ONCE:
            self._count()

    def collect(self) -> Iterable[Metric]:
        """The one series."""
        for key, (gaps_us, taken) in self._open.items():
            self._uncounted += gaps_us[taken:]
            self._open[key] = (gaps_us, len(gaps_us))
        self._count()
        family = HistogramMetricFamily(self._name, self._text, labels=[])
        self._tally.show(family, [])
        return [family]

    def _count(self) -> None:
        gaps_us = np.frombuffer(self._uncounted, np.uint32)
        counts = np.bincount(np.searchsorted(self._bounds_us, gaps_us), minlength=len(self._bounds_us) + 1)
        self._tally.add_counts(counts.tolist(), int(gaps_us.sum()) / 1e6)
        self._uncounted = array("I")
