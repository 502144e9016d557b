"""What the observer found out, as metrics: alerts that fire, drift, records that are missing. Read when scraped.

An observer that has not written for `STALE_S`, twice the longest `alerts.interval_s`, counts as down, and nothing old
is shown for new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenworks.observe.journal.writer import JournalState
from tokenworks.observe.observer.figures import Figures, SpanFigures, read_figures

STALE_S: Final = 120.0


class ObserverMetrics(Collector):
    """Of the observer on this host."""

    def __init__(self, state_folder: Path | None, now_s: Callable[[], float] = time.time) -> None:
        self._folder = state_folder
        self._now_s = now_s
        self.journal: Callable[[], JournalState] = JournalState  # of this gateway, where there is one

    def collect(self) -> Iterable[Metric]:
        """Every family, also those that have no lines."""
        figures = self.fresh()
        up = GaugeMetricFamily("tokenworks_observer_up", "1 where the observer has written its figures lately.")
        if self._folder is not None:
            up.add_metric([], figures is not None)
        missing = GaugeMetricFamily(
            "tokenworks_ledger_missing_frames", "Frames that the ledger lacks, of the last hour."
        )
        if figures is not None:
            missing.add_metric([], figures.missing_frames)
        journal = self.journal()
        yield GaugeMetricFamily(
            "tokenworks_journal_waiting_frames", "Frames that are not written down yet.", journal.waiting_frames
        )
        yield CounterMetricFamily(
            "tokenworks_journal_dropped_frames", "Frames that could not be written down.", journal.dropped_frames
        )
        yield from (up, missing)
        yield from _drift(figures)
        yield from _spans(figures)
        yield _alerts(figures)

    def fresh(self) -> Figures | None:
        """What the observer has written lately; None: there is none, or it is not at work."""
        figures = None if self._folder is None else read_figures(self._folder)
        return figures if figures is not None and self._now_s() - figures.at_ns / 1e9 < STALE_S else None


def _drift(figures: Figures | None) -> Iterable[Metric]:
    psi = GaugeMetricFamily("tokenworks_drift_psi", "Population stability index of a feature.", labels=["feature"])
    noise = GaugeMetricFamily(
        "tokenworks_drift_noise", "What chance alone exceeds once in a thousand times.", labels=["feature"]
    )
    moved = GaugeMetricFamily("tokenworks_drift_moved", "1 where a feature has moved.", labels=["feature"])
    for feature in figures.drift if figures else ():
        psi.add_metric([feature.feature], feature.psi)
        noise.add_metric([feature.feature], feature.noise)
        moved.add_metric([feature.feature], feature.moved)
    return [psi, noise, moved]


def _spans(figures: Figures | None) -> Iterable[Metric]:
    told = CounterMetricFamily(
        "tokenworks_spans_received", "Spans of applications, by what became of them.", labels=["outcome"]
    )
    sent = CounterMetricFamily(
        "tokenworks_requests_exported", "Requests whose spans went to a collector, or did not.", labels=["outcome"]
    )
    spans = figures.spans if figures is not None else SpanFigures()
    if spans.accepted or spans.rejected:
        for outcome, count in (("kept", spans.accepted - spans.cut), ("cut", spans.cut), ("rejected", spans.rejected)):
            told.add_metric([outcome], count)
    if spans.exported_requests or spans.dropped_requests:
        sent.add_metric(["sent"], spans.exported_requests)
        sent.add_metric(["dropped"], spans.dropped_requests)
    return [told, sent]


def _alerts(figures: Figures | None) -> Metric:
    firing = GaugeMetricFamily(
        "tokenworks_alerts_firing",
        "1; an alert by the observer's own rules.",
        labels=["alert", "subject", "severity"],
    )
    for alert in figures.alerts if figures else ():
        firing.add_metric([alert.name, alert.subject, alert.severity], 1)
    return firing
