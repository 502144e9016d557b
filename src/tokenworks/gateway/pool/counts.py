"""What the dispatcher counts of its own doings; read when metrics are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from tokenworks.policy.split import Decision


class DispatchCounts:
    """Since the gateway started."""

    def __init__(self) -> None:
        self.bad_frames = 0
        self.lost_workers = 0
        self.failed_starts = 0  # of workers, as the supervisor told
        self.continuations = 0  # sequences that another worker went on with after some of their tokens
        self.resends: Counter[str] = Counter()  # by reason: "lost", "refused"
        self.decisions: Counter[tuple[str, str]] = Counter()  # by (way, reason)
        self.predicted: Counter[str] = Counter()  # first tokens that were predicted, by way
        self.predicted_s: dict[str, float] = {}  # their predicted seconds, summed, by way
        self.actual_s: dict[str, float] = {}  # their actual seconds, summed, by way

    def decided(self, decision: Decision) -> None:
        """A request was placed."""
        self.decisions[decision.way, decision.reason.value] += 1

    def first_token(self, decision: Decision, actual_s: float) -> None:
        """A request gave its first token so many seconds after it was sent; counts where that had been predicted."""
        if not decision.predicted_s:
            return
        way = decision.way
        self.predicted[way] += 1
        self.predicted_s[way] = self.predicted_s.get(way, 0.0) + decision.predicted_s
        self.actual_s[way] = self.actual_s.get(way, 0.0) + actual_s


def count_metrics(counts: DispatchCounts) -> Iterable[Metric]:
    """What Prometheus sees of it."""
    yield CounterMetricFamily("tokenworks_workers_lost", "Workers that died or fell silent.", counts.lost_workers)
    yield CounterMetricFamily(
        "tokenworks_worker_failed_starts", "Starts of workers that ended before they were ready.", counts.failed_starts
    )
    yield CounterMetricFamily("tokenworks_bad_frames", "Frames that did not decode.", counts.bad_frames)
    yield CounterMetricFamily(
        "tokenworks_continuations", "Sequences that went on after their worker was lost.", counts.continuations
    )
    resends = CounterMetricFamily("tokenworks_resends", "Sequences sent to another worker.", labels=["reason"])
    for reason, count in counts.resends.items():
        resends.add_metric([reason], count)
    placements = CounterMetricFamily(
        "tokenworks_placements", "Requests by way (direct, split) and why.", labels=["way", "reason"]
    )
    for key, count in counts.decisions.items():
        placements.add_metric(key, count)
    yield from (resends, placements)
    yield from _prediction_metrics(counts)


def _prediction_metrics(counts: DispatchCounts) -> Iterable[Metric]:
    """Predicted and actual seconds side by side: their quotient is how wrong the cards and speeds are."""
    told: dict[str, tuple[str, Mapping[str, float]]] = {
        "tokenworks_predicted_first_tokens": ("First tokens whose time was predicted, by way.", counts.predicted),
        "tokenworks_predicted_ttft_seconds": ("Their predicted seconds from sending, summed.", counts.predicted_s),
        "tokenworks_predicted_ttft_actual_seconds": ("Their actual seconds from sending, summed.", counts.actual_s),
    }
    for name, (text, values) in told.items():
        family = CounterMetricFamily(name, text, labels=["way"])
        for way, value in values.items():
            family.add_metric([way], value)
        yield family
