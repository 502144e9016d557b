"""What each worker's time and machine went to, as its last heartbeat told: the other side of the bill.

Step, between and idle seconds sum to the worker's wall time; times the price of its card, that is what it costs. Read
from the registry when scraped. A worker that does not meter itself (a foreign server) has no lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tokenworks.contract.record import WorkerUse
from tokenworks.gateway.pool.registry import Worker

_WORKER: Final = ["worker"]
_COUNTERS: Final = {
    "wall_ns": ("wall_seconds", "Seconds since it started: step, between and idle together."),
    "between_ns": ("between_seconds", "Seconds with work to do, and not in a step."),
    "idle_ns": ("idle_seconds", "Seconds with nothing to do."),
    "cpu_s": ("cpu_seconds", "Processor time of the process, all threads."),
    "flops": ("flops", "Operations of matrix products and attention."),
    "read_bytes": ("read_bytes", "Bytes of weights and KV that its steps had to read."),
    "disk_read_bytes": ("disk_read_bytes", "Bytes read from disk."),
    "disk_write_bytes": ("disk_write_bytes", "Bytes written to disk."),
    "energy_j": ("energy_joules", "Energy of its package, where the machine measures it."),
}
_CARD: Final = {
    "price_per_hour": ("price_per_hour", "What it costs an hour, where that was stated."),
    "watts": ("watts", "Power it draws, where that was stated."),
    "peak_flops": ("peak_flops_per_second", "Operations per second, as measured at its start."),
    "peak_bytes_per_s": ("peak_read_bytes_per_second", "Bytes read per second, as measured at its start."),
}


def use_metrics(workers: Iterable[Worker]) -> Sequence[Metric]:
    """One line a worker, or one for each kind of work."""
    steps = CounterMetricFamily(
        "tokenworks_worker_step_seconds", "Seconds in steps, by what they computed.", labels=["worker", "work"]
    )
    resident = GaugeMetricFamily("tokenworks_worker_resident_bytes", "Memory of the process.", labels=_WORKER)
    counters = {key: _counter(*named) for key, named in _COUNTERS.items()}
    cards = {key: _gauge(*named) for key, named in _CARD.items()}
    for worker in workers:
        _add_card(worker, cards)
        if worker.load is None or not worker.load.use.wall_ns:
            continue
        use = worker.load.use
        resident.add_metric([worker.id], use.rss_bytes)
        for work, nanoseconds in use.step_ns.items():
            steps.add_metric([worker.id, work], nanoseconds / 1e9)
        _add_counters(worker.id, use, counters)
    return [steps, *counters.values(), resident, *cards.values()]


def _add_counters(worker_id: str, use: WorkerUse, counters: dict[str, CounterMetricFamily]) -> None:
    for key, family in counters.items():
        value = getattr(use, key)
        if value is not None:
            family.add_metric([worker_id], value / 1e9 if key.endswith("_ns") else value)


def _add_card(worker: Worker, cards: dict[str, GaugeMetricFamily]) -> None:
    for key, family in cards.items():
        if value := getattr(worker.hello.card, key):
            family.add_metric([worker.id], value)


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"tokenworks_worker_{name}", text, labels=_WORKER)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tokenworks_worker_{name}", text, labels=_WORKER)
