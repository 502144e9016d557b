"""Which blocks repay a write to a tier: by what is thought of their history, and by where their chain stands."""

from __future__ import annotations

import pytest

from tokenworks.policy.tiering import TierPolicy
from tokenworks.policy.write_worth import HORIZON_S, SAMPLED

ROOT = b"root"
CHEAP_S, DEAR_S = 0.0001, 0.02
SAMPLE, OTHER, LATER = bytes([SAMPLED]) + b"a", bytes([1]) + b"b", bytes([2]) + b"c"


@pytest.fixture
def policy() -> TierPolicy:
    """It has seen 2,000 blocks that nobody has used again, at 0.1 s each; the time for that is over."""
    policy = TierPolicy(1 << 20)
    for number in range(2000):
        policy.add(b"once" + number.to_bytes(2, "little"), b"gone" + number.to_bytes(2, "little"), 1, 0.1, 0.0)
    policy.add(b"last", b"gone", 1, 0.1, HORIZON_S)
    return policy


def repays(
    policy: TierPolicy, name: bytes, parent: bytes = ROOT, write_s: float = DEAR_S, has_parent: bool = False
) -> bool:
    return policy.repays(name, parent, 0.1, write_s, has_parent, HORIZON_S + 1)


def take(policy: TierPolicy, name: bytes, parent: bytes = ROOT) -> None:
    policy.add(name, parent, 1, 0.1, HORIZON_S + 1)


def test_at_first_every_write_repays() -> None:
    assert repays(TierPolicy(100), OTHER)


def test_what_costs_less_than_it_will_save_is_written_whoever_it_is(policy: TierPolicy) -> None:
    assert repays(policy, OTHER, write_s=CHEAP_S)


def test_a_new_chain_is_written_if_it_is_one_of_the_sample(policy: TierPolicy) -> None:
    assert repays(policy, SAMPLE)
    assert not repays(policy, OTHER)


def test_a_chain_that_is_written_is_written_to_its_end(policy: TierPolicy) -> None:
    assert repays(policy, OTHER, parent=SAMPLE, has_parent=True)  # which waits to be written
    take(policy, SAMPLE)
    assert repays(policy, OTHER, parent=SAMPLE, has_parent=True)


def test_a_branch_of_what_is_held_is_a_chain_of_its_own(policy: TierPolicy) -> None:
    take(policy, ROOT, b"nothing")
    take(policy, LATER, ROOT)
    assert not repays(policy, OTHER, parent=ROOT, has_parent=True)
    assert repays(policy, SAMPLE, parent=ROOT, has_parent=True)


def test_what_follows_a_refused_block_is_not_written(policy: TierPolicy) -> None:
    policy.refuse(OTHER, ROOT, 1, 0.1, HORIZON_S + 1)
    assert not repays(policy, SAMPLE, parent=OTHER)
    assert not policy.wants(SAMPLE, OTHER, 1, 0.1, HORIZON_S + 1)


def test_a_refused_block_that_is_used_again_is_written_the_next_time(policy: TierPolicy) -> None:
    policy.refuse(OTHER, ROOT, 1, 0.1, HORIZON_S + 1)
    policy.used(OTHER, HORIZON_S + 60)
    assert policy.repays(OTHER, ROOT, 0.1, DEAR_S, False, HORIZON_S + 60)
    assert policy.wants(OTHER, ROOT, 1, 0.1, HORIZON_S + 60)


def test_reuse_of_refused_blocks_brings_full_writing_back(policy: TierPolicy) -> None:
    names = [bytes([1]) + number.to_bytes(2, "little") for number in range(1000)]
    for name in names:
        policy.refuse(name, b"before" + name, 1, 0.1, HORIZON_S + 1)
    assert not repays(policy, OTHER)
    for name in names:
        policy.used(name, HORIZON_S + 60)
    assert repays(policy, OTHER)


def test_names_found_at_a_start_say_nothing_of_how_often_blocks_are_used() -> None:
    policy = TierPolicy(1 << 20)
    for number in range(2000):
        policy.add(b"old" + number.to_bytes(2, "little"), b"", 1, 0.0, 0.0)
    assert repays(policy, OTHER)


def test_a_chain_that_comes_back_is_wanted_whole_before_its_first_block_is_there(policy: TierPolicy) -> None:
    for name, parent in ((OTHER, ROOT), (LATER, OTHER)):
        policy.refuse(name, parent, 1, 0.1, HORIZON_S + 1)
    assert policy.wants(OTHER, ROOT, 1, 0.1, HORIZON_S + 60)
    assert policy.wants(LATER, OTHER, 1, 0.1, HORIZON_S + 60)
