"""What a tier keeps, against the same rules carried out by looking at everything."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tokenworks.policy.reuse import Kind, ReuseModel
from tokenworks.policy.tiering import NUM_HISTORIES, SAME_USE_S, UNKNOWN, USUAL_BLOCKS, TierPolicy

ROOT = b"root"


def nothing_pinned(name: bytes) -> bool:
    return False


@dataclass
class SlowBlock:
    parent: bytes
    history: int
    last_s: float
    num_bytes: int = 0
    recompute_s: float = 0.0
    order: int = 0
    has_grown: bool = False
    is_lost: bool = False

    @property
    def weight(self) -> float:
        return math.sqrt(self.recompute_s / max(self.num_bytes, 1))

    @property
    def kind(self) -> Kind:
        return Kind(self.history, math.frexp(self.weight**2)[1] if self.weight else UNKNOWN)


class SlowTier:
    """The same rules, by looking at everything."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held: dict[bytes, SlowBlock] = {}
        self.ghosts: dict[bytes, SlowBlock] = {}
        self.reuse = ReuseModel()
        self.now_s = 0.0
        self.orders = 0
        self.usual = 0.0

    def used_bytes(self) -> int:
        return sum(block.num_bytes for block in self.held.values())

    def value(self, block: SlowBlock) -> float:
        return (block.weight or self.usual or 1.0) * self.reuse.rate(block.kind, self.now_s - block.last_s)

    def leaves(self, gone: list[bytes]) -> list[bytes]:
        parents = {block.parent for name, block in self.held.items() if name not in gone}
        return [name for name in self.held if name not in parents and name not in gone]

    def least(self, gone: list[bytes], is_pinned: Callable[[bytes], bool]) -> bytes | None:
        def rank(name: bytes) -> tuple[float, float, int]:
            block = self.held[name]
            return self.value(block), block.last_s, block.order

        return min((name for name in self.leaves(gone) if not is_pinned(name)), key=rank, default=None)

    def victims(self, num_bytes: int, is_pinned: Callable[[bytes], bool]) -> list[bytes]:
        gone: list[bytes] = []
        while sum(self.held[name].num_bytes for name in gone) < num_bytes:
            name = self.least(gone, is_pinned)
            if name is None:
                break
            gone.append(name)
        return gone

    def known(self, name: bytes) -> SlowBlock | None:
        return self.held.get(name) or self.ghosts.get(name)

    def use(self, block: SlowBlock, num_bytes: int, recompute_s: float) -> None:
        age_s, block.last_s = self.now_s - block.last_s, self.now_s
        before, block.num_bytes, block.recompute_s = block.kind, num_bytes, recompute_s
        if age_s >= SAME_USE_S:
            self.reuse.used(before, age_s)
            block.history = min(block.history + 1, NUM_HISTORIES - 1)
            self.reuse.entered(block.kind)

    def used(self, name: bytes, now_s: float) -> None:
        self.now_s = max(self.now_s, now_s)
        block = self.known(name)
        if block is None:
            self.ghosts[name] = self.come(name, b"", 0, 0.0)
        else:
            self.use(block, block.num_bytes, block.recompute_s)

    def come(self, name: bytes, parent: bytes, num_bytes: int, recompute_s: float) -> SlowBlock:
        before = self.known(parent)
        block = self.ghosts.pop(name, None)
        if block is None:
            inherited = before.history if before is not None and not before.has_grown else 0
            block = SlowBlock(parent, inherited, self.now_s, num_bytes, recompute_s)
            self.reuse.entered(block.kind)
        else:
            self.use(block, num_bytes, recompute_s)
        if before is not None:
            before.has_grown = True
        self.orders += 1
        block.parent, block.order = parent, self.orders
        if block.weight:
            usual = self.usual or block.weight
            self.usual = usual + (block.weight - usual) / USUAL_BLOCKS
        return block

    def wants(self, name: bytes, parent: bytes, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        self.now_s = max(self.now_s, now_s)
        if name in self.held:
            return False
        if self.is_worth_it(name, parent, num_bytes, recompute_s):
            if name in self.ghosts:
                self.ghosts[name].is_lost = False
            return True
        block = self.come(name, parent, num_bytes, recompute_s)
        block.is_lost = True
        self.ghosts[name] = block
        return False

    def is_worth_it(self, name: bytes, parent: bytes, num_bytes: int, recompute_s: float) -> bool:
        before = self.known(parent)
        if num_bytes > self.limit_bytes or (parent in self.ghosts and self.ghosts[parent].is_lost):
            return False
        if self.used_bytes() + num_bytes <= self.limit_bytes:
            return True
        inherited = before.history if before is not None and not before.has_grown else 0
        ghost = self.ghosts.get(name)
        history = inherited if ghost is None else min(ghost.history + 1, NUM_HISTORIES - 1)
        least = self.least([], nothing_pinned)
        if least is None or least == parent:
            return False
        return self.value(SlowBlock(parent, history, self.now_s, num_bytes, recompute_s)) >= self.value(
            self.held[least]
        )

    def add(self, name: bytes, parent: bytes, num_bytes: int, recompute_s: float, now_s: float) -> None:
        if name in self.held:
            self.used(name, now_s)
            return
        self.now_s = max(self.now_s, now_s)
        self.held[name] = self.come(name, parent, num_bytes, recompute_s)

    def remove(self, name: bytes) -> None:
        block = self.held.pop(name, None)
        if block is not None:
            block.is_lost = True
            self.ghosts[name] = block


class RandomUse:
    """Both versions under the same store: random prompts over a random forest, hits, drops and pins."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        limit = self.random.randint(1, 60)
        self.fast, self.slow = TierPolicy(limit), SlowTier(limit)
        self.parents: dict[bytes, bytes] = {}
        for number in range(self.random.randint(2, 40)):
            parent = self.random.choice([ROOT, *self.parents])
            self.parents[number.to_bytes(2, "big")] = parent
        self.sizes = {name: self.random.choice([1, 1, 2, 5]) for name in self.parents}
        # a class is an octave of seconds per byte: here one density each, so that the order in a class is that of value
        self.costs = {name: size * self.random.choice([0.0, 0.5, 1.0, 8.0]) for name, size in self.sizes.items()}
        self.now_s = 0.0

    def step(self) -> None:
        self.now_s += self.random.choice([0.0, 0.3, 5.0, 60.0, 400.0, -1.0])
        self.random.choice([self.prompt, self.prompt, self.prompt, self.touch, self.drop, self.add_anyway])()
        self.check()

    def a_name(self) -> bytes:
        return self.random.choice(list(self.parents))

    def prompt(self) -> None:
        """A request whose last block is a random one: hits are used, the rest is offered."""
        name, path = self.a_name(), []
        while name != ROOT:
            path.append(name)
            name = self.parents[name]
        for name in reversed(path):
            if name in self.slow.held:
                self.touch(name)
            else:
                self.offer(name)

    def offer(self, name: bytes) -> None:
        block = (name, self.parents[name], self.sizes[name], self.costs[name], self.now_s)
        wanted = self.fast.wants(*block)
        assert wanted == self.slow.wants(*block)
        if wanted:
            self.make_room(self.sizes[name])
            self.fast.add(*block)
            self.slow.add(*block)

    def make_room(self, num_bytes: int) -> None:
        missing = self.fast.used_bytes + num_bytes - self.fast.limit_bytes
        for name in self.fast.victims(missing, nothing_pinned):
            self.remove(name)
        assert self.fast.used_bytes + num_bytes <= self.fast.limit_bytes

    def touch(self, name: bytes | None = None) -> None:
        name = name or self.a_name()
        self.fast.used(name, self.now_s)
        self.slow.used(name, self.now_s)

    def drop(self) -> None:
        self.remove(self.a_name())

    def remove(self, name: bytes) -> None:
        self.fast.remove(name)
        self.slow.remove(name)

    def add_anyway(self) -> None:
        name = self.a_name()
        block = (name, self.parents[name], self.sizes[name], self.costs[name], self.now_s)
        self.fast.add(*block)
        self.slow.add(*block)

    def check(self) -> None:
        assert self.fast.used_bytes == self.slow.used_bytes()
        pinned = set(self.random.sample(list(self.parents), self.random.randint(0, min(3, len(self.parents)))))
        num_bytes = self.random.choice([0, 1, 3, 1000])
        chosen = self.fast.victims(num_bytes, pinned.__contains__)
        assert chosen == self.slow.victims(num_bytes, pinned.__contains__)
        assert not pinned & set(chosen)
        for at, name in enumerate(chosen):
            assert all(self.slow.held[later].parent != name for later in chosen[at + 1 :])


@pytest.mark.parametrize("seed", range(40))
def test_random_use_agrees_with_looking_at_everything(seed: int) -> None:
    use = RandomUse(seed)
    for _ in range(200):
        use.step()
    for name in use.parents:
        use.remove(name)
        use.check()
    assert use.fast.used_bytes == 0
    assert use.fast.victims(1, nothing_pinned) == []
