"""The block pool: named examples, and thousands of random operations against lists that are scanned from end to end."""

from __future__ import annotations

import random

import pytest

from tokenworks.policy.block_pool import DROPPED_POOLS, BlockPool

A, B, C, D = b"a", b"b", b"c", b"d"


def cached_pool(*names: bytes, num_blocks: int | None = None) -> BlockPool:
    """A pool in which one sequence computed and released blocks 0, 1, ... of these names."""
    pool = BlockPool(num_blocks or len(names))
    blocks = pool.allocate(len(names))
    for block, name in zip(blocks, names, strict=True):
        pool.give_name(block, name)
    pool.release(blocks)
    pool.take_changes()
    return pool


def test_a_pool_needs_a_block() -> None:
    with pytest.raises(ValueError, match="at least one block, not 0"):
        BlockPool(0)


def test_a_new_pool_is_empty() -> None:
    pool = BlockPool(3)
    assert pool.num_free == 3
    assert pool.held_names() == []
    assert pool.match([A]) == []
    assert pool.take_changes() == ([], [])


def test_allocation_takes_distinct_blocks_and_release_gives_them_back() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(2), pool.allocate(1)
    assert sorted(first + second) == [0, 1, 2]
    assert pool.num_free == 0
    pool.release(first)
    assert pool.num_free == 2
    assert sorted(pool.allocate(2)) == sorted(first)


def test_what_gave_way_and_is_asked_for_again_is_counted_once() -> None:
    pool = cached_pool(A, B, num_blocks=4)
    pool.allocate(2)  # the empty ones
    pool.forget(0)
    pool.allocate(2)
    assert pool.match([A]) == pool.match([C]) == []  # forgotten; never there
    assert pool.evictions == 0
    assert pool.match([B, C]) == pool.match([B]) == []
    assert pool.evictions == 1


def test_what_gave_way_long_ago_is_not_remembered() -> None:
    pool = BlockPool(1)
    names = [bytes([number]) for number in range(DROPPED_POOLS + 1)]
    for name in names:
        [block] = pool.allocate(1)
        pool.give_name(block, name)
        pool.release([block])
    pool.allocate(1)
    assert pool.match(names[:1]) == []
    assert pool.evictions == 0
    assert pool.match(names[1:]) == []
    assert pool.evictions == 1


def test_allocating_nothing_changes_nothing() -> None:
    pool = cached_pool(A)
    assert pool.allocate(0) == []
    assert pool.match([A]) == [0]


def test_more_blocks_than_are_free_are_never_handed_out() -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    with pytest.raises(AssertionError, match="2 blocks wanted, 1 free"):
        pool.allocate(2)


def test_a_match_is_the_longest_held_prefix_and_takes_no_reference() -> None:
    pool = cached_pool(A, B, C, num_blocks=4)
    assert pool.match([A, B, D, C]) == [0, 1]
    assert pool.match([D, A, B]) == []
    assert pool.match([]) == []
    assert pool.num_free == 4


def test_a_shared_block_is_free_when_its_last_holder_lets_go() -> None:
    pool = cached_pool(A, num_blocks=2)
    pool.acquire([0])
    pool.acquire([0])
    assert pool.num_free == 1
    assert pool.num_free_among([0, 1]) == 1
    pool.release([0])
    assert pool.num_free == 1
    pool.release([0])
    assert pool.num_free_among([0, 1]) == 2


def test_a_block_released_twice_is_our_bug() -> None:
    pool = BlockPool(1)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="block 0 released more often than acquired"):
        pool.release(blocks)


def test_an_empty_block_is_reused_before_a_cached_one() -> None:
    pool = cached_pool(A, B, num_blocks=3)
    unnamed = pool.allocate(1)
    pool.release(unnamed)  # the latest release of all, yet worth nothing
    assert pool.allocate(1) == unnamed
    assert pool.match([A, B]) == [0, 1]


def test_the_tail_of_a_sequence_is_evicted_first() -> None:
    pool = cached_pool(A, B, C)
    assert pool.allocate(1) == [2]
    assert pool.match([A, B, C]) == [0, 1]
    assert pool.allocate(2) == [1, 0]


def test_the_sequence_released_first_is_evicted_first() -> None:
    pool = cached_pool(A, B, C, D)
    pool.acquire([2])
    pool.acquire([0])
    pool.release([0])
    pool.release([2])  # 3 and 1 were not used since the start; then 0, then 2
    assert pool.allocate(4) == [3, 1, 0, 2]


def test_a_block_that_is_allocated_forgets_what_it_cached() -> None:
    pool = cached_pool(A, B)
    pool.allocate(1)
    assert pool.held_names() == [A]
    assert pool.match([A, B]) == [0]
    assert pool.take_changes() == ([], [B])


def test_of_two_blocks_with_one_content_the_first_is_found() -> None:
    pool = BlockPool(2)
    pool.allocate(2)
    pool.give_name(0, A)
    pool.give_name(1, A)
    assert pool.match([A]) == [0]
    pool.forget(1)  # it never had a name
    assert pool.match([A]) == [0]
    assert pool.take_changes() == ([A], [])


def test_a_named_block_keeps_its_name() -> None:
    pool = BlockPool(1)
    pool.allocate(1)
    pool.give_name(0, A)
    pool.give_name(0, B)
    assert pool.held_names() == [A]
    assert pool.match([B]) == []


def test_a_forgotten_block_is_found_no_more_and_its_name_is_free() -> None:
    pool = BlockPool(2)
    pool.allocate(2)
    pool.give_name(0, A)
    pool.forget(0)
    pool.forget(0)
    assert pool.held_names() == []
    pool.give_name(1, A)
    assert pool.match([A]) == [1]


def test_changes_tell_what_is_so_now() -> None:
    pool = cached_pool(A, B)
    pool.forget(0)
    pool.allocate(2)
    pool.give_name(0, A)  # went and came back
    pool.give_name(1, C)
    pool.forget(1)  # came and went
    assert pool.take_changes() == ([A], [B, C])
    assert pool.take_changes() == ([], [])


class SlowPool:
    """The rules of the block pool in lists that are scanned from end to end.

    It chooses no blocks: it says whether the choice of the real pool was a right one, for which of several empty blocks
    is taken does not matter.
    """

    def __init__(self, num_blocks: int) -> None:
        self.references = [0] * num_blocks
        self.names: list[bytes | None] = [None] * num_blocks
        self.cached: list[int] = []  # free and named, least recently used first

    def free(self) -> list[int]:
        return [block for block, references in enumerate(self.references) if references == 0]

    def held(self) -> list[bytes]:
        return [name for name in self.names if name is not None]

    def match(self, names: list[bytes]) -> list[int]:
        held = [name in self.names for name in names]
        return [self.names.index(name) for index, name in enumerate(names) if all(held[: index + 1])]

    def acquire(self, blocks: list[int]) -> None:
        for block in blocks:
            self.references[block] += 1
        self.cached = [block for block in self.cached if block not in blocks]

    def allocated(self, blocks: list[int], count: int) -> None:
        assert len(set(blocks)) == len(blocks) == count
        num_empty = len(self.free()) - len(self.cached)
        empty, evicted = blocks[:num_empty], blocks[num_empty:]
        assert all(block in self.free() and block not in self.cached for block in empty)
        assert evicted == self.cached[: len(evicted)]
        self.acquire(blocks)
        for block in blocks:
            self.names[block] = None

    def release(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block] == 0 and self.names[block] is not None:
                self.cached.append(block)

    def give_name(self, block: int, name: bytes) -> None:
        if self.names[block] is None and name not in self.names:
            self.names[block] = name


class RandomUse:
    """A fast and a slow pool that are used in the same way, as holders of block tables would."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.num_blocks = self.random.randint(1, 12)
        self.fast, self.slow = BlockPool(self.num_blocks), SlowPool(self.num_blocks)
        self.tables: list[list[int]] = []
        self.names = [bytes([number]) for number in range(self.random.randint(1, 2 * self.num_blocks))]
        self.told: set[bytes] = set()

    def start(self) -> None:
        names = self.random.sample(self.names, self.random.randint(0, len(self.names)))
        matched = self.fast.match(names)
        assert matched == self.slow.match(names)
        self.fast.acquire(matched)
        self.slow.acquire(matched)
        count = self.random.randint(0, min(4, self.fast.num_free))
        blocks = self.fast.allocate(count)
        self.slow.allocated(blocks, count)
        self.tables.append(matched + blocks)

    def release(self) -> None:
        if self.tables:
            table = self.tables.pop(self.random.randrange(len(self.tables)))
            self.fast.release(table)
            self.slow.release(table)

    def give_name(self) -> None:
        for block in self.a_table():
            name = self.random.choice(self.names)
            self.fast.give_name(block, name)
            self.slow.give_name(block, name)

    def forget(self) -> None:
        for block in self.a_table()[:1]:
            self.fast.forget(block)
            self.slow.names[block] = None

    def tell(self) -> None:
        added, removed = self.fast.take_changes()
        assert not set(added) & set(removed)
        self.told = self.told - set(removed) | set(added)
        assert self.told == set(self.slow.held())

    def a_table(self) -> list[int]:
        return self.random.choice(self.tables) if self.tables else []

    def check(self) -> None:
        fast, slow = self.fast, self.slow
        assert fast.num_free == len(slow.free())
        assert [block for block in range(self.num_blocks) if fast.num_free_among([block])] == slow.free()
        some = self.random.sample(range(self.num_blocks), self.random.randint(0, self.num_blocks))
        assert fast.num_free_among(some) == len(set(some) & set(slow.free()))
        assert sorted(fast.held_names()) == sorted(slow.held())
        assert [fast.match([name]) for name in self.names] == [slow.match([name]) for name in self.names]


@pytest.mark.parametrize("seed", range(40))
def test_random_use_agrees_with_scanned_lists(seed: int) -> None:
    use = RandomUse(seed)
    operations = [use.start, use.release, use.give_name, use.give_name, use.forget, use.tell]
    for _ in range(300):
        use.random.choice(operations)()
        use.check()
    while use.tables:
        use.release()
        use.check()
    use.tell()
    assert use.fast.num_free == use.num_blocks
