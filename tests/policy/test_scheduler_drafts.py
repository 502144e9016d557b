"""Chunks with drafts, by hand: what room they find, what is kept, what is named. Blocks are of four tokens."""

from __future__ import annotations

from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import EndReason
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.speculation import Speculator
from tokenworks.policy.step_plan import Chunk, Outcome, StepPlan


class Fixed(Speculator):
    """Always drafts these tokens, for every sequence that decodes."""

    def __init__(self, *drafts: int) -> None:
        super().__init__()
        self.drafts = list(drafts)
        self.asked: list[tuple[list[str], int, int]] = []

    def draft(self, sequences: list[Sequence], num_rows: int, most: int) -> list[list[int]]:
        self.asked.append(([sequence.request.id for sequence in sequences], num_rows, most))
        return [self.drafts[:most] for _ in sequences]


def make_scheduler(speculator: Speculator, num_blocks: int = 16, max_step_tokens: int = 64) -> Scheduler:
    return Scheduler(Limits(4, max_step_tokens, 64, 4), BlockPool(num_blocks), "fingerprint", speculator)


def add(scheduler: Scheduler, name: str, prompt: list[int], max_tokens: int = 20, stop: tuple[int, ...] = ()) -> None:
    sampling = Sampling(max_tokens=max_tokens, stop_token_ids=stop)
    scheduler.add(Request(name, "model", prompt, sampling))


def plan_of(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan()
    assert plan is not None
    return plan


def step(scheduler: Scheduler, *sampled: list[int]) -> list[Outcome]:
    return scheduler.apply(plan_of(scheduler), sampled)


def started(*drafts: int, num_blocks: int = 16, max_tokens: int = 20, stop: tuple[int, ...] = ()) -> Scheduler:
    """A sequence of tokens 0 to 5 and a sampled 6, in two blocks."""
    scheduler = make_scheduler(Fixed(*drafts), num_blocks)
    add(scheduler, "a", list(range(6)), max_tokens, stop)
    step(scheduler, [6])
    return scheduler


def shape(chunk: Chunk) -> tuple[int, int, int, tuple[int, ...]]:
    return chunk.start, chunk.num_tokens, chunk.num_sampled, chunk.drafts


def test_a_prompt_gets_no_drafts_and_a_decode_does() -> None:
    scheduler = make_scheduler(Fixed(7, 8))
    add(scheduler, "a", list(range(6)))
    plan = plan_of(scheduler)
    assert [shape(chunk) for chunk in plan.chunks] == [(0, 6, 1, ())]
    scheduler.apply(plan, [[6]])
    (chunk,) = plan_of(scheduler).chunks
    assert shape(chunk) == (6, 3, 3, (7, 8))
    assert chunk.token_ids == [6, 7, 8]
    assert len(chunk.sequence.block_table) == 3  # of nine tokens


def test_the_speculator_is_told_who_decodes_and_what_is_left() -> None:
    speculator = Fixed()
    scheduler = make_scheduler(speculator, max_step_tokens=10)
    add(scheduler, "a", [1])
    add(scheduler, "b", [1, 2, 3])
    step(scheduler, [2], [2])
    add(scheduler, "c", [5] * 20)
    step(scheduler, [3], [3])
    assert speculator.asked == [(["a"], 4, 6), (["a", "b"], 10, 0)]


def test_right_drafts_are_kept_and_the_token_behind_them_too() -> None:
    scheduler = started(7, 8, 9)
    (outcome,) = step(scheduler, [7, 8, 50, 51])
    assert outcome.token_ids == [7, 8, 50]
    assert outcome.sequence.token_ids == [0, 1, 2, 3, 4, 5, 6, 7, 8, 50]
    assert outcome.sequence.num_computed == 9
    assert (scheduler.draft_tokens, scheduler.accepted_tokens) == (3, 2)
    load = scheduler.load(2)
    assert (load.draft_tokens, load.accepted_tokens) == (3, 2)


def test_what_was_sampled_behind_a_wrong_draft_is_dropped() -> None:
    (outcome,) = step(started(7, 8), [50, 8, 9])
    assert outcome.token_ids == [50]
    assert outcome.sequence.num_computed == 7


def test_the_result_may_end_at_the_first_wrong_draft() -> None:
    (outcome,) = step(started(7, 8, 9), [7, 50])
    assert outcome.token_ids == [7, 50]


def test_a_block_that_drafts_fill_is_named_when_they_have_proved_right() -> None:
    scheduler = started(7, 8)
    plan = plan_of(scheduler)  # tokens 6, 7 and 8: 7 fills the second block
    assert len(scheduler.pool.held_names()) == 1
    scheduler.apply(plan, [[7, 8, 9]])
    assert len(scheduler.pool.held_names()) == 2
    scheduler.cancel("a")
    add(scheduler, "b", list(range(12)))
    assert shape(plan_of(scheduler).chunks[0]) == (8, 4, 1, ())


def test_a_block_with_a_wrong_draft_is_not_named() -> None:
    scheduler = started(7, 8)
    step(scheduler, [50, 8, 9])
    assert len(scheduler.pool.held_names()) == 1
    scheduler.cancel("a")
    add(scheduler, "b", list(range(12)))
    assert shape(plan_of(scheduler).chunks[0]) == (4, 8, 1, ())


def test_blocks_of_rejected_drafts_are_given_back() -> None:
    scheduler = started(7, 8, 9)
    plan = plan_of(scheduler)
    assert scheduler.pool.num_free == 13
    scheduler.apply(plan, [[50]])
    assert scheduler.pool.num_free == 14


def test_drafts_take_free_blocks_only() -> None:
    scheduler = make_scheduler(Fixed(11, 12, 13), num_blocks=3)
    add(scheduler, "a", [1, 2, 3], max_tokens=5)
    add(scheduler, "b", [4, 5, 6], max_tokens=5)
    step(scheduler, [7], [8])
    plan = plan_of(scheduler)  # token 3 of each fills its block; the free one is for a's drafts
    assert [shape(chunk) for chunk in plan.chunks] == [(3, 4, 4, (11, 12, 13)), (3, 1, 1, ())]
    scheduler.apply(plan, [[50], [60]])
    assert scheduler.preemptions == 0
    assert step(scheduler, [51])[0].sequence.request.id == "a"  # needs the free block itself; b makes way
    assert scheduler.preemptions == 1


def test_a_stop_token_among_the_drafts_ends_the_sequence_there() -> None:
    scheduler = started(7, 8, 9, stop=(8,))
    (outcome,) = step(scheduler, [7, 8, 9, 10])
    assert (outcome.token_ids, outcome.end) == ([7, 8], EndReason.STOP)
    assert scheduler.accepted_tokens == 1
    assert not scheduler.has_work
    assert scheduler.pool.num_free == 16
    assert len(scheduler.pool.held_names()) == 2  # tokens 0 to 7; the stop token's KV is of no use


def test_max_tokens_cut_what_was_guessed_beyond_them() -> None:
    scheduler = started(7, 8, 9, max_tokens=3)
    (outcome,) = step(scheduler, [7, 8, 9, 10])
    assert (outcome.token_ids, outcome.end) == ([7, 8], EndReason.LENGTH)
    assert outcome.sequence.num_output == 3


def test_a_failed_step_with_drafts_leaves_nothing_behind() -> None:
    scheduler = started(7, 8, 9)
    assert [sequence.request.id for sequence in scheduler.abandon(plan_of(scheduler))] == ["a"]
    assert scheduler.pool.num_free == 16
    assert len(scheduler.pool.held_names()) == 1
