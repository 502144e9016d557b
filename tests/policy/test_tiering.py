"""The tier policy: named examples, and random use against a version that looks at every block each time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tokenworks.policy.reuse import Kind, ReuseModel
from tokenworks.policy.tiering import MIN_GHOSTS, NUM_HISTORIES, SAME_USE_S, UNKNOWN, USUAL_BLOCKS, TierPolicy

ROOT = b"root"
A, B, C, D, E = b"a", b"b", b"c", b"d", b"e"


def nothing_pinned(name: bytes) -> bool:
    return False


def chain(
    policy: TierPolicy, *names: bytes, now_s: float = 0.0, parent: bytes = ROOT, recompute_s: float = 1.0
) -> None:
    """Put blocks of one byte, each after the one before it."""
    for name in names:
        policy.add(name, parent, 1, recompute_s, now_s)
        parent = name


def test_an_empty_tier_takes_what_fits() -> None:
    policy = TierPolicy(10)
    assert policy.used_bytes == 0
    assert policy.wants(A, ROOT, 10, 1.0, 0.0)
    assert not policy.wants(B, ROOT, 11, 1.0, 0.0)
    assert policy.victims(5, nothing_pinned) == []


def test_what_is_held_is_counted_once_and_not_wanted_again() -> None:
    policy = TierPolicy(10)
    chain(policy, A, B)
    policy.add(A, ROOT, 1, 1.0, 5.0)
    assert policy.used_bytes == 2
    assert not policy.wants(A, ROOT, 1, 1.0, 6.0)
    policy.remove(B)
    policy.remove(B)
    assert policy.used_bytes == 1


def test_the_tail_goes_before_what_it_stands_on() -> None:
    policy = TierPolicy(10)
    chain(policy, A, B, C)
    assert policy.victims(1, nothing_pinned) == [C]
    assert policy.victims(2, nothing_pinned) == [C, B]
    assert policy.victims(0, nothing_pinned) == []
    assert policy.victims(100, nothing_pinned) == [C, B, A]
    assert policy.used_bytes == 3


def test_the_least_recently_used_of_equals_goes_first() -> None:
    policy = TierPolicy(10)
    for at, name in enumerate((A, B, C)):
        chain(policy, name, now_s=float(at))
    for name in (A, C, B):
        policy.used(name, 100.0 + 10 * len(name))
    policy.used(A, 500.0)
    assert policy.victims(3, nothing_pinned)[-1] == A


def test_what_is_dear_to_compute_stays_longer() -> None:
    policy = TierPolicy(10)
    chain(policy, A, recompute_s=8.0)
    chain(policy, B, now_s=1.0)
    assert policy.victims(1, nothing_pinned) == [B]


def test_costs_within_an_octave_are_the_same_to_the_policy() -> None:
    policy = TierPolicy(10)
    chain(policy, A, recompute_s=1.9)
    chain(policy, B, now_s=0.1, recompute_s=1.1)
    assert policy.victims(1, nothing_pinned) == [A]


def test_an_unknown_cost_is_thought_to_be_the_usual_one() -> None:
    policy = TierPolicy(10)
    chain(policy, A, recompute_s=0.0)
    chain(policy, B, C, D, recompute_s=0.01)
    assert policy.victims(1, nothing_pinned) == [A]
    chain(policy, E, now_s=1.0, recompute_s=100.0)
    assert policy.victims(1, nothing_pinned) == [D]


def test_a_pinned_block_keeps_what_it_stands_on() -> None:
    policy = TierPolicy(10)
    chain(policy, A, B, C)
    chain(policy, D, now_s=1.0)
    assert policy.victims(9, lambda name: name == C) == [D]
    assert policy.victims(9, lambda name: name in (B, D)) == [C]
    assert policy.victims(9, nothing_pinned) == [C, B, A, D]


def test_a_block_whose_parent_was_dropped_is_not_taken_in() -> None:
    policy = TierPolicy(10)
    chain(policy, A)
    policy.remove(A)
    assert not policy.wants(B, A, 1, 1.0, 0.0)
    chain(policy, A)
    assert policy.wants(B, A, 1, 1.0, 0.0)


def test_a_block_that_follows_a_refused_one_is_refused() -> None:
    policy = TierPolicy(10)
    assert not policy.wants(A, ROOT, 11, 1.0, 0.0)
    assert not policy.wants(B, A, 1, 1.0, 0.0)


def test_a_block_whose_parent_was_only_heard_of_is_taken_in() -> None:
    policy = TierPolicy(10)
    policy.used(A, 0.0)
    assert policy.wants(B, A, 1, 1.0, 0.0)


def test_a_parent_may_come_after_its_child() -> None:
    policy = TierPolicy(10)
    policy.add(B, A, 1, 1.0, 0.0)
    policy.add(A, ROOT, 1, 1.0, 1.0)
    assert policy.victims(2, nothing_pinned) == [B, A]


def test_a_full_tier_refuses_what_is_worth_less_than_all_it_has() -> None:
    policy = TierPolicy(2)
    chain(policy, A, recompute_s=10.0)
    chain(policy, B, recompute_s=10.0)
    assert not policy.wants(C, ROOT, 1, 1.0, 0.0)
    assert policy.wants(D, ROOT, 1, 20.0, 0.0)


def test_a_block_is_not_taken_in_at_its_parents_expense() -> None:
    policy = TierPolicy(1)
    chain(policy, A)
    assert not policy.wants(B, A, 1, 100.0, 50.0)
    assert policy.wants(C, ROOT, 1, 100.0, 50.0)


def test_a_tier_whose_blocks_were_all_refused_remembers_few_ghosts() -> None:
    policy = TierPolicy(1)
    for number in range(MIN_GHOSTS + 100):
        policy.used(number.to_bytes(4, "big"), 0.0)
    assert len(policy._ghosts) == MIN_GHOSTS
    assert (0).to_bytes(4, "big") not in policy._ghosts


def history(policy: TierPolicy, name: bytes) -> int:
    block = policy._known(name)
    assert block is not None
    return block.kind.history


def test_uses_within_a_second_are_one() -> None:
    policy = TierPolicy(10)
    chain(policy, A)
    for now_s in (10.0, 10.2, 10.9):
        policy.used(A, now_s)
    assert history(policy, A) == 1
    policy.used(A, 10.9 + SAME_USE_S)
    assert history(policy, A) == 2


def test_a_conversation_that_goes_on_has_the_history_it_had() -> None:
    policy = TierPolicy(10)
    chain(policy, A, B)
    for name in (A, B):
        policy.used(name, 60.0)
    chain(policy, C, now_s=60.0, parent=B)
    assert [history(policy, name) for name in (A, B, C)] == [1, 1, 1]
    chain(policy, D, now_s=60.0, parent=B)
    assert history(policy, D) == 0


def test_a_dropped_block_that_comes_again_comes_with_its_history() -> None:
    policy = TierPolicy(10)
    chain(policy, A)
    policy.remove(A)
    policy.used(A, 100.0)
    assert history(policy, A) == 1
    assert policy.wants(A, ROOT, 1, 1.0, 200.0)
    chain(policy, A, now_s=200.0)
    assert history(policy, A) == 2


def test_histories_end_at_used_often() -> None:
    policy = TierPolicy(10)
    chain(policy, A)
    for turn in range(20):
        policy.used(A, 10.0 * (turn + 1))
    assert history(policy, A) == NUM_HISTORIES - 1


def test_a_clock_that_goes_back_stands_still() -> None:
    policy = TierPolicy(10)
    chain(policy, A, now_s=100.0)
    policy.used(A, 50.0)
    assert policy.wants(B, ROOT, 1, 1.0, 0.0)
    chain(policy, B, now_s=0.0)
    assert policy.victims(2, nothing_pinned) == [A, B]


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


def test_void_entries_of_a_hot_leaf_do_not_pile_up() -> None:
    policy = TierPolicy(10)
    chain(policy, A, B)
    for turn in range(10_000):
        policy.used(B, 2.0 * turn)
    assert sum(len(leaves.heap) for leaves in policy._leaves.values()) < 500
    assert policy.victims(1, nothing_pinned) == [B]
