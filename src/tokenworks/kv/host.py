"""The store's own memory: which block stands where in the arena, who holds it there, and who gives way.

A block is WRITING (granted to a client), READING (on its way from a lower tier), HELD, or GONE: dropped, while
somebody still has it pinned; its place is free when the last pin is.

Invariants: a block that is not HELD, or is pinned, keeps its place; a name has at most one block; the policy knows
exactly the blocks in the index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.contract.wire import TierStatus
from tokenworks.kv.extents import Extents, aligned


class Policy(Protocol):
    """Which blocks a tier takes in and which it drops: `policy.tiering.TierPolicy`, as far as the store uses it."""

    @property
    def used_bytes(self) -> int:
        """Bytes of all blocks that were added and not removed."""

    def wants(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        """Whether a block is worth its bytes."""

    def repays(
        self, name: BlockName, parent: BlockName, recompute_s: float, write_s: float, has_parent: bool, now_s: float
    ) -> bool:
        """Whether writing it, which takes `write_s` of a processor, is expected to save as much."""

    def refuse(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> None:
        """It was not taken in."""

    def add(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> None:
        """The tier now holds it."""

    def used(self, name: BlockName, now_s: float) -> None:
        """It was used again, held or not."""

    def remove(self, name: BlockName) -> None:
        """The tier holds it no more."""

    def victims(self, num_bytes: int, is_pinned: Callable[[BlockName], bool]) -> list[BlockName]:
        """Blocks to drop for `num_bytes` of room, least valuable first; fewer where the rest is pinned."""


class State(Enum):
    """See the module's head."""

    WRITING = "writing"
    READING = "reading"
    HELD = "held"
    GONE = "gone"


class Block(msgspec.Struct, eq=False):
    """One block in host memory."""

    name: BlockName
    parent: BlockName
    num_bytes: int  # header and payload
    recompute_s: float
    offset: int
    state: State
    pins: int = 0
    is_reused: bool = False
    unwritten: set[Tier] = set()  # tiers that it was not worth writing to


class HostMemory:
    """The blocks in an arena that `extents` divides."""

    def __init__(self, extents: Extents, policy: Policy) -> None:
        self.evictions = 0
        self.puts = 0
        self.hits = 0
        self.faults: Counter[str] = Counter()
        self._extents = extents
        self._policy = policy
        self._blocks: dict[BlockName, Block] = {}
        self._at: dict[int, Block] = {}  # by offset, those in the index
        self.is_unsaved: Callable[[BlockName], bool] = lambda name: False
        self.on_eviction: Callable[[Block], None] = lambda block: None

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, name: BlockName) -> bool:
        """Whether there is a block of that name, readable or not yet."""
        return name in self._blocks

    @property
    def limit_bytes(self) -> int:
        """Bytes of the arena."""
        return self._extents.num_bytes

    def status(self, bytes_per_s: float) -> TierStatus:
        """For the gateways."""
        return TierStatus(
            blocks=len(self._blocks),
            used_bytes=self._extents.used_bytes,
            limit_bytes=self.limit_bytes,
            hits=self.hits,
            puts=self.puts,
            evictions=self.evictions,
            read_bytes_per_s=bytes_per_s,
            faults=dict(self.faults),
        )

    def held(self, name: BlockName) -> Block | None:
        """The block, where it can be read now."""
        block = self._blocks.get(name)
        return block if block is not None and block.state is State.HELD else None

    def wants(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        """Whether a computed block is worth its room."""
        return self._policy.wants(name, parent, aligned(num_bytes), recompute_s, now_s)

    def place(
        self,
        name: BlockName,
        parent: BlockName,
        num_bytes: int,
        recompute_s: float,
        state: State,
        now_s: float,
        *,
        is_passing: bool = False,
    ) -> Block | None:
        """A place for a block that is not there yet; None where everything that could give way is in use.

        A block that is only passing through, to a lower tier, takes the room of none that would be lost. It is worth
        less than those that stay, and so is the first to give way to the next that passes.
        """
        assert name not in self._blocks, f"block {name.hex()} has a place already"
        make_room = self._make_room_of_saved if is_passing else self._make_room
        has_room = num_bytes <= self.limit_bytes and make_room(num_bytes)  # nothing goes for what cannot fit
        offset = self._extents.allocate(num_bytes) if has_room else None
        if offset is None:
            return None
        block = Block(name, parent, num_bytes, recompute_s, offset, state)
        self._blocks[name] = self._at[offset] = block
        self._policy.add(name, parent, aligned(num_bytes), recompute_s, now_s)
        return block

    def settle(self, block: Block) -> None:
        """A block that was being written or read is there."""
        block.state = State.HELD

    def set_parent(self, block: Block, parent: BlockName, now_s: float) -> None:
        """What a block follows has become known."""
        block.parent = parent
        self._policy.remove(block.name)
        self._policy.add(block.name, parent, self._extents.size(block.offset), block.recompute_s, now_s)

    def used(self, name: BlockName, now_s: float) -> None:
        """A block was used again, here or elsewhere."""
        self._policy.used(name, now_s)
        if block := self._blocks.get(name):
            block.is_reused = True

    def pin(self, block: Block) -> Block:
        """Keep it where it is."""
        block.pins += 1
        return block

    def unpin(self, block: Block) -> None:
        """Let go of it; takes back one `pin`."""
        block.pins -= 1
        if block.state is State.GONE and not block.pins:
            self._extents.release(block.offset)

    def drop(self, block: Block) -> None:
        """Hold it no more; whoever has it pinned may read on."""
        if block.state is State.GONE:
            return
        block.state = State.GONE
        del self._blocks[block.name], self._at[block.offset]
        self._policy.remove(block.name)
        if not block.pins:
            self._extents.release(block.offset)

    def _make_room(self, num_bytes: int) -> bool:
        """Free room for one place: of what is saved elsewhere first, then of what would be lost."""
        is_there = self._make_room_of_saved(num_bytes) or self._evict_but(self._is_in_use, num_bytes)
        return is_there or self._widen(num_bytes)

    def _make_room_of_saved(self, num_bytes: int) -> bool:
        return self._extents.fits(num_bytes) or self._evict_but(self._is_in_use_or_unsaved, num_bytes)

    def _evict_but(self, is_kept: Callable[[BlockName], bool], num_bytes: int) -> bool:
        """Evict the least valuable of the others until one place fits; False where it does not even then."""
        for name in self._policy.victims(aligned(num_bytes), is_kept):
            self._evict(self._blocks[name])
            if self._extents.fits(num_bytes):
                return True
        return False

    def _widen(self, num_bytes: int) -> bool:
        """Where blocks of several sizes leave gaps, make the widest gap wider: evict beside it until it is enough."""
        while not self._extents.fits(num_bytes):
            beside = [self._at[start] for start in self._extents.beside_widest() if start in self._at]
            movable = [block for block in beside if not self._is_in_use(block.name)]
            if not movable:
                return False
            self._evict(movable[0])
        return True

    def _evict(self, block: Block) -> None:
        self.evictions += 1
        self.on_eviction(block)
        self.drop(block)

    def _is_in_use(self, name: BlockName) -> bool:
        block = self._blocks[name]
        return block.pins > 0 or block.state is not State.HELD

    def _is_in_use_or_unsaved(self, name: BlockName) -> bool:
        return self._is_in_use(name) or self.is_unsaved(name)
