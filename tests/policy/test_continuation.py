"""A request that another worker had begun: budgets, positions and penalties count from the client's prompt."""

from __future__ import annotations

import pytest

from tokenworks.contract.errors import ContextLengthExceeded, InvalidRequest
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import EndReason
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Outcome

PROMPT = [1, 2, 3, 4, 5]


def request(num_generated: int, max_tokens: int = 8, stop: tuple[int, ...] = ()) -> Request:
    token_ids = [*PROMPT, *range(10, 10 + num_generated)]
    return Request("a", "model", token_ids, Sampling(max_tokens, stop_token_ids=stop), num_generated=num_generated)


def make_scheduler(max_context_tokens: int = 64) -> Scheduler:
    return Scheduler(Limits(4, 64, max_context_tokens, 4), BlockPool(16), "fingerprint")


def run(scheduler: Scheduler) -> list[Outcome]:
    """Every outcome; the sampled token is 77."""
    outcomes: list[Outcome] = []
    while (plan := scheduler.plan()) is not None:
        outcomes += scheduler.apply(plan, [[77]] * len(plan.sampled))
    return outcomes


def test_what_was_generated_counts_as_output() -> None:
    sequence = Sequence(request(3), 4, "fingerprint")
    assert (sequence.num_prompt, sequence.num_output) == (5, 3)
    assert sequence.num_uncomputed == 8


@pytest.mark.parametrize("num_generated", [0, 1, 7])
def test_the_budget_is_that_of_the_whole_output(num_generated: int) -> None:
    scheduler = make_scheduler()
    scheduler.add(request(num_generated))
    outcomes = run(scheduler)
    assert len(outcomes) == 8 - num_generated
    assert [outcome.end for outcome in outcomes] == [None] * (7 - num_generated) + [EndReason.LENGTH]


def test_a_stop_token_among_what_was_generated_stops_nothing() -> None:
    """It was sampled and passed on; whoever asked for the continuation knows better."""
    scheduler = make_scheduler()
    scheduler.add(request(3, stop=(11,)))
    assert len(run(scheduler)) == 5


def test_the_window_holds_prompt_and_output_once() -> None:
    make_scheduler(13).add(request(6))
    with pytest.raises(ContextLengthExceeded, match="5 prompt tokens and max_tokens of 8"):
        make_scheduler(12).add(request(6))


@pytest.mark.parametrize("num_generated", [-1, 8, 9])
def test_more_than_was_asked_for_or_less_than_nothing_is_refused(num_generated: int) -> None:
    wrong = Request("a", "model", [*range(20)], Sampling(8), num_generated=num_generated)
    scheduler = make_scheduler()
    with pytest.raises(InvalidRequest, match="cannot have been generated"):
        scheduler.add(wrong)
    assert not scheduler.has_work


def test_there_is_a_prompt() -> None:
    with pytest.raises(InvalidRequest, match="cannot have been generated"):
        make_scheduler().add(Request("a", "model", [1, 2], Sampling(8), num_generated=2))


def test_blocks_that_hold_output_have_the_names_of_their_tokens() -> None:
    whole, continued = Sequence(request(0), 4, "fingerprint"), Sequence(request(3), 4, "fingerprint")
    whole.token_ids += [10, 11, 12]
    assert whole.names_of_full_blocks(8) == continued.names_of_full_blocks(8)
