"""Which KV block holds what: allocation, sharing by name, and eviction of the least recently used.

The pool deals in block numbers and names only; the bytes live elsewhere (a device, or nowhere in the simulator).
A block is in one of three states: in use (referenced by one sequence or more), cached (free, but named, so that a later
prompt may find it) or empty. Cached and empty blocks together are the free ones.

Invariants: a name belongs to at most one block; a block in use is never handed out; a free block has no references;
every operation costs O(blocks it is given).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from tokenworks.contract.kv import BlockName

DROPPED_POOLS: Final = 8
"""Pools' worth of dropped names that are remembered: with so many times the memory, such a block would be found."""
MAX_DROPPED: Final = 1 << 16


class BlockPool:
    """`num_blocks` blocks, all empty at first."""

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"a block pool needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self.evictions = 0  # prompts that missed a cached block which had given way to others
        self._references = [0] * num_blocks
        self._names: list[BlockName | None] = [None] * num_blocks
        self._by_name: dict[BlockName, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # next to be reused first
        self._dropped: OrderedDict[BlockName, None] = OrderedDict()  # names that gave way, the latest last
        self._max_dropped = min(DROPPED_POOLS * num_blocks, MAX_DROPPED)
        self._changes: dict[BlockName, bool] = {}  # name -> is it held now, since the last take_changes()

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated, cached ones included."""
        return len(self._free)

    def match(self, names: Sequence[BlockName]) -> list[int]:
        """The blocks of the longest prefix of `names` that the pool holds. Takes no reference."""
        blocks: list[int] = []
        for name in names:
            block = self._by_name.get(name)
            if block is None:
                self._miss(name)
                break
            blocks.append(block)
        return blocks

    def num_free_among(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` are free: taking these lowers `num_free` by as much."""
        return sum(block in self._free for block in blocks)

    def acquire(self, blocks: Iterable[int]) -> None:
        """Take one more reference to each of these (matched) blocks."""
        for block in blocks:
            self._references[block] += 1
            self._free.pop(block, None)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each, emptied: what they cached is forgotten."""
        assert count <= len(self._free), f"{count} blocks wanted, {len(self._free)} free"
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
            self._drop(self._names[block])
            self.forget(block)
        return blocks

    def _drop(self, name: BlockName | None) -> None:
        """Remember what gives way, to tell a memory that is too small from prompts that are unlike each other."""
        if name is None:
            return
        self._dropped[name] = None
        if len(self._dropped) > self._max_dropped:
            self._dropped.popitem(last=False)

    def _miss(self, name: BlockName) -> None:
        if name in self._dropped:
            del self._dropped[name]  # counted once, however often a waiting sequence is looked at
            self.evictions += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each block of a sequence, listed in sequence order.

        The tail is freed first, and so reused first: a prefix is worth more than what follows it.
        """
        for block in reversed(blocks):
            self._references[block] -= 1
            assert self._references[block] >= 0, f"block {block} released more often than acquired"
            if self._references[block] == 0:
                self._free[block] = None
                if self._names[block] is None:
                    self._free.move_to_end(block, last=False)

    def give_name(self, block: int, name: BlockName) -> bool:
        """Make a full block findable. Where another block has the name already, that one keeps it: False."""
        if name in self._by_name or self._names[block] is not None:
            return False
        self._names[block] = name
        self._by_name[name] = block
        self._changes[name] = True
        return True

    def forget(self, block: int) -> None:
        """Take a block's name away: nobody will find it again."""
        name = self._names[block]
        if name is not None:
            self._names[block] = None
            del self._by_name[name]
            self._changes[name] = False

    def held_names(self) -> list[BlockName]:
        """All names that can be found now."""
        return list(self._by_name)

    def take_changes(self) -> tuple[list[BlockName], list[BlockName]]:
        """Names (added, removed) since the last call; a name that came and went is told as removed."""
        changes, self._changes = self._changes, {}
        added = [name for name, is_held in changes.items() if is_held]
        return added, [name for name, is_held in changes.items() if not is_held]
