"""Brings blocks that the host's KV store holds into the engine, for sequences that wait.

For each waiting sequence that lacks blocks the store is asked what it holds (`Find`); then `plan_fetch` says how many
of them to fetch (`Get`), the pool gives blocks to write to, and each block that is ready is taken in (`kv_intake`).
When all are there, or when waiting on has become worse than computing, the sequence goes on with the gap-free prefix
that came (`kv_incoming`). Nothing here waits: every method does what can be done now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import Tier
from tokenworks.engine.engine import Engine
from tokenworks.kv.client import KVClient
from tokenworks.kv.format import BadBlock, BlockFault, block_bytes
from tokenworks.kv.protocol import Found, Missing, Place, Ready
from tokenworks.policy.accounts import Wait
from tokenworks.policy.arriving import Arrival
from tokenworks.policy.transfer import Prompt, plan_fetch, promise_s
from tokenworks.policy.transfer_model import TransferModel
from tokenworks.worker.kv_incoming import Incoming
from tokenworks.worker.kv_intake import Intake
from tokenworks.worker.kv_traffic import TrafficCounts
from tokenworks.worker.prefill_speed import PrefillSpeed

TURN_BYTES: Final = 32 << 20
"""Copied between two steps at most: some ten milliseconds."""


class Fetcher:
    """One engine's blocks on their way from the store. Used by the step loop alone."""

    def __init__(
        self,
        engine: Engine,
        client: KVClient,
        speed: PrefillSpeed,
        counts: TrafficCounts,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._client = client
        self._speed = speed
        self._counts = counts
        self._clock = clock
        self._model = TransferModel()
        self._incoming: dict[str, Incoming] = {}
        self._ready: deque[tuple[Incoming, Place]] = deque()  # to be copied
        self._intake = Intake(engine, client)
        self._block_bytes = block_bytes(engine.spec)
        self._num_lookups = 0
        self._last_look_s = clock()
        self._waits: list[Wait] = []

    @property
    def has_backlog(self) -> bool:
        """Whether there is something to copy at once."""
        return bool(self._ready)

    @property
    def is_asking(self) -> bool:
        """Whether the store has still to say what it holds."""
        return any(incoming.fetch is None for incoming in self._incoming.values())

    def next_deadline_s(self) -> float | None:
        """When the first of the waiting sequences goes on with what it has."""
        return min((incoming.deadline_s for incoming in self._incoming.values()), default=None)

    # Asking

    def look_up(self) -> None:
        """Ask the store for the blocks that waiting sequences lack."""
        if not self._client.is_attached or not self._client.speeds:
            return
        for arrival in self._engine.scheduler.take_unmatched():
            self._num_lookups += 1
            request, now_s = f"fetch {self._num_lookups}", self._clock()
            prompt = self._prompt(arrival)
            recompute_s = self._speed.seconds(prompt.new_tokens, prompt.cached_tokens)
            self._incoming[request] = Incoming(arrival, request, now_s, now_s + promise_s(recompute_s))
            self._client.find(request, arrival.names, recompute_s / len(arrival.names))

    def _prompt(self, arrival: Arrival) -> Prompt:
        tokens = self._engine.spec.block_tokens
        cached = arrival.first * tokens
        return Prompt(cached, len(arrival.sequence.token_ids) - cached, tokens)

    def on_found(self, found: Found) -> None:
        """Decide how much of it to fetch."""
        incoming = self._incoming.get(found.request)
        now_s = self._clock()
        if incoming is None or incoming.fetch is not None or incoming.deadline_s <= now_s:
            return
        tiers = found.tiers[: len(incoming.arrival.names)]
        plan = plan_fetch(
            tiers,
            self._client.speeds,
            self._block_bytes,
            self._prompt(incoming.arrival),
            self._speed.seconds,
            self._model,
            now_s,
            now_s - incoming.asked_s,
        )
        if plan.count == 0 or not self._engine.scheduler.expect(incoming.arrival, plan.count):
            self._counts.declined(len(tiers))
            self._go_on(incoming)
            return
        self._counts.declined(len(tiers) - plan.count)
        incoming.begin(plan, now_s)
        self._client.get(incoming.request, incoming.arrival.names[: plan.count])

    # Taking in

    def on_ready(self, ready: Ready) -> None:
        """Blocks that stand in the arena, to be copied in the next turns."""
        incoming = self._incoming.get(ready.request)
        if incoming is None or incoming.fetch is None:
            return
        now_s = self._clock()
        for place in ready.places:
            index = incoming.index(place.name)
            if index is not None:
                incoming.came(index, self._last_look_s, now_s)
                self._ready.append((incoming, place))

    def on_missing(self, missing: Missing) -> None:
        """What comes behind a missing block is of no use."""
        incoming = self._incoming.get(missing.request)
        if incoming is not None:
            indices = [index for name in missing.names if (index := incoming.index(name)) is not None]
            self._counts.fault(_fault(missing.reason), len(indices))
            incoming.ends_before(min(indices, default=incoming.num_coming))

    def looked(self) -> None:
        """All that had come has been seen."""
        self._last_look_s = self._clock()

    def copy(self, budget_bytes: int = TURN_BYTES) -> None:
        """Take blocks over, as many as the budget allows, and one at least."""
        while self._ready and budget_bytes > 0:
            incoming, place = self._ready.popleft()
            index = incoming.index(place.name)
            if incoming.arrival.is_open and index is not None and index < incoming.num_coming:
                budget_bytes -= place.num_bytes
                self._take(incoming, index, place)

    def _take(self, incoming: Incoming, index: int, place: Place) -> None:
        try:
            self._intake.take(place, incoming.arrival.blocks[index])
        except BadBlock as bad:
            self._counts.fault(bad.fault)
            incoming.ends_before(index)
        except TokenworksError:  # a place that is not in the arena, or an arena that is gone
            self._counts.fault(BlockFault.UNREACHABLE)
            incoming.ends_before(index)
        else:
            incoming.wrote(index)

    # Going on

    def settle(self) -> None:
        """Let those sequences go on that have all they can get, or whose time is up."""
        now_s = self._clock()
        for incoming in list(self._incoming.values()):
            if not incoming.arrival.is_open:
                self._end(incoming)
                continue
            incoming.count_prefix()
            if incoming.is_all_there:
                self._go_on(incoming)
            elif incoming.deadline_s <= now_s and not self._is_in_backlog(incoming):
                self._counts.fault(BlockFault.LATE, incoming.num_outstanding)
                self._go_on(incoming)

    def _is_in_backlog(self, incoming: Incoming) -> bool:
        return any(one is incoming for one, _ in self._ready)

    def _go_on(self, incoming: Incoming) -> None:
        tiers: Sequence[Tier] = ()
        if incoming.fetch is not None:
            fetch, now_s = incoming.fetch, self._clock()
            tiers = fetch.plan.tiers[: fetch.num_arrived]
            self._model.learn(fetch.observations(now_s), now_s)
            self._counts.fetched(fetch, self._block_bytes, now_s)
        self._engine.scheduler.arrived(incoming.arrival, tiers)
        self._end(incoming)

    def _end(self, incoming: Incoming) -> None:
        del self._incoming[incoming.request]
        if incoming.fetch is not None:
            self._waits.append(incoming.wait(incoming.fetch, self._block_bytes, self._clock()))
            self._client.done(incoming.request)

    def forget(self, request_id: str) -> None:
        """Nobody waits for this request any more: what comes for it is not wanted."""
        for incoming in list(self._incoming.values()):
            if incoming.arrival.sequence.request.id == request_id:
                self._end(incoming)

    def take_waits(self) -> list[Wait]:
        """For what, and how long, sequences were held back since the last call."""
        waits, self._waits = self._waits, []
        return waits

    def lost(self) -> None:
        """The store is gone: go on with what is there."""
        self._ready.clear()
        for incoming in list(self._incoming.values()):
            incoming.count_prefix()
            self._counts.fault(BlockFault.UNREACHABLE, incoming.num_outstanding)
            self._go_on(incoming)


def _fault(reason: str) -> BlockFault:
    return BlockFault(reason) if reason in set(BlockFault) else BlockFault.UNREACHABLE
