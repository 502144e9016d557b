"""Brings blocks that the host's KV store holds into the engine, for sequences that wait.

For each waiting sequence that lacks blocks the store is asked what it holds (`Find`); then `plan_fetch` says how many
of them to fetch (`Get`), the pool gives blocks to write to, and each block that is ready is copied out of the arena,
verified as that copy, converted where it is of another kind, and written. When all are there, or when waiting on has
become worse than computing, the sequence goes on with the gap-free prefix that came. Nothing here waits: every method
does what can be done now.

When a block came is known only to lie between two looks at the socket, since a step may have run meanwhile. It is taken
to have come when it was predicted to, if that lies between: a long step is not a slow tier.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.engine.engine import Engine
from tokenworks.kv.client import KVClient
from tokenworks.kv.convert import apply
from tokenworks.kv.format import HEADER_BYTES, BadBlock, BlockFault, Header, block_bytes, verify
from tokenworks.kv.negotiation import Refusal, negotiate
from tokenworks.kv.protocol import Found, Missing, Place, Ready
from tokenworks.policy.accounts import Wait
from tokenworks.policy.arriving import Arrival
from tokenworks.policy.transfer import Fetch, Prompt, TransferModel, plan_fetch
from tokenworks.worker.kv_traffic import TrafficCounts
from tokenworks.worker.prefill_speed import PrefillSpeed

TURN_BYTES: Final = 32 << 20
"""Copied between two steps at most: some ten milliseconds."""

LOOKUP_SHARE: Final = 0.03
LOOKUP_S: Final = 0.01
"""How long the store's answer to `Find` is waited for: a share of what computing everything takes, but no less than so
many seconds. What it took is not waited again for the blocks."""


@dataclass(eq=False, slots=True)
class Incoming:
    """One sequence's blocks, asked for or on their way."""

    arrival: Arrival
    request: str  # its name towards the store
    asked_s: float
    give_up_s: float  # when the look-up is given up
    fetch: Fetch | None = None  # None until the store has said what it holds
    written: set[int] = field(default_factory=set)  # indices of blocks that are in place
    num_coming: int = 0  # blocks that may still make a prefix without a gap
    came_s: dict[int, float] = field(default_factory=dict)

    @property
    def deadline_s(self) -> float:
        """When to go on with what is there."""
        if self.fetch is None:
            return self.give_up_s
        return self.fetch.deadline_s - (self.fetch.started_s - self.asked_s)


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
        self._copy = bytearray(block_bytes(engine.spec))
        self._converted = memoryview(bytearray(engine.spec.bytes_per_block))
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
            give_up_s = now_s + max(LOOKUP_S, LOOKUP_SHARE * recompute_s)
            self._incoming[request] = Incoming(arrival, request, now_s, give_up_s)
            self._client.find(request, arrival.names, recompute_s / len(arrival.names))

    def _prompt(self, arrival: Arrival) -> Prompt:
        tokens = self._engine.spec.block_tokens
        cached = arrival.first * tokens
        return Prompt(cached, len(arrival.sequence.token_ids) - cached, tokens)

    def on_found(self, found: Found) -> None:
        """Decide how much of it to fetch."""
        incoming = self._incoming.get(found.request)
        if incoming is None or incoming.fetch is not None:
            return
        tiers = found.tiers[: len(incoming.arrival.names)]
        now_s = self._clock()
        plan = plan_fetch(
            tiers,
            self._client.speeds,
            block_bytes(self._engine.spec),
            self._prompt(incoming.arrival),
            self._speed.seconds,
            self._model,
            now_s,
        )
        if plan.count == 0 or not self._engine.scheduler.expect(incoming.arrival, plan.count):
            self._counts.declined(len(tiers))
            self._go_on(incoming)
            return
        self._counts.declined(len(tiers) - plan.count)
        incoming.fetch, incoming.num_coming = Fetch(plan, now_s), plan.count
        self._client.get(incoming.request, incoming.arrival.names[: plan.count])

    # Taking in

    def on_ready(self, ready: Ready) -> None:
        """Blocks that stand in the arena, to be copied in the next turns."""
        incoming = self._incoming.get(ready.request)
        if incoming is None or incoming.fetch is None:
            return
        now_s = self._clock()
        for place in ready.places:
            index = _index(incoming, place.name)
            if index is not None:
                incoming.came_s[index] = self._likely_s(incoming.fetch, index, now_s)
                self._ready.append((incoming, place))

    def _likely_s(self, fetch: Fetch, index: int, now_s: float) -> float:
        """When a block came that was seen now, and not at the look before."""
        share = sum(fetch.plan.block_s[: index + 1]) / sum(fetch.plan.block_s)
        predicted_s = fetch.started_s + share * fetch.plan.predicted_fetch_s
        return min(now_s, max(predicted_s, self._last_look_s))

    def on_missing(self, missing: Missing) -> None:
        """What comes behind a missing block is of no use."""
        incoming = self._incoming.get(missing.request)
        if incoming is not None:
            indices = [index for name in missing.names if (index := _index(incoming, name)) is not None]
            self._counts.fault(_fault(missing.reason), len(indices))
            incoming.num_coming = min([incoming.num_coming, *indices])

    def looked(self) -> None:
        """All that had come has been seen."""
        self._last_look_s = self._clock()

    def copy(self, budget_bytes: int = TURN_BYTES) -> None:
        """Take blocks over, as many as the budget allows, and one at least."""
        while self._ready and budget_bytes > 0:
            incoming, place = self._ready.popleft()
            index = _index(incoming, place.name)
            if not incoming.arrival.is_open or index is None or index >= incoming.num_coming:
                continue
            budget_bytes -= place.num_bytes
            try:
                self._take(incoming.arrival.blocks[index], place)
            except BadBlock as bad:
                self._counts.fault(bad.fault)
                incoming.num_coming = index
            except TokenworksError:  # a place that is not in the arena, or an arena that is gone
                self._counts.fault(BlockFault.UNREACHABLE)
                incoming.num_coming = index
            else:
                incoming.written.add(index)

    def _take(self, block: int, place: Place) -> None:
        """Copy, then verify the copy, then use it; raises BadBlock."""
        if len(self._copy) < place.num_bytes:
            self._copy = bytearray(place.num_bytes)
        copy = memoryview(self._copy)[: place.num_bytes]
        copy[:] = self._client.memory(place)
        header = verify(copy, place.name, self._engine.spec.fingerprint)
        payload = copy[HEADER_BYTES : HEADER_BYTES + header.payload_bytes]
        self._engine.memory.write_block(block, self._as_ours(payload, header))

    def _as_ours(self, payload: memoryview, header: Header) -> memoryview:
        conversion = negotiate(header, self._engine.spec)
        if isinstance(conversion, Refusal):
            raise BadBlock(BlockFault.SPEC, f"block {header.name.hex()} cannot be used: {conversion.reason}")
        if conversion.is_copy and payload.nbytes == conversion.source_bytes:
            return payload
        apply(conversion, payload, self._converted)
        return self._converted

    # Going on

    def settle(self) -> None:
        """Let those sequences go on that have all they can get, or whose time is up."""
        now_s = self._clock()
        for incoming in list(self._incoming.values()):
            if not incoming.arrival.is_open:
                self._end(incoming)
                continue
            self._count_prefix(incoming)
            fetch = incoming.fetch
            if fetch is not None and fetch.num_arrived >= incoming.num_coming:
                self._go_on(incoming)
            elif incoming.deadline_s <= now_s and not self._is_in_backlog(incoming):
                self._counts.fault(BlockFault.LATE, 1 if fetch is None else incoming.num_coming - fetch.num_arrived)
                self._go_on(incoming)

    def _count_prefix(self, incoming: Incoming) -> None:
        fetch = incoming.fetch
        while fetch is not None and fetch.num_arrived in incoming.written:
            fetch.arrived(1, incoming.came_s[fetch.num_arrived])

    def _is_in_backlog(self, incoming: Incoming) -> bool:
        return any(one is incoming for one, _ in self._ready)

    def _go_on(self, incoming: Incoming) -> None:
        tiers: Sequence[Tier] = ()
        if incoming.fetch is not None:
            fetch, now_s = incoming.fetch, self._clock()
            tiers = fetch.plan.tiers[: fetch.num_arrived]
            self._model.learn(fetch, now_s)
            self._counts.fetched(fetch, block_bytes(self._engine.spec), now_s)
        self._engine.scheduler.arrived(incoming.arrival, tiers)
        self._end(incoming)

    def _end(self, incoming: Incoming) -> None:
        del self._incoming[incoming.request]
        if incoming.fetch is not None:
            self._waits.append(self._wait(incoming, incoming.fetch))
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

    def _wait(self, incoming: Incoming, fetch: Fetch) -> Wait:
        """The look-up, before it was plain what would come, counts as the first tier's."""
        waited_s = fetch.waited_s(self._clock())
        waited_s[fetch.plan.tiers[0]] += fetch.started_s - incoming.asked_s
        blocks = Counter(fetch.plan.tiers[: fetch.num_arrived])
        arrival = incoming.arrival
        return Wait(
            request_id=arrival.sequence.request.id,
            by_tier_ns={tier: round(seconds * 1e9) for tier, seconds in waited_s.items()},
            fetched_bytes={tier: count * block_bytes(self._engine.spec) for tier, count in blocks.items()},
            held_blocks=arrival.first + len(arrival.blocks),
        )

    def lost(self) -> None:
        """The store is gone: go on with what is there."""
        self._ready.clear()
        for incoming in list(self._incoming.values()):
            self._count_prefix(incoming)
            num_arrived = 0 if incoming.fetch is None else incoming.fetch.num_arrived
            self._counts.fault(BlockFault.UNREACHABLE, max(1, incoming.num_coming - num_arrived))
            self._go_on(incoming)


def _index(incoming: Incoming, name: BlockName) -> int | None:
    """Which of the blocks asked for it is; None where it is none of them, whatever the store says."""
    try:
        return incoming.arrival.names.index(name, 0, len(incoming.arrival.blocks))
    except ValueError:
        return None


def _fault(reason: str) -> BlockFault:
    return BlockFault(reason) if reason in set(BlockFault) else BlockFault.UNREACHABLE
