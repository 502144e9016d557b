"""What is written down of workers and stores whether somebody asks or not: samples every few seconds, and incidents.

A worker is sampled with the first heartbeat of each of its lives, then every `every_s`, and once more when it is not
registered any more, or the gateway leaves; so that what its time went to is known to within `every_s` even where it
dies. A card, and the price on it, lasts for a life. Knows no journal: frames go to whoever is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Frame, Incident, StoreSample, WorkerSample
from tokenworks.contract.wire import Load, StoreStatus, TierStatus
from tokenworks.gateway.pool.registry import Worker


class Samples:
    """Turns what members tell into frames."""

    def __init__(self, append: Callable[[Frame], None], every_s: float) -> None:
        self._append = append
        self._every_s = every_s
        self._sampled_s: dict[Worker | str, float] = {}  # by worker or by store id: monotonic time of the latest sample

    def happened(self, kind: str, subject: str, text: str = "", life_ns: int = 0) -> None:
        """Write an incident down."""
        self._append(Incident(time.time_ns(), kind, subject, text, life_ns))

    def worker_joined(self, worker: Worker) -> None:
        """It said hello."""
        self.happened("worker_joined", worker.id, f"{worker.role.value} on {worker.hello.card.device}")

    def worker_heard(self, worker: Worker) -> None:
        """It told of its load."""
        if worker.load is not None and self._is_due(worker):
            self._append(_worker_sample(worker, worker.load))

    def worker_gone(self, worker: Worker, how: str) -> None:
        """It is no longer registered: it left, or was lost."""
        self._sampled_s.pop(worker, None)
        if worker.load is not None:  # else it has not said which life this was
            self._append(_worker_sample(worker, worker.load, is_last=True))
        kind, text = ("worker_left", "") if how == "left" else ("worker_lost", how)
        self.happened(kind, worker.id, text, 0 if worker.load is None else worker.load.use.started_ns)

    def worker_not_started(self, worker_id: str, why: str) -> None:
        """It died before it was ready; a worker that nobody's supervisor watches does so unseen."""
        self.happened("worker_not_started", worker_id, why)

    def worker_left_behind(self, worker: Worker) -> None:
        """The gateway leaves first."""
        if worker.load is not None:
            self._append(_worker_sample(worker, worker.load))

    def role_changed(self, worker: Worker) -> None:
        """Somebody changed what it is for."""
        self.happened("role_changed", worker.id, worker.role.value)

    def store_heard(self, status: StoreStatus, *, is_new: bool) -> None:
        """A store told of itself."""
        if is_new:
            self.happened("store_joined", status.store_id)
        if self._is_due(status.store_id):
            self._append(_store_sample(status))

    def store_lost(self, store_id: str, how: str) -> None:
        """It fell silent."""
        self._sampled_s.pop(store_id, None)
        self.happened("store_lost", store_id, how)

    def _is_due(self, key: Worker | str) -> bool:
        now_s = time.monotonic()
        due_s = self._sampled_s.get(key, -self._every_s) + self._every_s
        if now_s < due_s:
            return False
        # On the beat of the first one, so that heartbeats a little off their second do not make every sixth count.
        self._sampled_s[key] = due_s if now_s - due_s < self._every_s else now_s
        return True


def _worker_sample(worker: Worker, load: Load, *, is_last: bool = False) -> WorkerSample:
    card = worker.hello.card
    return WorkerSample(
        time.time_ns(),
        worker.id,
        worker.hello.model,
        load.use,
        version=worker.version,
        device=card.device,
        price_per_hour=card.price_per_hour,
        watts=card.watts,
        peak_flops=card.peak_flops,
        peak_bytes_per_s=card.peak_bytes_per_s,
        is_last=is_last,
        running=load.running,
        waiting=load.waiting,
        free_blocks=load.free_blocks,
        total_blocks=load.total_blocks,
        preemptions=load.preemptions,
        evictions=load.evictions,
    )


def _store_sample(status: StoreStatus) -> StoreSample:
    tiers = status.tiers
    return StoreSample(
        time.time_ns(),
        status.store_id,
        {tier: each.used_bytes for tier, each in tiers.items()},
        {tier: each.limit_bytes for tier, each in tiers.items()},
        {tier: each.hits for tier, each in tiers.items()},
        {tier: each.evictions for tier, each in tiers.items()},
        _faults(tiers),
        status.misses,
        {tier: each.read_bytes_per_s * each.is_up for tier, each in tiers.items() if _is_measured(each)},
        status.started_ns,
        status.alive_ns,
    )


def _is_measured(tier: TierStatus) -> bool:
    return tier.read_bytes_per_s > 0 or not tier.is_up


def _faults(tiers: dict[Tier, TierStatus]) -> dict[str, int]:
    """By tier and reason, such as "disk: checksum"."""
    return {f"{tier.value}: {reason}": count for tier, each in tiers.items() for reason, count in each.faults.items()}
