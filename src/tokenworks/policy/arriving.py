"""Waiting sequences whose next blocks may come from elsewhere: who is looked up, who is held back, with which blocks.

A sequence that is *looked up* is held back until `arrived` says what came, which may be nothing: others behind it are
admitted meanwhile. From its look-up on it holds the blocks of its prefix that the pool has, from `expect` on also those
that are written to; so neither is evicted before it is admitted. Whoever writes asks `is_open` before each block,
because a sequence can end, and its blocks can be taken for others, at any step.

Only sequences that there is room for are looked up, in the order of the queue, so that blocks are never held for
somebody far behind while those before lack them. Of several that miss the same block, one is looked up and the others
wait for it.

Invariants: an arrival is open or its sequence is admissible; `arrived` and `surrender` close it; closed is for good.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.sequence import Sequence

LOOK_AHEAD: Final = 8
"""Sequences beyond those that could run now which are looked up already, so that KV comes while others compute."""


@dataclass(eq=False, slots=True)
class Arrival:
    """One look-up: the blocks of a sequence that the pool does not have."""

    sequence: Sequence
    first: int  # index in the sequence of the first of them
    names: list[BlockName]  # of them all, short of the last token's block
    is_open: bool = True
    blocks: list[int] = field(default_factory=list)  # of the pool, to be written to: see `expect`


class Arrivals:
    """The arrivals of one scheduler, whose queue and pool these are."""

    def __init__(self, pool: BlockPool, waiting: deque[Sequence], max_running: int) -> None:
        self._pool = pool
        self._waiting = waiting
        self._max_running = max_running
        self._open: dict[str, Arrival] = {}  # by request id
        self._behind: dict[str, Sequence] = {}  # those that wait for what another one's look-up brings

    def __len__(self) -> int:
        return len(self._open) + len(self._behind)

    def is_held(self, sequence: Sequence) -> bool:
        """Whether it may not be admitted yet."""
        return sequence.request.id in self._open or sequence.request.id in self._behind

    def take_unmatched(self, num_running: int) -> list[Arrival]:
        """Open an arrival for each waiting sequence that there is room for and that lacks blocks; each only once."""
        found: list[Arrival] = []
        room = self._pool.num_free - num_running
        awaited = {arrival.names[0] for arrival in self._open.values()}
        for sequence in list(islice(self._waiting, self._max_running - num_running + LOOK_AHEAD)):
            names = sequence.names_of_full_blocks(len(sequence.token_ids) - 1)
            cached = self._pool.match(names)
            room -= self._num_needed(sequence, cached)
            if room < 0:
                break
            if sequence.is_looked_up or sequence.request.id in self._behind:
                continue
            missing = names[len(cached) :]
            if missing and missing[0] in awaited:
                self._behind[sequence.request.id] = sequence
                continue
            sequence.is_looked_up = True
            if missing:
                awaited.add(missing[0])
                found.append(self._hold(sequence, cached, missing))
        return found

    def _num_needed(self, sequence: Sequence, cached: list[int]) -> int:
        """Free blocks that its tokens take, beyond what it holds already."""
        held = max(len(sequence.block_table), len(cached))
        return sequence.blocks_for(len(sequence.token_ids)) - held + self._pool.num_free_among(cached)

    def _hold(self, sequence: Sequence, cached: list[int], missing: list[BlockName]) -> Arrival:
        self._pool.acquire(cached)
        sequence.block_table = list(cached)
        arrival = self._open[sequence.request.id] = Arrival(sequence, len(cached), missing)
        return arrival

    def expect(self, arrival: Arrival, count: int, num_running: int) -> bool:
        """Allocate `arrival.blocks` for its first `count` names; False where it is closed or there is no room."""
        if not arrival.is_open:
            return False
        sequence = arrival.sequence
        new = sequence.blocks_for(len(sequence.token_ids)) - len(sequence.block_table)
        if new + num_running > self._pool.num_free:
            return False
        arrival.blocks = self._pool.allocate(count)
        sequence.block_table += arrival.blocks
        return True

    def arrived(self, arrival: Arrival, tiers: ListLike[Tier]) -> None:
        """The first `len(tiers)` of `arrival.blocks` are whole, and from these tiers; it is admissible again."""
        if not arrival.is_open:
            return
        sequence, names = arrival.sequence, arrival.names
        for block, name in zip(arrival.blocks[: len(tiers)], names, strict=False):
            self._pool.give_name(block, name)
        kept = self._pool.match(sequence.names_of_full_blocks(len(sequence.token_ids) - 1))
        self._pool.acquire(kept)
        self._pool.release(sequence.block_table)
        sequence.block_table = kept
        sequence.fetched = dict(enumerate(tiers, arrival.first))
        self._close(arrival)

    def forget(self, sequence: Sequence) -> None:
        """It has ended, or has lost its blocks: what is on its way to it is not wanted any more."""
        arrival = self._open.get(sequence.request.id)
        if arrival is not None:
            self._close(arrival)
        self._behind.pop(sequence.request.id, None)
        sequence.is_looked_up = False
        sequence.fetched = {}

    def _close(self, arrival: Arrival) -> None:
        arrival.is_open = False
        del self._open[arrival.sequence.request.id]
        self._behind.clear()

    def last_holder(self, behind: Sequence | None) -> Sequence | None:
        """The last in the queue, and behind that sequence, that holds blocks."""
        for sequence in reversed(self._waiting):
            if sequence is behind:
                return None
            if sequence.block_table:
                return sequence
        return None


def tokens_by_tier(sequence: Sequence) -> dict[Tier, int]:
    """How many of its tokens came from where, beyond the device."""
    blocks = Counter(sequence.fetched.values())
    return {tier: count * sequence.block_tokens for tier, count in blocks.items()}
