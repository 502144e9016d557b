"""Metrics of KV beyond the engines: each store's tiers, and each worker's exchange with its store.

Read from what stores and workers last told, when scraped. Predicted and actual seconds of fetches stand side by side
with those of the recomputation that they replaced, so that anyone can see whether moving paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tokenworks.contract.wire import StoreStatus
from tokenworks.gateway.pool.registry import StoreRegistry, Worker, WorkerRegistry

_TIER: Final = ["store", "tier"]
_FETCHED: Final = ["worker", "tier"]
Families = dict[str, GaugeMetricFamily | CounterMetricFamily]


def store_metrics(stores: StoreRegistry) -> Iterable[Metric]:
    """One line for each tier of each store that is alive."""
    families: Families = {
        "blocks": GaugeMetricFamily("tokenworks_kv_tier_blocks", "KV blocks in a tier.", labels=_TIER),
        "used_bytes": GaugeMetricFamily("tokenworks_kv_tier_used_bytes", "Bytes used of a tier.", labels=_TIER),
        "limit_bytes": GaugeMetricFamily("tokenworks_kv_tier_limit_bytes", "Bytes of a tier.", labels=_TIER),
        "is_up": GaugeMetricFamily("tokenworks_kv_tier_up", "1 where a tier can be used now.", labels=_TIER),
        "read_bytes_per_s": GaugeMetricFamily(
            "tokenworks_kv_tier_read_bytes_per_second",
            "How fast a tier was read lately; 0: not measured.",
            labels=_TIER,
        ),
        "hits": CounterMetricFamily("tokenworks_kv_tier_hits", "Blocks asked for and given.", labels=_TIER),
        "puts": CounterMetricFamily("tokenworks_kv_tier_puts", "Blocks taken in.", labels=_TIER),
        "evictions": CounterMetricFamily("tokenworks_kv_tier_evictions", "Blocks dropped for others.", labels=_TIER),
    }
    reasons = {
        "faults": CounterMetricFamily("tokenworks_kv_tier_faults", "What went wrong.", labels=[*_TIER, "reason"]),
        "unwritten": CounterMetricFamily(
            "tokenworks_kv_tier_unwritten", "Blocks put and not written to a tier.", labels=[*_TIER, "reason"]
        ),
    }
    misses = CounterMetricFamily("tokenworks_kv_store_misses", "Blocks asked for that no tier has.", labels=["store"])
    for status in stores:
        misses.add_metric([status.store_id], status.misses)
        _add_tiers(status, families, reasons)
    return [*families.values(), *reasons.values(), misses]


def _add_tiers(status: StoreStatus, families: Families, reasons: Mapping[str, CounterMetricFamily]) -> None:
    for tier, told in status.tiers.items():
        for name, family in families.items():
            family.add_metric([status.store_id, tier], getattr(told, name))
        for name, counter in reasons.items():
            for reason, count in getattr(told, name).items():
                counter.add_metric([status.store_id, tier, reason], count)


def exchange_metrics(workers: WorkerRegistry) -> Iterable[Metric]:
    """One line for each worker that has told of its load, or for each tier that it has fetched from."""
    attached = GaugeMetricFamily("tokenworks_worker_kv_attached", "1 where it reaches its store.", labels=["worker"])
    arriving = GaugeMetricFamily("tokenworks_worker_arriving", "Sequences whose KV is on its way.", labels=["worker"])
    published: Families = {
        "published_blocks": CounterMetricFamily(
            "tokenworks_worker_kv_published_blocks", "KV blocks put into the store.", labels=["worker"]
        ),
        "published_bytes": CounterMetricFamily(
            "tokenworks_worker_kv_published_bytes", "Bytes of them.", labels=["worker"]
        ),
        "declined_blocks": CounterMetricFamily(
            "tokenworks_worker_kv_declined_blocks", "Held blocks computed: moving looked slower.", labels=["worker"]
        ),
    }
    fetched = _fetch_families()
    faults = CounterMetricFamily(
        "tokenworks_worker_kv_faults", "Promised blocks that could not be used.", labels=["worker", "reason"]
    )
    for worker in workers:
        if worker.load is None:
            continue
        attached.add_metric([worker.id], worker.load.kv.is_attached)
        arriving.add_metric([worker.id], worker.load.arriving)
        for name, family in published.items():
            family.add_metric([worker.id], getattr(worker.load.kv, name))
        _add_traffic(worker, fetched, faults)
    return [attached, arriving, *published.values(), *fetched.values(), faults]


def _fetch_families() -> Families:
    texts = {
        "blocks": ("blocks", "KV blocks fetched from a tier."),
        "num_bytes": ("bytes", "Bytes of them."),
        "predicted_s": ("predicted_seconds", "What fetching them was predicted to take."),
        "actual_s": ("seconds", "What fetching them took."),
        "recompute_s": ("recompute_seconds", "What computing them was predicted to take."),
    }
    return {
        name: CounterMetricFamily(f"tokenworks_worker_kv_fetched_{suffix}", text, labels=_FETCHED)
        for name, (suffix, text) in texts.items()
    }


def _add_traffic(worker: Worker, fetched: Families, faults: CounterMetricFamily) -> None:
    assert worker.load is not None
    for tier, traffic in worker.load.kv.fetched.items():
        for name, family in fetched.items():
            family.add_metric([worker.id, tier], getattr(traffic, name))
    for reason, count in worker.load.kv.faults.items():
        faults.add_metric([worker.id, reason], count)
