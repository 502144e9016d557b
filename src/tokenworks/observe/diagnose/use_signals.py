"""Figures of workers, stores and the system: what is there whether somebody asks or not.

Of a window or a worker; of a tenant or a scenario they are unknown, since a worker's idle time is nobody's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.observe.diagnose import lives
from tokenworks.observe.diagnose.sides import Side
from tokenworks.observe.ledger import WorkerStretch

_NOT_STARTED: Final = "worker_not_started"
_PARTS_NOT_STARTED: Final = frozenset({"gateway_not_started", "store_not_started", "system_not_started"})
_TIERS: Final = tuple(Tier)  # near to far


def _sum(of: Callable[[WorkerStretch], float], side: Side) -> float:
    return sum(of(stretch) for stretch in side.stretches)


def _step_ns(stretch: WorkerStretch) -> int:
    return sum(stretch.use.step_ns.values())


def _busy_ns(stretch: WorkerStretch) -> int:
    return _step_ns(stretch) + stretch.use.between_ns


def _wall_ns(stretch: WorkerStretch) -> int:
    return stretch.use.wall_ns


def _ratio(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else math.nan


def _busy_shares(side: Side) -> tuple[float, float]:
    """Of the idlest and the busiest worker of the model whose workers differ most, all lives of a worker together.

    A worker of one model can do nothing for those who ask for another.
    """
    busy: Counter[tuple[str, str]] = Counter()
    wall: Counter[tuple[str, str]] = Counter()
    for stretch in side.stretches:
        busy[stretch.model, stretch.worker] += _busy_ns(stretch)
        wall[stretch.model, stretch.worker] += _wall_ns(stretch)
    shares: dict[str, list[float]] = {}
    for (model, worker), wall_ns in wall.items():
        if wall_ns:
            shares.setdefault(model, []).append(busy[model, worker] / wall_ns)
    spans = [(min(each), max(each)) for each in shares.values()]
    return max(spans, key=lambda span: span[1] - span[0], default=(math.nan, math.nan))


def _cores(side: Side) -> float:
    """Of lives whose beginning is not in the window: what loading the weights took is no part of any step."""
    lives = [stretch for stretch in side.stretches if stretch.before.wall_ns]
    return _ratio(sum(each.use.cpu_s for each in lives), sum(_busy_ns(each) for each in lives) / 1e9)


def _mean(of: Callable[[WorkerStretch], float], side: Side) -> float:
    """By the time that each stretch lasted."""
    weights = [stretch.until_ns - stretch.from_ns for stretch in side.stretches]
    values = [of(stretch) for stretch in side.stretches]
    return _ratio(sum(value * weight for value, weight in zip(values, weights, strict=True)), sum(weights))


def _of_peak(did: Callable[[WorkerStretch], float], peak: Callable[[WorkerStretch], float], side: Side) -> float:
    """What was done in steps, over what the device could have done in that time."""
    known = [stretch for stretch in side.stretches if peak(stretch) > 0]
    return _ratio(sum(did(each) for each in known), sum(peak(each) * _step_ns(each) / 1e9 for each in known))


def _per_step_s(did: Callable[[WorkerStretch], float], side: Side) -> float:
    return _ratio(_sum(did, side), _sum(_step_ns, side) / 1e9)


def _failed_starts(side: Side) -> float:
    return float(sum(incident.kind == _NOT_STARTED for incident in side.incidents))


def _failed_system_starts(side: Side) -> float:
    return float(sum(incident.kind in _PARTS_NOT_STARTED for incident in side.incidents))


def _evictions(side: Side) -> float:
    """For good: out of the stores' last tiers, and where there is no store out of the workers' memory."""
    if side.stores:
        return sum(store.evictions[max(store.evictions, key=_TIERS.index)] for store in side.stores if store.evictions)
    return _sum(lambda stretch: stretch.evictions, side) if side.stretches else math.nan


def _slowest(tier: Tier) -> Callable[[Side], float]:
    """Of the stores that have such a tier and measured it."""

    def of(side: Side) -> float:
        speeds = [store.read_bytes_per_s[tier] for store in side.stores if tier in store.read_bytes_per_s]
        return min(speeds, default=math.nan)

    return of


def _of_stores(of: Callable[[Side], float], side: Side) -> float:
    return of(side) if side.stores else math.nan


def _filled(side: Side, tier: Tier) -> float:
    used = sum(store.used_bytes.get(tier, 0) for store in side.stores)
    return _ratio(used, sum(store.limit_bytes.get(tier, 0) for store in side.stores))


USE_SIGNALS: Final[dict[str, tuple[str, str, Callable[[Side], float]]]] = {
    "workers": ("count", "workers at a time, mean", lives.workers),
    "step_share": (
        "share",
        "part of the workers' time in steps",
        lambda s: _ratio(_sum(_step_ns, s), _sum(_wall_ns, s)),
    ),
    "between_share": (
        "share",
        "part of the workers' time with work to do, and not in a step",
        lambda s: _ratio(_sum(lambda w: w.use.between_ns, s), _sum(_wall_ns, s)),
    ),
    "idle_share": (
        "share",
        "part of the workers' time with nothing to do",
        lambda s: _ratio(_sum(lambda w: w.use.idle_ns, s), _sum(_wall_ns, s)),
    ),
    "between_of_busy_share": (
        "share",
        "of the workers' time with work to do, the part not in a step",
        lambda s: _ratio(_sum(lambda w: w.use.between_ns, s), _sum(_busy_ns, s)),
    ),
    "wall_s": ("s", "the workers' time, summed", lambda s: _sum(_wall_ns, s) / 1e9 if s.stretches else math.nan),
    "busiest_share": (
        "share",
        "part of its time that the busiest worker had work, of the model whose workers differ most",
        lambda s: _busy_shares(s)[1],
    ),
    "laziest_share": (
        "share",
        "part of its time that the idlest worker of that model had work",
        lambda s: _busy_shares(s)[0],
    ),
    "cores_per_busy_s": (
        "",
        "processor seconds that workers got per second with work to do",
        _cores,
    ),
    "step_flops_per_s": ("", "floating point operations per second in steps", lambda s: _per_step_s(_flops, s)),
    "step_bytes_per_s": (
        "bytes",
        "bytes of weights and KV per second in steps",
        lambda s: _per_step_s(_read_bytes, s),
    ),
    "running_mean": ("count", "sequences that a worker runs, mean", lambda s: _mean(lambda w: w.running, s)),
    "waiting_mean": ("count", "sequences that wait in a worker, mean", lambda s: _mean(lambda w: w.waiting, s)),
    "kv_used_share": ("share", "part of KV blocks in use, mean", lambda s: _mean(lambda w: w.used_blocks_share, s)),
    "peak_flops": (
        "",
        "FLOP/s that the workers' devices gave when they were measured, mean",
        lambda s: _mean(_peak_flops, s),
    ),
    "mfu": ("share", "FLOP/s in steps over the device's peak", lambda s: _of_peak(_flops, _peak_flops, s)),
    "mbu": ("share", "bytes/s in steps over the device's peak", lambda s: _of_peak(_read_bytes, _peak_bytes, s)),
    "lives": ("count", "lives of the worker that was started most often", lives.most_lives),
    "lives_begun": ("count", "lives of workers that began in the window", lives.lives_begun),
    "workers_lost": ("count", "workers that died or fell silent", lives.workers_lost),
    "losses_in_a_row": (
        "count",
        "losses within half an hour of one worker, or of workers that had hardly started",
        lives.losses_in_a_row,
    ),
    "failed_starts": ("count", "starts of workers that ended before the worker was ready", _failed_starts),
    "failed_system_starts": (
        "count",
        "starts of the system that something else than a worker ended",
        _failed_system_starts,
    ),
    "evictions": (
        "count",
        "prompts that missed a block dropped for others; where there is a store, blocks that its last tier dropped",
        _evictions,
    ),
    "evictions_per_s": (
        "per_s",
        "cached blocks that were dropped for others, and were in no further tier, per second",
        lambda s: _ratio(_evictions(s), s.seconds),
    ),
    "store_faults": (
        "count",
        "blocks that KV stores could not give or keep",
        lambda s: _of_stores(lambda side: sum(sum(store.faults.values()) for store in side.stores), s),
    ),
    "host_filled_share": ("share", "part of the stores' memory in use", lambda s: _filled(s, Tier.HOST)),
    "disk_filled_share": ("share", "part of the stores' disk in use", lambda s: _filled(s, Tier.DISK)),
    "disk_tier_bytes_per_s": (
        "bytes",
        "bytes per second that the slowest store's disk tier gives, as it measures",
        _slowest(Tier.DISK),
    ),
    "remote_tier_bytes_per_s": (
        "bytes",
        "bytes per second that the slowest store's remote tier gives, as it measures",
        _slowest(Tier.REMOTE),
    ),
    "missing_records": ("count", "frames of the journal that are missing", lambda s: sum(g.frames for g in s.gaps)),
}


def _flops(stretch: WorkerStretch) -> float:
    return stretch.use.flops


def _peak_flops(stretch: WorkerStretch) -> float:
    return stretch.peak_flops


def _read_bytes(stretch: WorkerStretch) -> float:
    return stretch.use.read_bytes


def _peak_bytes(stretch: WorkerStretch) -> float:
    return stretch.peak_bytes_per_s
