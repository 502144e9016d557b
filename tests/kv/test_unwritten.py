"""What the store does not write to its lower tiers, why, and what it still remembers of them."""

from __future__ import annotations

import random

from tests.kv.chain import ChainBlock, chain
from tests.kv.rig import Rig
from tokenworks.contract.kv import Tier
from tokenworks.kv.lower import NO_LIMIT, OUTVALUED, SLOW, UNLIKELY, LowerTier
from tokenworks.kv.protocol import Find, Touch
from tokenworks.kv.tasks import Lookup, Write
from tokenworks.kv.writes import Entry, WriteQueue
from tokenworks.policy.tiering import TierPolicy
from tokenworks.policy.write_worth import HORIZON_S, is_sampled

A = b"a"
DEAR_S, RECOMPUTE_S = 0.02, 0.1
CHAINS, LENGTH = 80, 4


def without_reuse(rig: Rig, seeds: range) -> list[ChainBlock]:
    """Put chains that share nothing; a write takes a fifth of what computing a block does."""
    heads = []
    for seed in seeds:
        blocks = chain(LENGTH, seed=seed)
        rig.put(A, blocks, RECOMPUTE_S)
        while rig.tasks(Write):
            rig.end(rig.task(Write), cpu_s=DEAR_S)
        heads.append(blocks[0])
    return heads


def learnt() -> Rig:
    """A store with a disk that has seen traffic without reuse for some time."""
    rig = Rig(2000, Tier.DISK, disk_blocks=2000, make_policy=TierPolicy)
    rig.attach(A)
    without_reuse(rig, range(CHAINS))
    assert rig.status(Tier.DISK).blocks == CHAINS * LENGTH  # nothing is known yet, so all is written
    rig.wait(HORIZON_S)
    rig.attach(A)
    return rig


def test_traffic_without_reuse_is_written_in_a_sample_of_whole_chains() -> None:
    rig = learnt()
    heads = without_reuse(rig, range(1000, 1000 + CHAINS))
    sampled = [head for head in heads if is_sampled(head.name)]
    assert 0 < len(sampled) < CHAINS / 4
    assert rig.status(Tier.DISK).blocks == (CHAINS + len(sampled)) * LENGTH
    assert rig.status(Tier.DISK).unwritten == {UNLIKELY: (CHAINS - len(sampled)) * LENGTH}
    assert rig.status(Tier.HOST).blocks == 2 * CHAINS * LENGTH  # memory holds what runs, whatever the disk does


def test_a_conversation_that_comes_back_is_written() -> None:
    rig = learnt()
    seed = next(seed for seed in range(5000, 6000) if not is_sampled(chain(1, seed=seed)[0].name))
    without_reuse(rig, range(seed, seed + 1))
    blocks = chain(LENGTH, seed=seed)
    assert rig.stock.lowers[Tier.DISK].holds(blocks[0].name) is False
    rig.wait(20.0)
    rig.tell(A, Touch([block.name for block in blocks]))
    while rig.tasks(Write):
        rig.end(rig.task(Write), cpu_s=DEAR_S)
    assert all(rig.stock.lowers[Tier.DISK].holds(block.name) for block in blocks)


def test_a_block_less_valuable_than_all_of_a_full_disk_is_counted() -> None:
    rig = Rig(8, Tier.DISK, disk_blocks=2, make_policy=TierPolicy)
    rig.attach(A)
    rig.put(A, chain(3, seed=1), RECOMPUTE_S)
    while rig.tasks(Write):
        rig.end(rig.task(Write))
    rig.put(A, chain(1, seed=2), RECOMPUTE_S / 100)
    assert rig.status(Tier.DISK).unwritten == {OUTVALUED: 1}


def test_nothing_is_sent_to_a_remote_tier_that_is_slower_than_computing() -> None:
    rig = Rig(20, Tier.REMOTE)
    rig.attach(A)
    rig.measure(Tier.REMOTE, bytes_per_s=1e4)
    rig.put(A, chain(12), RECOMPUTE_S)
    assert rig.tasks(Write) == []
    assert rig.status(Tier.REMOTE).unwritten == {SLOW: 12}


def test_a_remote_tier_that_is_slower_than_computing_is_not_asked_what_it_holds() -> None:
    rig = Rig(4, Tier.REMOTE)
    rig.attach(A)
    rig.measure(Tier.REMOTE, bytes_per_s=1e6)  # 8 ms a block
    names = [block.name for block in chain(2)]
    rig.tell(A, Find("r", names, recompute_s=0.005))
    assert rig.found(A) == []
    assert rig.tasks(Lookup) == []
    rig.tell(A, Find("s", names, recompute_s=0.02))
    assert rig.task(Lookup).names == tuple(names)


def test_of_a_tier_that_bounds_itself_only_the_latest_names_are_remembered() -> None:
    lower = LowerTier(Tier.REMOTE, TierPolicy(NO_LIMIT), NO_LIMIT, max_names=3)
    names = [block.name for block in chain(5)]
    for name in names[:3]:
        lower.found(name, 10, 0.0)
    lower.used(names[0], 5.0)
    lower.reads.want(names[1])
    lower.found(names[3], 10, 6.0)
    lower.found(names[4], 10, 7.0)
    assert [name in lower for name in names] == [True, True, False, True, True]  # the second waits to be read
    lower.reads.cancel(names[1])
    lower.found(names[2], 10, 8.0)
    lower.found(b"one more", 10, 9.0)
    assert len(lower) <= 4
    assert lower.status().used_bytes == 10 * len(lower)


def test_a_tier_that_takes_nothing_for_days_costs_no_memory() -> None:
    """Blocks come, wait to be written, and leave host memory again, while the disk is full."""
    queue, dice = WriteQueue(), random.Random(0)
    waiting: list[bytes] = []
    for number in range(20_000):
        waiting.append(number.to_bytes(16, "big"))
        queue.want(waiting[-1], Entry(100, b"", dice.random()), 0.0)
        if len(waiting) > 50:
            assert queue.forget(waiting.pop(dice.randrange(50)))
    assert len(queue) == 50
    assert len(queue._by_value) < 200
    left = set()
    while (wish := queue.next()) is not None:
        left.add(wish[0])
    assert left == set(waiting)
