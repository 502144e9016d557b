"""The scheduler by example: what is refused, what a step holds, and how sequences end."""

from __future__ import annotations

import pytest

from tests.policy.by_hand import make_request, make_scheduler, outcomes, run_out, shape, step
from tokenworks.contract.errors import ContextLengthExceeded, InvalidRequest
from tokenworks.contract.wire import EndReason, Load
from tokenworks.policy.sequence import Sequence

# What is refused


def test_every_running_sequence_must_find_room_in_a_step() -> None:
    with pytest.raises(ValueError, match="max_running may not exceed max_step_tokens"):
        make_scheduler(max_running=5, max_step_tokens=4)
    make_scheduler(max_running=4, max_step_tokens=4)


@pytest.mark.parametrize("name", ["max_running", "max_step_tokens", "max_context_tokens", "block_tokens"])
def test_limits_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_scheduler(**{name: 0})


def test_no_output_wanted_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="max_tokens must be at least 1"):
        make_scheduler().add(make_request("a", 3, max_tokens=0))


def test_a_result_with_too_few_tokens_changes_nothing() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3))
    scheduler.add(make_request("b", 3))
    plan = scheduler.plan()
    assert plan is not None
    with pytest.raises(ValueError, match="zip"):
        scheduler.apply(plan, [[7]])
    assert [chunk.sequence.num_output for chunk in plan.sampled] == [0, 0]


def test_an_id_in_use_is_refused_and_one_that_ended_is_not() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, max_tokens=1))
    with pytest.raises(InvalidRequest, match="request id a is already in use"):
        scheduler.add(make_request("a", 5))
    assert step(scheduler) == [("a", 0, 3)]
    scheduler.add(make_request("a", 5))
    assert step(scheduler) == [("a", 0, 5)]


def test_an_empty_prompt_is_refused() -> None:
    scheduler = make_scheduler()
    with pytest.raises(InvalidRequest, match="the prompt is empty") as caught:
        scheduler.add(make_request("a", []))
    assert caught.value.param == "prompt"
    assert not scheduler.has_work


def test_prompt_and_output_must_fit_the_window() -> None:
    scheduler = make_scheduler(max_context_tokens=20)
    with pytest.raises(ContextLengthExceeded, match="13 prompt tokens and max_tokens of 8 exceed .* 20 tokens"):
        scheduler.add(make_request("a", 13, max_tokens=8))
    scheduler.add(make_request("a", 12, max_tokens=8))


def test_prompt_and_output_must_fit_the_pool() -> None:
    scheduler = make_scheduler(num_blocks=3)
    with pytest.raises(ContextLengthExceeded, match="12 tokens"):
        scheduler.add(make_request("a", 10, max_tokens=3))
    scheduler.add(make_request("a", 10, max_tokens=2))
    run_out(scheduler)


def test_a_refused_request_leaves_nothing_behind() -> None:
    scheduler = make_scheduler(max_context_tokens=8)
    with pytest.raises(ContextLengthExceeded):
        scheduler.add(make_request("a", 9))
    assert not scheduler.has_work
    assert scheduler.plan() is None
    assert scheduler.cancel("a") is None


# What a step holds


def test_a_prompt_is_computed_once_and_then_a_token_a_step() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 6, max_tokens=3))
    assert [step(scheduler) for _ in range(3)] == [[("a", 0, 6)], [("a", 6, 1)], [("a", 7, 1)]]
    assert scheduler.plan() is None


def test_a_long_prompt_is_cut_to_the_budget() -> None:
    scheduler = make_scheduler(max_running=2, max_step_tokens=4)
    scheduler.add(make_request("a", 10))
    scheduler.add(make_request("b", 5))
    assert step(scheduler) == [("a", 0, 4)]
    assert step(scheduler) == [("a", 4, 4)]
    assert step(scheduler) == [("a", 8, 2), ("b", 0, 2)]
    assert step(scheduler) == [("a", 10, 1), ("b", 2, 3)]
    assert step(scheduler) == [("a", 11, 1), ("b", 5, 1)]


def test_only_a_chunk_that_reaches_the_last_token_is_sampled() -> None:
    scheduler = make_scheduler(max_running=2, max_step_tokens=4)
    scheduler.add(make_request("a", 3))
    scheduler.add(make_request("b", 2))
    plan = scheduler.plan()
    assert plan is not None
    assert [chunk.num_sampled for chunk in plan.chunks] == [1, 0]
    assert plan.sampled == [plan.chunks[0]]


def test_decode_goes_before_a_new_prompt() -> None:
    scheduler = make_scheduler(max_running=3, max_step_tokens=4)
    scheduler.add(make_request("a", 2))
    scheduler.add(make_request("b", 2))
    step(scheduler)
    scheduler.add(make_request("c", 9))
    assert step(scheduler) == [("a", 2, 1), ("b", 2, 1), ("c", 0, 2)]


def test_no_more_run_than_max_running() -> None:
    scheduler = make_scheduler(max_running=2)
    for name in "abc":
        scheduler.add(make_request(name, 2, max_tokens=2))
    assert step(scheduler) == [("a", 0, 2), ("b", 0, 2)]
    assert step(scheduler) == [("a", 2, 1), ("b", 2, 1)]
    assert step(scheduler) == [("c", 0, 2)]


def test_a_block_table_covers_just_the_planned_tokens() -> None:
    scheduler = make_scheduler(max_running=1, max_step_tokens=5)
    scheduler.add(make_request("a", 9))
    sizes = []
    for _ in range(3):
        plan = scheduler.plan()
        assert plan is not None
        sizes.append(len(plan.chunks[0].sequence.block_table))
        scheduler.apply(plan, [[7]] * len(plan.sampled))
    assert sizes == [2, 3, 3]  # of 5, 9 and 10 tokens


def test_the_load_is_what_runs_waits_and_is_free() -> None:
    scheduler = make_scheduler(num_blocks=8, max_running=1)
    scheduler.add(make_request("a", 5))
    scheduler.add(make_request("b", 5))
    step(scheduler)
    assert scheduler.load(steps=1) == Load(
        1, 1, free_blocks=6, total_blocks=8, steps=1, preemptions=0, draft_tokens=0, accepted_tokens=0
    )


# Ends


def test_a_stop_token_ends_a_sequence_and_is_part_of_its_output() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, stop=(50, 51)))
    first, second = outcomes(scheduler, 49), outcomes(scheduler, 51)
    assert [outcome.end for outcome in first + second] == [None, EndReason.STOP]
    assert second[0].sequence.token_ids[-2:] == [49, 51]
    assert second[0].token_ids == [51]
    assert second[0].sequence.num_output == 2
    assert not scheduler.has_work
    assert scheduler.pool.num_free == 16


def test_max_tokens_end_a_sequence() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, max_tokens=2))
    assert [outcomes(scheduler, 1)[0].end, outcomes(scheduler, 1)[0].end] == [None, EndReason.LENGTH]
    assert not scheduler.has_work


def test_a_stop_token_that_comes_last_is_a_stop() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3, max_tokens=1, stop=(50,)))
    assert outcomes(scheduler, 50)[0].end is EndReason.STOP


def test_outcomes_come_in_the_order_of_the_sampled_chunks() -> None:
    scheduler = make_scheduler()
    for name in "abc":
        scheduler.add(make_request(name, 3, max_tokens=2, stop=(50,)))
    ended = outcomes(scheduler, 1, 50, 3)
    assert [(outcome.sequence.request.id, outcome.token_ids) for outcome in ended] == [
        ("a", [1]),
        ("b", [50]),
        ("c", [3]),
    ]
    assert step(scheduler) == [("a", 3, 1), ("c", 3, 1)]


def test_a_step_gives_one_token_for_each_sampled_chunk() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("a", 3))
    with pytest.raises(ValueError, match="shorter"):
        outcomes(scheduler)


# Cancellation and failed steps


def test_cancelling_what_waits_leaves_the_others_in_order() -> None:
    scheduler = make_scheduler(max_running=1)
    for name in "abc":
        scheduler.add(make_request(name, 3, max_tokens=1))
    step(scheduler)
    cancelled = scheduler.cancel("b")
    assert cancelled is not None
    assert cancelled.request.id == "b"
    assert step(scheduler) == [("c", 0, 3)]


def test_cancelling_what_runs_frees_its_blocks() -> None:
    scheduler = make_scheduler()
    for name in "ab":
        scheduler.add(make_request(name, 6))
    step(scheduler)
    assert scheduler.pool.num_free == 12
    scheduler.cancel("a")
    assert scheduler.pool.num_free == 14
    assert step(scheduler) == [("b", 6, 1)]


def test_cancelling_the_unknown_is_harmless() -> None:
    assert make_scheduler().cancel("nobody") is None


def test_cancelling_drops_the_running_and_the_waiting() -> None:
    scheduler = make_scheduler(max_running=1)
    for name in "ab":
        scheduler.add(make_request(name, 6))
    step(scheduler)
    cancelled = [scheduler.cancel(name) for name in "ab"]
    assert [sequence.request.id for sequence in cancelled if sequence is not None] == ["a", "b"]
    assert scheduler.plan() is None
    assert scheduler.pool.num_free == 16
    assert scheduler.cancel("a") is None


def test_a_failed_step_drops_its_sequences_and_nobody_else() -> None:
    scheduler = make_scheduler(max_running=2)
    for name in "abc":
        scheduler.add(make_request(name, 9))
    plan = scheduler.plan()
    assert plan is not None
    assert [sequence.request.id for sequence in scheduler.abandon(plan)] == ["a", "b"]
    assert scheduler.pool.num_free == 16
    assert scheduler.pool.held_names() == []
    assert step(scheduler) == [("c", 0, 9)]


def test_a_failed_step_forgets_what_it_was_to_write_and_keeps_what_was_written() -> None:
    scheduler = make_scheduler(max_running=1, max_step_tokens=6)
    scheduler.add(make_request("a", list(range(12))))
    step(scheduler)  # tokens 0 to 5: block 0 is full
    plan = scheduler.plan()  # tokens 6 to 11: blocks 1 and 2
    assert plan is not None
    assert len(scheduler.pool.held_names()) == 3
    scheduler.abandon(plan)
    assert len(scheduler.pool.held_names()) == 1
    scheduler.add(make_request("b", list(range(12))))
    assert step(scheduler) == [("b", 4, 6)]


def test_what_a_failed_step_shared_is_forgotten_too() -> None:
    scheduler = make_scheduler()
    for name in "ab":
        scheduler.add(make_request(name, list(range(9))))
    plan = scheduler.plan()
    assert shape(plan) == [("a", 0, 9), ("b", 8, 1)]
    assert plan is not None
    scheduler.abandon(plan)
    scheduler.add(make_request("c", list(range(9))))
    assert step(scheduler) == [("c", 0, 9)]


# Sequence


def test_a_sequence_counts_its_tokens() -> None:
    sequence = Sequence(make_request("a", 6), 4, "fingerprint")
    sequence.token_ids.append(7)
    sequence.num_computed = 4
    assert (sequence.num_prompt, sequence.num_output, sequence.num_uncomputed) == (6, 1, 3)
    assert [sequence.blocks_for(num_tokens) for num_tokens in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]


def test_a_sequence_leaves_the_tokens_of_its_request_alone() -> None:
    request = make_request("a", 3)
    Sequence(request, 4, "fingerprint").token_ids.append(7)
    assert len(request.token_ids) == 3


def test_names_are_those_of_full_blocks_and_grow_with_the_sequence() -> None:
    sequence = Sequence(make_request("a", 9), 4, "fingerprint")
    one, two = sequence.names_of_full_blocks(7), sequence.names_of_full_blocks(9)
    assert (len(one), len(two)) == (1, 2)
    assert one == two[:1] == sequence.names_of_full_blocks(4)
    sequence.token_ids += [7, 7, 7]
    assert sequence.names_of_full_blocks(12)[:2] == two
