"""The places that clients may write to: granted to one of them, and neither committed nor aborted yet.

A live client that takes places and never writes them must not keep the others' room: places are bounded by bytes, by
number and by time. In bytes a client may have as much as is left when all clients' places are taken off: alone half of
the memory, beside one that has its half a quarter, and so on (two that fill up together have a third each); so however
many of them are stuck, some room is left for the next (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions
on Networking 6(2), 1998). Who has let a place run out is trusted with one at a time, until it commits it. It may still
write to what was taken back; that is why every reader verifies its own copy.
"""

from __future__ import annotations

from typing import Final

from tokenworks.contract.kv import BlockName
from tokenworks.kv.extents import aligned
from tokenworks.kv.host import Block

GRANT_S: Final = 120.0
"""Until a place is taken back. A worker fills some ten between two steps, and a long prompt has hundreds."""
LEAST_PLACES: Final = 16
"""That a client may have, however small the memory is, where no other has any; its blocks pass through quickly."""
MAX_PLACES: Final = 4096
"""However small the blocks are; as many as a worker keeps in mind."""


class Room:
    """Of a memory of `arena_bytes`: what is not granted to any client."""

    def __init__(self, arena_bytes: int) -> None:
        self.arena_bytes = arena_bytes
        self.free_bytes = arena_bytes


class Grants:
    """One client's, out of the room that it shares with the others."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held: dict[BlockName, tuple[Block, float]] = {}  # and when it was granted; the oldest first
        self._held_bytes = 0
        self._is_trusted = True

    def has_room(self, num_bytes: int) -> bool:
        """Whether one more place of that size may be granted; the first one always may."""
        if not self._held:
            return True
        if not self._is_trusted or len(self._held) >= MAX_PLACES:
            return False
        if len(self._held) < LEAST_PLACES and self._is_alone:
            return True
        size = aligned(num_bytes)
        return self._held_bytes + size <= self._room.free_bytes - size

    @property
    def _is_alone(self) -> bool:
        return self._room.free_bytes + self._held_bytes == self._room.arena_bytes

    def add(self, block: Block, now_s: float) -> None:
        """It is the client's, for a while."""
        self._held[block.name] = block, now_s
        self._count(aligned(block.num_bytes))

    def commit(self, name: BlockName) -> Block | None:
        """The client has written it; None where it is not the client's (any more)."""
        block = self.take(name)
        self._is_trusted |= block is not None
        return block

    def take(self, name: BlockName) -> Block | None:
        """The same, and it has not written it."""
        block, _ = self._held.pop(name, (None, 0.0))
        self._count(-aligned(block.num_bytes) if block is not None else 0)
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

    def take_all(self) -> list[Block]:
        """All of them: the client has left."""
        blocks = [block for block, _ in self._held.values()]
        self._held.clear()
        self._count(-self._held_bytes)
        return blocks

    def _count(self, num_bytes: int) -> None:
        self._held_bytes += num_bytes
        self._room.free_bytes -= num_bytes
