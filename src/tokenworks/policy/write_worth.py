"""Whether blocks of some history are worth writing to a slower tier: what a write saves, against what it takes. Pure.

Of real blocks three quarters are never used again, and of some traffic all are. Writing those takes processors from
computing, and wears out the device, for nothing. A write is worth it where

    P(used again) x seconds to compute the block again  >=  processor seconds of the write,

with P learnt by history (uses before): uses over blocks watched. A use counts at once, however late it comes; a block
counts as watched when HORIZON_S have passed since it came and it is still remembered, used or not. So P is high at
first, falls only when uses have had the time to come, and rises with the first that do.

Invariants: the cost of an event is O(1) amortised; at most MAX_WATCHED blocks are watched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tokenworks.contract.kv import BlockName

HORIZON_S: Final = 600.0
"""94 % of the uses in Mooncake's conversation trace come within this, 78 % within half of it."""

PRIOR_CHANCE: Final = 0.5
PRIOR_BLOCKS: Final = 16.0
"""What is thought of a history before anything was seen of it, and how many blocks that weighs."""

MEMORY_BLOCKS: Final = 4096.0
"""Watched blocks of a history after which a count has faded to 1/e."""

MAX_WATCHED: Final = 1 << 16
"""Of more than these the oldest are not watched to the end, and say nothing."""

SAMPLED: Final = 16
"""One chain of blocks in so many is written whatever is thought of it, so that what is thought can turn out wrong."""


class _Watched(NamedTuple):
    name: BlockName
    history: int
    since_s: float


@dataclass(slots=True)
class _Counts:
    """Of one history; fading."""

    watched: float = 0.0
    used: float = 0.0


class WriteWorth:
    """What one tier has learnt. `is_known`: whether a block is still held or remembered, so that its uses are seen."""

    def __init__(self, is_known: Callable[[BlockName], bool]) -> None:
        self._is_known = is_known
        self._watching: deque[_Watched] = deque(maxlen=MAX_WATCHED)
        self._counts: dict[int, _Counts] = {}

    def entered(self, name: BlockName, history: int, now_s: float) -> None:
        """A block came, or was used and so has one use more; instants never go back."""
        self.passed(now_s)
        self._watching.append(_Watched(name, history, now_s))

    def used(self, history: int) -> None:
        """A block of this history was used again."""
        self._of(history).used += 1

    def chance(self, history: int) -> float:
        """That a block of this history is used again."""
        counts = self._of(history)
        prior = PRIOR_CHANCE * PRIOR_BLOCKS
        return (counts.used + prior) / (max(counts.watched, counts.used) + PRIOR_BLOCKS)

    def is_worth(self, history: int, recompute_s: float, write_s: float) -> bool:
        """Whether writing is expected to save more than it takes. Where either is not known (0), it is."""
        return recompute_s <= 0 or self.chance(history) * recompute_s >= write_s

    def passed(self, now_s: float) -> None:
        """Time has passed: blocks that came a horizon ago have been watched."""
        while self._watching and now_s - self._watching[0].since_s >= HORIZON_S:
            watched = self._watching.popleft()
            if self._is_known(watched.name):
                counts = self._of(watched.history)
                keep = 1 - 1 / MEMORY_BLOCKS
                counts.watched, counts.used = keep * counts.watched + 1, keep * counts.used

    def _of(self, history: int) -> _Counts:
        return self._counts.setdefault(history, _Counts())


def is_sampled(name: BlockName) -> bool:
    """Whether the chain that begins with this block is written in any case. Names are hashes: their bytes are even."""
    return name[0] % SAMPLED == 0
