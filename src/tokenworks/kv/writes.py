"""The blocks that are to be written to one tier: those that wait, the most valuable first, and the one under way.

Pure. The queue is here and not in the threads, so that a block that has left memory meanwhile can still be taken out.

Invariants: one write is under way at most; what is kept is bounded by the blocks that wait, however many came and went.
"""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

import msgspec

from tokenworks.contract.kv import BlockName

FEW: Final = 64
"""Wishes that it does not pay to look through."""


class Entry(msgspec.Struct, frozen=True):
    """A block in a lower tier, or on its way there."""

    num_bytes: int
    parent: BlockName
    recompute_s: float


class _Wish(NamedTuple):
    """A block to be written; the first two fields order them, and no two have the same."""

    unworth: float  # recompute seconds a byte, below zero: the most valuable comes first
    number: int  # then what has waited longest
    name: BlockName
    entry: Entry
    since_s: float


class WriteQueue:
    """Of one tier."""

    def __init__(self) -> None:
        self._waiting: dict[BlockName, _Wish] = {}
        self._by_value: list[_Wish] = []  # heap; some of them wait no more
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
        wish = _Wish(-entry.recompute_s / entry.num_bytes, self._count, name, entry, now_s)
        self._waiting[name] = wish
        heapq.heappush(self._by_value, wish)
        if len(self._by_value) > max(FEW, 2 * len(self._waiting)):  # else a tier that is down, or slow, fills memory
            self._by_value = sorted(self._waiting.values())

    def forget(self, name: BlockName) -> bool:
        """The block need not, or cannot, be written any more; whether it was to be."""
        return self._waiting.pop(name, None) is not None

    def next(self) -> tuple[BlockName, Entry, float] | None:
        """The block to write now, and since when it has waited; then say `started`."""
        while self._by_value and not self._under_way:
            wish = heapq.heappop(self._by_value)
            if self._waiting.get(wish.name) is wish:
                del self._waiting[wish.name]
                return wish.name, wish.entry, wish.since_s
        return None

    def started(self, name: BlockName, entry: Entry) -> None:
        """It is being written."""
        self._under_way[name] = entry

    def ended(self, name: BlockName) -> Entry:
        """It is not being written any more, well or badly."""
        return self._under_way.pop(name)
