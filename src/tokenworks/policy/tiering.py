"""Which blocks a tier takes in and which it drops: those worth least by the recompute seconds that they will save.

A block's value is the square root of what computing it again would take, per byte, times the rate at which blocks of
its history, cost and age are used again (`reuse`, learnt from the uses that the tier itself sees). The root, because
the dear blocks are the deep ones, and a rate that is guessed a little too high must not keep long dead conversations;
see docs/design/011-tier-value.md. A full tier drops the least valuable leaf, and takes in what is worth more than that.
Blocks are a forest: one without its parent cannot be found (lookup walks the chain from the front), so only leaves are
dropped, and a block whose parent was dropped is not taken in.

Names that are not held (refused, dropped, used elsewhere) are
remembered for a while as ghosts: when such a block comes again it comes with its history, and the model learns from it.

Invariants: `used_bytes` is the sum over held blocks; ghosts are never more than MIN_GHOSTS or the blocks held at most;
operations cost O(log n) amortised, victims O(classes + log n) for each.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tokenworks.contract.kv import BlockName
from tokenworks.policy.leaves import Block, Leaves
from tokenworks.policy.reuse import Kind, ReuseModel
from tokenworks.policy.write_worth import WriteWorth, is_sampled

NUM_HISTORIES: Final = 6
"""Uses after which a block counts as used often."""

MIN_GHOSTS: Final = 4096

USUAL_BLOCKS: Final = 64
"""Of known cost, the last so many say what a block of unknown cost (found on a disk at start) would take."""

UNKNOWN: Final = -10_000
"""The class of such blocks, apart from all octaves."""

SAME_USE_S: Final = 1.0
"""Uses that follow each other as fast are of one request."""


class TierPolicy:
    """The blocks of one tier of `limit_bytes`. Instants are seconds of one clock; one that goes back stands still."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._held: dict[BlockName, Block] = {}
        self._ghosts: OrderedDict[BlockName, Block] = OrderedDict()  # the one seen longest ago first
        self._max_ghosts = MIN_GHOSTS
        self._children: dict[BlockName, int] = {}  # held ones, by parent, held or not
        self._leaves = Leaves(self._rank)
        self._orders = 0
        self._now_s = 0.0
        self._usual_weight = 0.0  # of the blocks that came lately and whose cost is known
        self._reuse = ReuseModel()
        self._worth = WriteWorth(lambda name: self._known(name) is not None)

    @property
    def used_bytes(self) -> int:
        """Of all blocks held."""
        return self._used_bytes

    def wants(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        """Whether to take this block in. One that is refused is remembered as if it had been dropped at once.

        `recompute_s` of 0 means that it is not known: then the block is thought to be as dear as usual.
        """
        self._now_s = max(self._now_s, now_s)
        if name in self._held:
            return False
        weight = _weight(num_bytes, recompute_s)
        kind = Kind(self._next_history(name, parent), _octave(weight))
        if self._is_worth_it(Block(name, parent, kind, self._now_s, num_bytes, weight)):
            if name in self._ghosts:
                self._ghosts[name].is_lost = False  # it is on its way, and what follows it may come behind
            return True
        self.refuse(name, parent, num_bytes, recompute_s, now_s)
        return False

    def repays(
        self, name: BlockName, parent: BlockName, recompute_s: float, write_s: float, has_parent: bool, now_s: float
    ) -> bool:
        """Whether writing a block here, which takes `write_s` of a processor, is expected to save as much.

        A few chains are written in any case, and whole, so that their uses are seen: a chain begins where the block
        before is not here and was not refused, or has another one after it. `has_parent`: it is here, or soon will be.
        """
        self._now_s = max(self._now_s, now_s)
        self._worth.passed(self._now_s)
        if self._worth.is_worth(self._next_history(name, parent), recompute_s, write_s):
            return True
        before = self._known(parent)
        if has_parent:
            return before is None or not before.has_grown or is_sampled(name)
        return before is None and is_sampled(name)

    def refuse(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> None:
        """The block is not taken in: it is remembered as if it had been dropped at once."""
        self._now_s = max(self._now_s, now_s)
        self._remember(self._note(name, parent, num_bytes, recompute_s), is_lost=True)

    def add(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> None:
        """The block is held from now on; it is for the caller to drop `victims` first. Held already: a use."""
        if name in self._held:
            self.used(name, now_s)
            return
        self._now_s = max(self._now_s, now_s)
        block = self._note(name, parent, num_bytes, recompute_s)
        self._held[name] = block
        self._used_bytes += num_bytes
        self._max_ghosts = max(self._max_ghosts, len(self._held))
        self._children[parent] = self._children.get(parent, 0) + 1
        if parent in self._held:
            self._settle(self._held[parent])
        self._settle(block)

    def used(self, name: BlockName, now_s: float) -> None:
        """A hit, or a touch: the block was used again, wherever it came from."""
        self._now_s = max(self._now_s, now_s)
        block = self._held.get(name)
        if block is not None:
            self._count_use(block, block.kind.octave)
            self._settle(block)
            return
        block = self._ghosts.get(name)
        if block is None:
            self._remember(self._note(name, b"", 0, 0.0), is_lost=False)
        else:
            self._count_use(block, block.kind.octave)
            self._ghosts.move_to_end(name)

    def remove(self, name: BlockName) -> None:
        """The block is not held any more; names that are not held are ignored."""
        block = self._held.pop(name, None)
        if block is None:
            return
        self._used_bytes -= block.num_bytes
        self._children[block.parent] -= 1
        if not self._children[block.parent]:
            del self._children[block.parent]
        self._settle(block)
        if block.parent in self._held:
            self._settle(self._held[block.parent])
        self._remember(block, is_lost=True)

    def victims(self, num_bytes: int, is_pinned: Callable[[BlockName], bool]) -> list[BlockName]:
        """What to drop to free `num_bytes`, each before its parent, least valuable first; less where all is pinned.

        They stay held until each is told to `remove`.
        """
        chosen: list[BlockName] = []
        moved: list[Block] = []  # whose place among the leaves is not what it was
        left: dict[BlockName, int] = {}  # children that parents would still have
        while num_bytes > 0 and (block := self._leaves.least()) is not None:
            self._leaves.leave(block)
            moved.append(block)
            if is_pinned(block.name):
                continue
            chosen.append(block.name)
            num_bytes -= block.num_bytes
            left[block.parent] = left.get(block.parent, self._children[block.parent]) - 1
            if not left[block.parent] and block.parent in self._held:
                moved.append(self._held[block.parent])
                self._leaves.enter(moved[-1])
        for block in moved:
            self._settle(block)
        return chosen

    def _is_worth_it(self, block: Block) -> bool:
        """Whether a block that would come now is worth more than what would go for it."""
        before = self._ghosts.get(block.parent)
        if block.num_bytes > self.limit_bytes or (before is not None and before.is_lost):
            return False
        if self._used_bytes + block.num_bytes <= self.limit_bytes:
            return True
        least = self._leaves.least()
        return least is not None and least.name != block.parent and self._value(block) >= self._value(least)

    def _rank(self, block: Block) -> tuple[float, float, int]:
        return self._value(block), block.last_s, block.order

    def _value(self, block: Block) -> float:
        """What keeping the block is worth; of an unknown cost, what is usual."""
        weight = block.weight or self._usual_weight or 1.0
        return weight * self._reuse.rate(block.kind, self._now_s - block.last_s)

    def _note(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float) -> Block:
        """A block that comes, with the history that its ghost has, which is forgotten; the model learns of it."""
        weight = _weight(num_bytes, recompute_s)
        block = self._ghosts.pop(name, None)
        if block is None:
            block = Block(name, parent, Kind(self._first_history(parent), _octave(weight)), self._now_s)
            self._entered(block)
        else:
            self._count_use(block, _octave(weight))
        before = self._known(parent)
        if before is not None:
            before.has_grown = True
        self._orders += 1
        block.parent, block.num_bytes, block.weight, block.order = parent, num_bytes, weight, self._orders
        if weight:
            usual = self._usual_weight or weight
            self._usual_weight = usual + (weight - usual) / USUAL_BLOCKS
        return block

    def _entered(self, block: Block) -> None:
        """It has come into its class. One found on a disk has been there for who knows how long."""
        self._reuse.entered(block.kind)
        if block.kind.octave != UNKNOWN:
            self._worth.entered(block.name, block.kind.history, self._now_s)

    def _next_history(self, name: BlockName, parent: BlockName) -> int:
        """Of a block that would come now."""
        ghost = self._ghosts.get(name)
        return self._first_history(parent) if ghost is None else _after(ghost.kind.history)

    def _first_history(self, parent: BlockName) -> int:
        """Of a block never seen: a conversation goes on with the history it has, another branch starts anew."""
        before = self._known(parent)
        return 0 if before is None or before.has_grown else before.kind.history

    def _known(self, name: BlockName) -> Block | None:
        return self._held.get(name) or self._ghosts.get(name)

    def _count_use(self, block: Block, octave: int) -> None:
        """Uses within a second are one: a request looks a block up, gets it and touches it."""
        age_s, before = self._now_s - block.last_s, block.kind
        block.last_s, block.kind = self._now_s, Kind(before.history, octave)
        if age_s >= SAME_USE_S:
            self._reuse.used(before, age_s)
            self._worth.used(before.history)
            block.kind = Kind(_after(before.history), octave)
            self._entered(block)

    def _remember(self, block: Block, *, is_lost: bool) -> None:
        """As a ghost, while there is room for ghosts."""
        block.is_lost = is_lost
        self._ghosts[block.name] = block
        while len(self._ghosts) > self._max_ghosts:
            self._ghosts.popitem(last=False)

    def _settle(self, block: Block) -> None:
        """Put a block where it belongs: among the leaves of its class, if it is one."""
        self._leaves.leave(block)
        if block.name in self._held and block.name not in self._children:
            self._leaves.enter(block)


def _weight(num_bytes: int, recompute_s: float) -> float:
    return math.sqrt(recompute_s / max(num_bytes, 1))


def _octave(weight: float) -> int:
    """Of the cost, in seconds per byte."""
    return math.frexp(weight * weight)[1] if weight else UNKNOWN


def _after(history: int) -> int:
    """One use later."""
    return min(history + 1, NUM_HISTORIES - 1)
