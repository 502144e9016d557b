"""The blocks that are to be written to one tier: those that wait, the most valuable first, and the one under way.

Pure. The queue is here and not in the threads, so that a block that has left memory meanwhile can still be taken out.

Invariant: one write is under way at most.
"""

from __future__ import annotations

import heapq

import msgspec

from tokenworks.contract.kv import BlockName


class Entry(msgspec.Struct, frozen=True):
    """A block in a lower tier, or on its way there."""

    num_bytes: int
    parent: BlockName
    recompute_s: float  # 0: not known, since it was found there by its name


class WriteQueue:
    """Of one tier."""

    def __init__(self) -> None:
        self._waiting: dict[BlockName, tuple[Entry, float]] = {}  # and since when
        self._by_value: list[tuple[float, int, BlockName]] = []  # heap: most valuable first, then oldest
        self._count = 0
        self._under_way: dict[BlockName, Entry] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __contains__(self, name: BlockName) -> bool:
        """Whether it is being written or waits for it."""
        return name in self._waiting or name in self._under_way

    @property
    def is_busy(self) -> bool:
        """Whether something is being written."""
        return bool(self._under_way)

    def is_waiting(self, name: BlockName) -> bool:
        """Whether it is still to be started."""
        return name in self._waiting

    def is_under_way(self, name: BlockName) -> bool:
        """Whether it is being written."""
        return name in self._under_way

    def want(self, name: BlockName, entry: Entry, now_s: float) -> None:
        """Have a block written, after those of more recompute seconds a byte."""
        self._count += 1
        self._waiting[name] = (entry, now_s)
        heapq.heappush(self._by_value, (-entry.recompute_s / entry.num_bytes, self._count, name))

    def forget(self, name: BlockName) -> bool:
        """The block need not, or cannot, be written any more; whether it was to be."""
        return self._waiting.pop(name, None) is not None

    def next(self) -> tuple[BlockName, Entry, float] | None:
        """The block to write now, and since when it has waited; then say `started`."""
        while self._by_value and not self._under_way:
            name = heapq.heappop(self._by_value)[2]
            if name in self._waiting:
                return name, *self._waiting.pop(name)
        return None

    def started(self, name: BlockName, entry: Entry) -> None:
        """It is being written."""
        self._under_way[name] = entry

    def ended(self, name: BlockName) -> Entry:
        """It is not being written any more, well or badly."""
        return self._under_way.pop(name)
