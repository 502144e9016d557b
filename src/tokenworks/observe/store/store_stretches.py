"""What KV stores held and counted in windows, from samples of their counters.

What a store held in a sample it held until the next one, but not over a restart or a silence. What it counted between
two samples came evenly, a restarted store's from nothing. Both are cut at the ends of the window, so that windows that
touch add up to the whole. Before a store's first sample nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import median_low
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import StoreSample
from tokenworks.observe.ledger import StoreStretch, Window
from tokenworks.observe.store.packing import unpack
from tokenworks.observe.store.schema import store_samples

SILENCE_NS: Final = 2 * 3600 * 10**9  # thinned samples are an hour apart; what is longer silent was not there
Name = TypeVar("Name", Tier, str)


class _Interval(NamedTuple):
    """Between two samples that follow each other, as far as it lies in the window."""

    sample: StoreSample
    following: StoreSample
    length_ns: int
    from_ns: int  # after the first of them, as is the next
    until_ns: int


def store_stretches(connection: sa.Connection, window: Window) -> list[StoreStretch]:
    """By name. Counters of the whole window, restarts of the store included."""
    names = connection.execute(sa.select(store_samples.c.store).distinct().order_by(store_samples.c.store)).scalars()
    found = []
    for store in names.all():
        samples = list(_samples(connection, store, window))
        if any(window.start_ns <= at_ns < window.end_ns for at_ns, _ in samples) or _is_held(samples):
            found.append(_store_stretch(samples, window))
    return found


def _samples(connection: sa.Connection, store: str, window: Window) -> Iterator[tuple[int, StoreSample]]:
    """Those of the window, with the one before it and the one behind it."""
    columns = store_samples.c
    before = sa.select(sa.func.max(columns.at_ns)).where(columns.store == store, columns.at_ns < window.start_ns)
    behind = sa.select(sa.func.min(columns.at_ns)).where(columns.store == store, columns.at_ns >= window.end_ns)
    times = (
        columns.at_ns >= sa.func.coalesce(before.scalar_subquery(), window.start_ns),
        columns.at_ns <= sa.func.coalesce(behind.scalar_subquery(), window.end_ns),
    )
    statement = sa.select(columns.at_ns, columns.body).where(columns.store == store, *times).order_by(columns.at_ns)
    for at_ns, body in connection.execute(statement):
        yield at_ns, unpack(StoreSample, body)


def _is_held(samples: list[tuple[int, StoreSample]]) -> bool:
    """Whether a store was there between two samples that lie around a window."""
    return len(samples) > 1 and samples[1][0] - samples[0][0] <= SILENCE_NS


def _store_stretch(samples: list[tuple[int, StoreSample]], window: Window) -> StoreStretch:
    inside = [sample for at_ns, sample in samples if window.start_ns <= at_ns < window.end_ns]
    last = inside[-1] if inside else samples[0][1]
    byte_s: dict[Tier, float] = {}
    counts: dict[str, dict[Any, int]] = {"hits": {}, "evictions": {}, "faults": {}, "misses": {}}
    for interval in _intervals(samples, window):
        is_restart = _has_restarted(interval.sample, interval.following)
        _count(counts, StoreSample(0, last.store) if is_restart else interval.sample, interval)
        if not is_restart and interval.length_ns <= SILENCE_NS:
            for tier, used_bytes in interval.sample.used_bytes.items():
                held_s = (interval.until_ns - interval.from_ns) / 1e9
                byte_s[tier] = byte_s.get(tier, 0.0) + used_bytes * held_s
    return StoreStretch(
        store=last.store,
        byte_s=byte_s,
        used_bytes=dict(last.used_bytes),
        limit_bytes=dict(last.limit_bytes),
        hits=counts["hits"],
        evictions=counts["evictions"],
        faults=counts["faults"],
        misses=counts["misses"].get("", 0),
        read_bytes_per_s=_speeds(inside or [samples[-1][1]]),
    )


def _intervals(samples: list[tuple[int, StoreSample]], window: Window) -> Iterator[_Interval]:
    for (at_ns, sample), (next_ns, following) in pairwise(samples):
        from_ns, until_ns = max(at_ns, window.start_ns), min(next_ns, window.end_ns)
        if from_ns < until_ns:
            yield _Interval(sample, following, next_ns - at_ns, from_ns - at_ns, until_ns - at_ns)


def _speeds(samples: list[StoreSample]) -> dict[Tier, float]:
    """Of each tier that was measured, the middle one, and of two the slower."""
    told: dict[Tier, list[float]] = {}
    for sample in samples:
        for tier, bytes_per_s in sample.read_bytes_per_s.items():
            told.setdefault(tier, []).append(bytes_per_s)
    return {tier: median_low(speeds) for tier, speeds in told.items()}


def _has_restarted(sample: StoreSample, following: StoreSample) -> bool:
    if sample.started_ns and following.started_ns:
        return sample.started_ns != following.started_ns
    pairs = [(sample.hits, following.hits), (sample.evictions, following.evictions)]
    return following.misses < sample.misses or any(
        after.get(tier, 0) < before[tier] for before, after in pairs for tier in before
    )


def _count(counts: dict[str, dict[Any, int]], start: StoreSample, interval: _Interval) -> None:
    end = interval.following
    _rise(counts["hits"], start.hits, end.hits, interval)
    _rise(counts["evictions"], start.evictions, end.evictions, interval)
    _rise(counts["faults"], start.faults, end.faults, interval)
    _rise(counts["misses"], {"": start.misses}, {"": end.misses}, interval)


def _rise(total: dict[Name, int], start: Mapping[Name, int], end: Mapping[Name, int], interval: _Interval) -> None:
    """Add what of a rise lies in the window, in whole numbers that add up to it."""
    for name, count in end.items():
        rise, length_ns = max(0, count - start.get(name, 0)), interval.length_ns
        within = rise * interval.until_ns // length_ns - rise * interval.from_ns // length_ns
        total[name] = total.get(name, 0) + within
