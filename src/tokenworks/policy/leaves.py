"""Which of a tier's blocks nothing that it holds follows, and which of those is worth least.

Leaves stand in heaps, one for each class of history and cost, least recently used first. Within a class that is the
order of value, so that only the heads are compared.

Invariant: a leaf stands in one heap, that of the class that it had when it entered: one whose class or last use has
changed must leave and enter again. `enter` and `leave` cost O(log n) amortised, `least` O(classes + log n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from tokenworks.contract.kv import BlockName
from tokenworks.policy.reuse import Kind


@dataclass(slots=True, eq=False)
class Block:
    """What is known of a name, held or not."""

    name: BlockName
    parent: BlockName
    kind: Kind  # class of the reuse model
    last_s: float  # its last use, or when it came
    num_bytes: int = 0
    weight: float = 0.0  # square root of recompute seconds per byte; 0: not known
    has_grown: bool = False  # whether a block was put after it
    is_lost: bool = False  # dropped or refused, so that what follows it cannot be found
    order: int = 0  # of coming; settles ties
    stamp: int = -1  # of its valid entry in `home`
    home: _Class | None = None  # None: it is no leaf


@dataclass(slots=True, eq=False)
class _Class:
    """Leaves of one class, least recently used first; entries whose stamp is not their block's any more are void."""

    heap: list[tuple[float, int, int, Block]] = field(default_factory=list)  # (last use, order, stamp, block)
    num_valid: int = 0

    def head(self) -> Block | None:
        """The least recently used one."""
        while self.heap and self.heap[0][2] != self.heap[0][3].stamp:
            heappop(self.heap)
        return self.heap[0][3] if self.heap else None

    def push(self, block: Block, stamp: int) -> None:
        """One more; void entries are swept out before they are most of the heap."""
        if len(self.heap) > 2 * self.num_valid + 64:
            self.heap = [entry for entry in self.heap if entry[2] == entry[3].stamp]
            heapify(self.heap)
        heappush(self.heap, (block.last_s, block.order, stamp, block))
        block.home, block.stamp = self, stamp
        self.num_valid += 1

    def void(self, block: Block) -> None:
        """Not a leaf any more, or not here."""
        block.home, block.stamp = None, -1
        self.num_valid -= 1


class Leaves:
    """Of one tier; `rank` says what to drop first: the least."""

    def __init__(self, rank: Callable[[Block], tuple[float, float, int]]) -> None:
        self._rank = rank
        self._classes: dict[Kind, _Class] = {}
        self._stamps = 0

    def enter(self, block: Block) -> None:
        """The block, which is no leaf, is one."""
        self._stamps += 1
        self._classes.setdefault(block.kind, _Class()).push(block, self._stamps)

    def leave(self, block: Block) -> None:
        """The block is none; nothing where it was none."""
        if block.home is not None:
            block.home.void(block)

    def least(self) -> Block | None:
        """The one of least rank: the head of one of the classes."""
        heads = (leaves.head() for leaves in self._classes.values())
        return min((head for head in heads if head is not None), key=self._rank, default=None)
