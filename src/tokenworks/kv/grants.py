"""The places that one client may write to: granted to it, and neither committed nor aborted yet.

A live client that takes places and never writes them must not keep the others' room: places are bounded by bytes, by
number and by time. Who has let one run out is trusted with one at a time, until it commits it. It may still write to
what was taken back; that is why every reader verifies its own copy.
"""

from __future__ import annotations

from typing import Final

from tokenworks.contract.kv import BlockName
from tokenworks.kv.extents import aligned
from tokenworks.kv.host import Block

GRANT_S: Final = 120.0
"""Until a place is taken back. A worker fills some ten between two steps, and a long prompt has hundreds."""
MAX_SHARE: Final = 0.5
"""Of the memory, for all of one client's places."""
LEAST_PLACES: Final = 16
"""That one client may have however small the memory is; its blocks pass through quickly."""
MAX_PLACES: Final = 4096
"""However small the blocks are; as many as a worker keeps in mind."""


class Grants:
    """One client's, of a memory of `arena_bytes`."""

    def __init__(self, arena_bytes: int) -> None:
        self._most_bytes = arena_bytes * MAX_SHARE
        self._held: dict[BlockName, tuple[Block, float]] = {}  # and when it was granted; the oldest first
        self._held_bytes = 0
        self._is_trusted = True

    def has_room(self, num_bytes: int) -> bool:
        """Whether one more place of that size may be granted."""
        if not self._is_trusted or len(self._held) >= MAX_PLACES:
            return not self._held
        return len(self._held) < LEAST_PLACES or self._held_bytes + aligned(num_bytes) <= self._most_bytes

    def add(self, block: Block, now_s: float) -> None:
        """It is the client's, for a while."""
        self._held[block.name] = block, now_s
        self._held_bytes += aligned(block.num_bytes)

    def commit(self, name: BlockName) -> Block | None:
        """The client has written it; None where it is not the client's (any more)."""
        block = self.take(name)
        self._is_trusted |= block is not None
        return block

    def take(self, name: BlockName) -> Block | None:
        """The same, and it has not written it."""
        block, _ = self._held.pop(name, (None, 0.0))
        self._held_bytes -= aligned(block.num_bytes) if block is not None else 0
        return block

    def take_late(self, now_s: float) -> list[Block]:
        """Places that have run out; they are not the client's any more."""
        late: list[Block] = []
        while self._held:
            block, since_s = next(iter(self._held.values()))
            if now_s - since_s < GRANT_S:
                break
            self.take(block.name)
            late.append(block)
        self._is_trusted &= not late
        return late

    def blocks(self) -> list[Block]:
        """All of them."""
        return [block for block, _ in self._held.values()]
