"""What `benchmarks.kv_policy` compares: the store's own policy, LRU block by block, greedy by size, and the optimum."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import Protocol

from benchmarks.kv.prompts import BLOCK_TOKENS, Block, Prompt
from tokenworks.policy.tiering import TierPolicy


class Tier(Protocol):
    """What is compared."""

    def serve(self, prompt: Prompt) -> int:
        """How many of its leading blocks are held; afterwards it has been seen."""


def _leading(blocks: Sequence[Block], held: object) -> int:
    """How many of the first blocks are held without a gap."""
    return next((at for at, block in enumerate(blocks) if block.name not in held), len(blocks))  # type: ignore[operator]


class Policy:
    """The policy of the store."""

    def __init__(self, limit_tokens: int) -> None:
        self.policy = TierPolicy(limit_tokens)
        self.held: set[bytes] = set()

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block in prompt.blocks[:hits]:
            self.policy.used(block.name, prompt.arrival_s)
        for block in prompt.blocks[hits:]:
            self._put(block, prompt.arrival_s)
        return hits

    def _put(self, block: Block, now_s: float) -> None:
        if block.name in self.held:
            self.policy.used(block.name, now_s)
        elif self.policy.wants(block.name, block.parent, BLOCK_TOKENS, block.recompute_s, now_s):
            missing = self.policy.used_bytes + BLOCK_TOKENS - self.policy.limit_bytes
            for name in self.policy.victims(missing, lambda name: False):
                self.policy.remove(name)
                self.held.remove(name)
            self.policy.add(block.name, block.parent, BLOCK_TOKENS, block.recompute_s, now_s)
            self.held.add(block.name)


class Recent:
    """Least recently used, block by block."""

    def __init__(self, limit_tokens: int, *, is_tail_first: bool) -> None:
        self.limit = limit_tokens // BLOCK_TOKENS
        self.step = -1 if is_tail_first else 1
        self.held: OrderedDict[bytes, None] = OrderedDict()

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block in prompt.blocks[:: self.step]:
            self.held[block.name] = None
            self.held.move_to_end(block.name)
        while len(self.held) > self.limit:
            self.held.popitem(last=False)
        return hits


class Greedy:
    """GreedyDual-Size-Frequency (Cherkasova 1998) over leaves: clock + uses x seconds / bytes."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit = limit_tokens // BLOCK_TOKENS
        self.clock = 0.0
        self.held: dict[bytes, tuple[float, int, Block]] = {}  # priority, uses
        self.children: dict[bytes, int] = {}
        self.leaves: list[tuple[float, int, bytes]] = []  # void where the priority is not the block's

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block in prompt.blocks:
            if block.name not in self.held:
                self.children[block.parent] = self.children.get(block.parent, 0) + 1
            uses = self.held[block.name][1] + 1 if block.name in self.held else 1
            self.held[block.name] = (self.clock + uses * block.recompute_s, uses, block)
            self._push(block.name)
        while len(self.held) > self.limit:
            self._drop()
        return hits

    def _push(self, name: bytes) -> None:
        if name in self.held and not self.children.get(name):
            priority, _, block = self.held[name]
            heappush(self.leaves, (priority, -block.depth, name))

    def _drop(self) -> None:
        priority, _, name = heappop(self.leaves)
        if name in self.held and self.held[name][0] == priority and not self.children.get(name):
            block = self.held.pop(name)[2]
            self.clock = max(self.clock, priority)
            self.children[block.parent] -= 1
            self._push(block.parent)


class Optimum:
    """Drops what is used again last; of those that never are, the deepest first."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit = limit_tokens // BLOCK_TOKENS
        self.held: dict[bytes, int] = {}  # next use
        self.order: list[tuple[int, int, bytes]] = []

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block, next_use in zip(prompt.blocks, prompt.next_uses, strict=True):
            self.held[block.name] = next_use
            heappush(self.order, (-next_use, -block.depth, block.name))
        while len(self.held) > self.limit:
            next_use, _, name = heappop(self.order)
            if self.held.get(name) == -next_use:
                del self.held[name]
        return hits


def tiers(limit_tokens: int) -> Iterator[tuple[str, Tier]]:
    """What is compared, by name."""
    yield "policy", Policy(limit_tokens)
    yield "by size", Greedy(limit_tokens)
    yield "plain LRU", Recent(limit_tokens, is_tail_first=False)
    yield "ideal LRU", Recent(limit_tokens, is_tail_first=True)
    yield "optimum", Optimum(limit_tokens)
