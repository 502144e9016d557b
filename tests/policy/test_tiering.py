"""The tier policy, by named examples."""

from __future__ import annotations

from tokenworks.policy.tiering import MIN_GHOSTS, NUM_HISTORIES, SAME_USE_S, TierPolicy

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


def test_void_entries_of_a_hot_leaf_do_not_pile_up() -> None:
    policy = TierPolicy(10)
    chain(policy, A, B)
    for turn in range(10_000):
        policy.used(B, 2.0 * turn)
    assert sum(len(leaves.heap) for leaves in policy._leaves._classes.values()) < 500
    assert policy.victims(1, nothing_pinned) == [B]
