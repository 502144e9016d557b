"""The gateway's Prometheus metrics, in base units, in a registry of their own.

What happens to requests is counted as it happens, and once more from the record that each ends with
(`record_metrics`, `gen_ai_metrics`); what is known of workers is read from the registry when scraped, so a worker that
is gone leaves no stale line behind. Definitions are those of the design: TTFT from the request's arrival to the first
token's leaving, ITL each gap between token events, E2E from arrival to the last byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenworks.contract.config import CostSettings, ObjectiveSettings
from tokenworks.contract.record import Record
from tokenworks.gateway.metrics.gaps import GapHistogram
from tokenworks.gateway.metrics.kv_metrics import exchange_metrics, store_metrics
from tokenworks.gateway.metrics.observer_metrics import ObserverMetrics
from tokenworks.gateway.metrics.record_metrics import RecordMetrics
from tokenworks.gateway.metrics.tally import Histogram
from tokenworks.gateway.metrics.worker_use_metrics import use_metrics
from tokenworks.gateway.pool.counts import DispatchCounts, count_metrics
from tokenworks.gateway.pool.registry import StoreRegistry, WorkerRegistry
from tokenworks.observe.tables.cost import costs_of

_LATENCY_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAP_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_OVERHEAD_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
_TOKENS: Final = tuple(float(1 << power) for power in range(0, 18, 1))
_COUNTED_AT_ONCE: Final = 128
"""Records: half a millisecond. Of the 25 that a busy gateway flushes at a time each would take a fifth more."""
_NO_PRICES: Final = CostSettings()
_USUAL_OBJECTIVES: Final = ObjectiveSettings()


class Observed(Protocol):
    """What is read of the dispatcher at each scrape."""

    @property
    def workers(self) -> WorkerRegistry:
        """The workers that have said hello."""

    @property
    def stores(self) -> StoreRegistry:
        """The KV stores that are alive."""

    @property
    def counts(self) -> DispatchCounts:
        """What the dispatcher counted."""

    @property
    def num_in_flight(self) -> int:
        """Sequences that have not ended."""


class Metrics:
    """Everything that `/metrics` shows.

    `state_folder` is where the observer leaves its figures; None: there is no observer.
    """

    def __init__(
        self,
        dispatcher: Observed,
        cost: CostSettings = _NO_PRICES,
        objectives: ObjectiveSettings = _USUAL_OBJECTIVES,
        state_folder: Path | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tokenworks_requests",
            "HTTP requests, by endpoint and outcome.",
            ["endpoint", "outcome"],
            registry=self.registry,
        )
        self.ttft = self._histogram("ttft_seconds", "Request received to first token sent.", _LATENCY_S)
        self.itl = GapHistogram("tokenworks_itl_seconds", "Gap between two token events of one sequence.", _GAP_S)
        self.registry.register(self.itl)
        self.e2e = self._histogram("e2e_seconds", "Request received to last byte sent.", _LATENCY_S)
        self.ingress = self._histogram(
            "gateway_ingress_seconds", "Request received to handed to a worker: the gateway's share.", _OVERHEAD_S
        )
        self.egress = self._histogram(
            "gateway_egress_seconds", "First tokens received from a worker to sent: the gateway's share.", _OVERHEAD_S
        )
        self.prompt_tokens = self._histogram("prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.output_tokens = self._histogram("output_tokens", "Output tokens of a request.", _TOKENS)
        self.cached_tokens = Counter(
            "tokenworks_cached_tokens", "Prompt tokens that were not computed.", registry=self.registry
        )
        self.registry.register(_WorkerCollector(dispatcher))
        self._prices = cost
        self._records = RecordMetrics(cost.currency, objectives)
        self._uncounted: list[Record] = []
        self.registry.register(self._records)
        self.observer = ObserverMetrics(state_folder)
        self.registry.register(self.observer)

    def observe_records(self, records: Sequence[Record]) -> None:
        """Count requests that have ended, each record once: when there are enough of them, or somebody looks."""
        self._uncounted += records
        if len(self._uncounted) >= _COUNTED_AT_ONCE:
            self._count_records()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What Prometheus scrapes, and its content type.

        OpenMetrics, which alone has exemplars, where `accept` (the scraper's header) names it; else the classic text.
        """
        self._count_records()
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def _count_records(self) -> None:
        records, self._uncounted = self._uncounted, []
        self._records.add_all(records, [costs_of(record, self._prices) for record in records])

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(f"tokenworks_{name}", text, buckets)
        self.registry.register(histogram)
        return histogram


class _WorkerCollector(Collector):
    """What the dispatcher knows at the moment of the scrape."""

    def __init__(self, dispatcher: Observed) -> None:
        self._dispatcher = dispatcher

    def collect(self) -> Iterable[Metric]:
        """One family a figure, one line a worker."""
        dispatcher = self._dispatcher
        yield GaugeMetricFamily(
            "tokenworks_workers_ready", "Workers that take requests.", len(dispatcher.workers.ready())
        )
        yield GaugeMetricFamily("tokenworks_sequences_in_flight", "Sequences not ended.", dispatcher.num_in_flight)
        yield from count_metrics(dispatcher.counts)
        yield from self._per_worker()
        yield from exchange_metrics(dispatcher.workers)
        yield from store_metrics(dispatcher.stores)
        yield from use_metrics(dispatcher.workers)

    def _per_worker(self) -> list[Metric]:
        gauges = {
            "running": GaugeMetricFamily("tokenworks_worker_running", "Sequences running.", labels=["worker"]),
            "waiting": GaugeMetricFamily("tokenworks_worker_waiting", "Sequences waiting.", labels=["worker"]),
            "used": GaugeMetricFamily("tokenworks_worker_kv_blocks_used", "KV blocks in use.", labels=["worker"]),
            "total": GaugeMetricFamily("tokenworks_worker_kv_blocks", "KV blocks in all.", labels=["worker"]),
        }
        steps = CounterMetricFamily("tokenworks_worker_steps", "Engine steps run.", labels=["worker"])
        preemptions = CounterMetricFamily("tokenworks_worker_preemptions", "Sequences preempted.", labels=["worker"])
        drafts = CounterMetricFamily("tokenworks_worker_draft_tokens", "Tokens guessed ahead.", labels=["worker"])
        accepted = CounterMetricFamily("tokenworks_worker_accepted_tokens", "Guesses accepted.", labels=["worker"])
        for worker in self._dispatcher.workers:
            if (load := worker.load) is None:
                continue
            label = [worker.id]
            gauges["running"].add_metric(label, load.running)
            gauges["waiting"].add_metric(label, load.waiting)
            gauges["used"].add_metric(label, load.total_blocks - load.free_blocks)
            gauges["total"].add_metric(label, load.total_blocks)
            steps.add_metric(label, load.steps)
            preemptions.add_metric(label, load.preemptions)
            drafts.add_metric(label, load.draft_tokens)
            accepted.add_metric(label, load.accepted_tokens)
        return [*gauges.values(), steps, preemptions, drafts, accepted]
