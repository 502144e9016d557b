"""The scheduler by example: who is admitted, who makes way, and what prompts share."""

from __future__ import annotations

import pytest

from tests.policy.by_hand import make_request, make_scheduler, run_out, sequences, shape, step
from tokenworks.contract.wire import Load
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.sequence import Sequence

# Admission


@pytest.mark.parametrize(("num_prompt", "is_admitted"), [(8, True), (9, False)])
def test_admission_keeps_a_block_for_each_running_sequence(num_prompt: int, is_admitted: bool) -> None:
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_request("a", 4))
    scheduler.add(make_request("b", num_prompt, max_tokens=1))  # three blocks are free, one of them is for a
    assert [name for name, _, _ in step(scheduler)] == (["a", "b"] if is_admitted else ["a"])


@pytest.mark.parametrize(("num_blocks", "is_admitted"), [(5, True), (4, False)])
def test_admission_counts_a_cached_block_as_one_to_take(num_blocks: int, is_admitted: bool) -> None:
    scheduler = make_scheduler(num_blocks=num_blocks)
    scheduler.add(make_request("a", list(range(9)), max_tokens=1))
    step(scheduler)
    scheduler.add(make_request("b", 1))
    scheduler.add(make_request("c", list(range(9)), max_tokens=1))  # two cached, one new, one spare; b has one
    assert [name for name, _, _ in step(scheduler)] == (["b", "c"] if is_admitted else ["b"])


def test_admission_does_not_count_a_shared_block_again() -> None:
    scheduler = make_scheduler(num_blocks=5)
    for name in "ab":
        scheduler.add(make_request(name, list(range(9))))  # three blocks, then one more and a spare one
    assert step(scheduler) == [("a", 0, 9), ("b", 8, 1)]


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_request("a", 4, max_tokens=2))
    scheduler.add(make_request("b", 9, max_tokens=1))
    scheduler.add(make_request("c", 1, max_tokens=1))
    assert step(scheduler) == [("a", 0, 4)]
    assert step(scheduler) == [("a", 4, 1)]
    assert step(scheduler) == [("b", 0, 9)]
    assert step(scheduler) == [("c", 0, 1)]


# Preemption


def test_the_sequence_admitted_last_is_preempted_and_goes_to_the_head() -> None:
    scheduler = make_scheduler(num_blocks=3, block_tokens=2)
    scheduler.add(make_request("a", 2, max_tokens=4))
    scheduler.add(make_request("b", 2, max_tokens=4))
    scheduler.add(make_request("c", 1, max_tokens=1))
    assert step(scheduler, 71) == [("a", 0, 2), ("b", 0, 2)]
    assert step(scheduler, 72) == [("a", 2, 1)]  # the third block is a's: b makes way
    assert scheduler.load(2) == Load(
        1, 2, free_blocks=1, total_blocks=3, steps=2, preemptions=1, draft_tokens=0, accepted_tokens=0
    )
    assert step(scheduler, 73) == [("a", 3, 1)]
    assert step(scheduler, 74) == [("a", 4, 1)]
    plan = scheduler.plan()
    assert shape(plan) == [("b", 0, 3)]  # before c; b's block was a's in the end: all is computed again
    assert plan is not None
    b = plan.chunks[0].sequence
    assert (b.token_ids[2:], b.num_output, b.preemptions) == ([71], 1, 1)


def test_a_preempted_sequence_finds_what_is_still_cached() -> None:
    scheduler = make_scheduler(num_blocks=3, block_tokens=2)
    scheduler.add(make_request("a", 2, max_tokens=3))
    scheduler.add(make_request("b", 2, max_tokens=4))
    assert step(scheduler) == [("a", 0, 2), ("b", 0, 2)]
    assert step(scheduler) == [("a", 2, 1)]
    assert step(scheduler) == [("a", 3, 1)]
    assert step(scheduler) == [("b", 2, 1)]


def test_as_many_are_preempted_as_make_room_and_no_more() -> None:
    scheduler = make_scheduler(num_blocks=7, block_tokens=2, max_step_tokens=16)
    for name in "abc":
        scheduler.add(make_request(name, 2, max_tokens=8))
    assert step(scheduler) == [("a", 0, 2), ("b", 0, 2), ("c", 0, 2)]
    for start in (2, 3):
        assert step(scheduler) == [("a", start, 1), ("b", start, 1), ("c", start, 1)]
    assert scheduler.pool.num_free == 1
    assert step(scheduler) == [("a", 4, 1), ("b", 4, 1)]  # a takes the last block, b one of c's two
    assert scheduler.preemptions == 1
    assert step(scheduler) == [("a", 5, 1), ("b", 5, 1)]
    assert step(scheduler) == [("a", 6, 1)]  # one block was left, and b is the last now
    assert scheduler.preemptions == 2


def test_a_sequence_may_fill_the_whole_pool() -> None:
    scheduler = make_scheduler(num_blocks=2, block_tokens=4)
    scheduler.add(make_request("a", 5, max_tokens=3))
    assert [step(scheduler) for _ in range(3)] == [[("a", 0, 5)], [("a", 5, 1)], [("a", 6, 1)]]
    assert scheduler.preemptions == 0


def test_a_preempted_sequence_keeps_its_first_cached_tokens() -> None:
    scheduler = make_scheduler(num_blocks=3, block_tokens=2)
    scheduler.add(make_request("a", 2, max_tokens=4))
    scheduler.add(make_request("b", 2, max_tokens=4))
    step(scheduler)
    step(scheduler)
    scheduler.cancel("a")
    b = sequences(scheduler)["b"]
    assert b.preemptions == 1
    assert b.num_computed == 3
    assert b.cached_tokens == 0  # though its own first block was found again


# Prefix cache


@pytest.mark.parametrize(("num_prompt", "start"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_a_prefix_hit_leaves_the_last_token_to_compute(num_prompt: int, start: int) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", list(range(9)), max_tokens=1))
    step(scheduler)
    scheduler.add(make_request("b", list(range(num_prompt))))
    assert step(scheduler) == [("b", start, num_prompt - start)]


def test_equal_prompts_that_come_together_are_computed_once() -> None:
    scheduler = make_scheduler()
    for name in "abcd":
        scheduler.add(make_request(name, list(range(9))))
    assert step(scheduler) == [("a", 0, 9), ("b", 8, 1), ("c", 8, 1), ("d", 8, 1)]
    assert scheduler.pool.num_free == 16 - (2 + 4)


def test_an_equal_prompt_waits_for_the_pieces_of_the_first() -> None:
    scheduler = make_scheduler(max_running=2, max_step_tokens=6)
    for name in "ab":
        scheduler.add(make_request(name, list(range(13))))
    assert step(scheduler) == [("a", 0, 6)]
    assert step(scheduler) == [("a", 6, 6)]
    assert step(scheduler) == [("a", 12, 1), ("b", 12, 1)]


def test_equal_last_blocks_are_computed_twice_and_found_once() -> None:
    scheduler = make_scheduler()
    for name in "ab":
        scheduler.add(make_request(name, list(range(8)), max_tokens=1))
    assert step(scheduler) == [("a", 0, 8), ("b", 4, 4)]
    assert len(scheduler.pool.held_names()) == 2
    assert scheduler.pool.num_free == 16


def test_the_output_is_cached_for_the_next_turn() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", list(range(6)), max_tokens=3))
    run_out(scheduler)  # tokens 6, 7 and 8 are sevens; the last was never computed
    scheduler.add(make_request("b", [*range(6), 7, 7, 7, 100, 101]))
    assert step(scheduler) == [("b", 8, 3)]


def test_a_sampled_token_that_was_not_computed_fills_no_block() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", list(range(6)), max_tokens=2))
    run_out(scheduler)  # eight tokens, seven computed
    assert len(scheduler.pool.held_names()) == 1
    scheduler.add(make_request("b", [*range(6), 7, 7, 100]))
    assert step(scheduler) == [("b", 4, 5)]


def test_another_salt_shares_nothing() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", list(range(9)), salt="one tenant"))
    scheduler.add(make_request("b", list(range(9)), salt="another"))
    assert step(scheduler) == [("a", 0, 9), ("b", 0, 9)]
    assert len(scheduler.pool.held_names()) == 4


def test_another_model_shares_nothing() -> None:
    pool, limits = BlockPool(16), Limits(4, 64, 64, 4)
    for fingerprint in ("one model", "another"):
        scheduler = Scheduler(limits, pool, fingerprint)
        scheduler.add(make_request("a", list(range(9)), max_tokens=1))
        assert step(scheduler) == [("a", 0, 9)]


def test_cached_tokens_are_the_prompt_tokens_that_were_not_computed() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", list(range(9))))
    scheduler.add(make_request("b", [*range(8), 50, 51]))  # found in the step that computes it
    scheduler.add(make_request("c", [*range(4), 60]))
    assert {name: one.cached_tokens for name, one in sequences(scheduler).items()} == {"a": 0, "b": 8, "c": 4}


def test_cached_tokens_are_unknown_before_admission() -> None:
    assert Sequence(make_request("a", 5), 4, "fingerprint").cached_tokens is None
