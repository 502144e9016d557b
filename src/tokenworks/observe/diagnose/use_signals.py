"""Figures of workers, stores and the system: what is there whether somebody asks or not.

Of a window or a worker; of a tenant or a scenario they are unknown, since a worker's idle time is nobody's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.observe.diagnose.sides import Side
from tokenworks.observe.ledger import WorkerStretch

_LOST: Final = "worker_lost"
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


def _workers(side: Side) -> float:
    """Workers at a time, on average; unknown where none was ever sampled."""
    lives_s = _sum(lambda stretch: (stretch.until_ns - stretch.from_ns) / 1e9, side)
    return _ratio(lives_s, side.seconds) if side.stretches else math.nan


def _busy_shares(side: Side) -> list[float]:
    """Of each worker, all its lives together."""
    busy: dict[str, int] = {}
    wall: dict[str, int] = {}
    for stretch in side.stretches:
        busy[stretch.worker] = busy.get(stretch.worker, 0) + _busy_ns(stretch)
        wall[stretch.worker] = wall.get(stretch.worker, 0) + _wall_ns(stretch)
    return [busy[name] / wall[name] for name in wall if wall[name]]


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


def _num_lost(side: Side) -> float:
    """Each of a worker's lives once, however many gateways lost it."""
    lost = [incident for incident in side.incidents if incident.kind == _LOST]
    lives = {(incident.subject, incident.life_ns) for incident in lost if incident.life_ns}
    return float(len(lives) + sum(not incident.life_ns for incident in lost))


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


def _lives(stretches: Sequence[WorkerStretch]) -> float:
    return max((sum(each.worker == other.worker for other in stretches) for each in stretches), default=math.nan)


def _lives_begun(side: Side) -> float:
    return sum(each.use.started_ns >= side.window.start_ns for each in side.stretches) if side.stretches else math.nan


USE_SIGNALS: Final[dict[str, tuple[str, str, Callable[[Side], float]]]] = {
    "workers": ("count", "workers at a time, mean", _workers),
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
        "part of its time that the busiest worker had work",
        lambda s: max(_busy_shares(s), default=math.nan),
    ),
    "laziest_share": (
        "share",
        "part of its time that the idlest worker had work",
        lambda s: min(_busy_shares(s), default=math.nan),
    ),
    "cores_per_busy_s": (
        "",
        "processor seconds that workers got per second with work to do",
        _cores,
    ),
    "running_mean": ("count", "sequences that a worker runs, mean", lambda s: _mean(lambda w: w.running, s)),
    "waiting_mean": ("count", "sequences that wait in a worker, mean", lambda s: _mean(lambda w: w.waiting, s)),
    "kv_used_share": ("share", "part of KV blocks in use, mean", lambda s: _mean(lambda w: w.used_blocks_share, s)),
    "mfu": ("share", "FLOP/s in steps over the device's peak", lambda s: _of_peak(_flops, _peak_flops, s)),
    "mbu": ("share", "bytes/s in steps over the device's peak", lambda s: _of_peak(_read_bytes, _peak_bytes, s)),
    "lives": ("count", "lives of the worker that was started most often", lambda s: _lives(s.stretches)),
    "lives_begun": ("count", "lives of workers that began in the window", _lives_begun),
    "workers_lost": ("count", "workers that died or fell silent", _num_lost),
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
