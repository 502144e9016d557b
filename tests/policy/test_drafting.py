"""Drafts of one sequence: what is proposed, and what is learnt from what came."""

from __future__ import annotations

import pytest

from tokenworks.policy.acceptance import PRIOR, Acceptance
from tokenworks.policy.drafting import LEAST_CHANCE, Drafting


def test_what_followed_last_time_is_proposed() -> None:
    assert Drafting(Acceptance()).propose([1, 2, 3, 4, 5, 9, 1, 2], 3, ()) == [3, 4, 5]


def test_nothing_is_proposed_without_a_match_or_without_room() -> None:
    drafting = Drafting(Acceptance())
    assert drafting.propose([1, 2, 3], 5, ()) == drafting.propose([1, 2, 3, 1, 2], 0, ()) == []
    assert drafting.chances() == []


@pytest.mark.parametrize(("stop", "drafts"), [((), [3, 4, 5]), ((4,), [3]), ((3, 5), [])])
def test_a_proposal_ends_before_a_stop_token(stop: tuple[int, ...], drafts: list[int]) -> None:
    assert Drafting(Acceptance()).propose([1, 2, 3, 4, 5, 9, 1, 2], 3, stop) == drafts


def test_chances_multiply_along_a_match_that_grows() -> None:
    drafting = Drafting(Acceptance())
    drafting.propose([1, 2, 3, 4, 5, 9, 1, 2], 3, ())  # matches of 2, 3 and 4 tokens
    assert drafting.chances() == pytest.approx([PRIOR[0], PRIOR[0] ** 2, PRIOR[0] ** 2 * PRIOR[1]])


def test_a_hopeless_chain_is_cut() -> None:
    engine = Acceptance()
    for _ in range(500):
        engine.observe(2, is_right=False)
    drafting = Drafting(engine)
    assert drafting.propose([1, 2, 3, 4, 5, 9, 1, 2], 3, ()) == [3, 4, 5]
    assert drafting.chances() == []
    assert engine.chance(2) < LEAST_CHANCE


def test_every_guess_is_a_trial_up_to_the_first_wrong_one() -> None:
    """Also those that no row was spent on: here two of three came true."""
    engine, expected = Acceptance(), Acceptance()
    drafting = Drafting(engine)
    token_ids = [1, 2, 3, 4, 5, 9, 1, 2]
    drafting.propose(token_ids, 3, ())
    token_ids += [3, 4, 8, 8]
    drafting.propose(token_ids, 3, ())
    for length, is_right in ((2, True), (3, True), (4, False)):
        expected.observe(length, is_right)
    assert [engine.chance(length) for length in (2, 4)] == [expected.chance(length) for length in (2, 4)]


def test_a_guess_that_nothing_has_come_for_yet_is_no_trial() -> None:
    engine = Acceptance()
    drafting = Drafting(engine)
    token_ids = [1, 2, 3, 4, 5, 9, 1, 2]
    drafting.propose(token_ids, 3, ())
    drafting.propose(token_ids, 3, ())
    assert engine.chance(2) == PRIOR[0]
