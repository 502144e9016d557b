"""Who runs a flight next: what the gateway knows of its workers and stores, put before the pure policies.

No sockets: it names workers and counts what was decided. With one ready worker nothing is hashed and nothing predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.gateway.pool.flights import Flight, PromptNames
from tokenworks.gateway.pool.registry import StoreRegistry, Worker, WorkerRegistry
from tokenworks.policy.placement import pick_worker
from tokenworks.policy.split import Decision, Option, Prompt, Reason, decide, second_half

MEMORY_BYTES_PER_S: Final = 1e9
"""What a transfer through a host's memory is taken to reach until its store has measured it: two copies and a check."""


class Placing:
    """Reads the registries, changes nothing."""

    def __init__(self, workers: WorkerRegistry, stores: StoreRegistry) -> None:
        self._workers = workers
        self._stores = stores

    def first(self, flight: Flight) -> Decision | None:
        """Who takes a request that is new, and who computes its prompt; None where no worker is ready."""
        ready = self._workers.ready()
        if len(ready) < 2:
            return Decision(ready[0].id, Reason.ONLY) if ready else None
        options = [self._option(worker, flight.prompt) for worker in ready]
        prompt = Prompt(flight.prompt.num_tokens, flight.request.scenario)
        return decide(options, prompt, self._transfer_bytes_per_s(), may_split=flight.may_split)

    def next(self, flight: Flight) -> Worker | None:
        """Who runs a request whose first half has ended or whose worker is lost; None where nobody can now."""
        able = [worker for worker in self._workers.ready() if _can_take(worker, flight)]
        if len(able) < 2:
            return able[0] if able else None
        candidates = [worker.candidate(flight.prompt.held_tokens(worker)) for worker in able]
        if flight.prefilled_by is None:
            chosen = pick_worker(candidates)
        else:
            chosen = second_half(candidates, flight.prefilled_by)
        return None if chosen is None else self._workers.get(chosen)

    def held_tokens(self, flight: Flight, worker: Worker) -> int:
        """How many of its prompt's tokens the worker is taken to hold."""
        return flight.prompt.held_tokens(worker) if len(self._workers) > 1 else 0

    def _option(self, worker: Worker, prompt: PromptNames) -> Option:
        return Option(
            worker.candidate(prompt.held_tokens(worker)),
            worker.hello.card,
            worker.queued_tokens,
            worker.num_decoding,
            worker.hello.kv if worker.hello.has_store and len(self._stores) else None,
        )

    def _transfer_bytes_per_s(self) -> float:
        """Of the slowest store that has measured its memory."""
        return min(_measured_speeds(self._stores), default=MEMORY_BYTES_PER_S)


def _measured_speeds(stores: StoreRegistry) -> Sequence[float]:
    speeds = [status.tiers[Tier.HOST].read_bytes_per_s for status in stores if Tier.HOST in status.tiers]
    return [speed for speed in speeds if speed > 0]


def _can_take(worker: Worker, flight: Flight) -> bool:
    """A continuation is token ids, which only our own engines are sure to take as they are."""
    return worker not in flight.refused_by and (worker.hello.kv is not None or not flight.request.num_generated)
