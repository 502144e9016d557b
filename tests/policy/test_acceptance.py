"""Acceptance estimates: what they start from, how fast they learn, what they tell apart."""

from __future__ import annotations

import pytest

from tokenworks.policy.acceptance import PRIOR, PRIOR_TRIALS, Acceptance, length_class


def test_lengths_fall_into_four_classes() -> None:
    lengths = {0: [2, 3], 1: [4, 7], 2: [8, 15], 3: [16, 17, 1000]}
    assert {at: [length_class(length) for length in found] for at, found in lengths.items()} == {
        at: [at] * len(found) for at, found in lengths.items()
    }


def test_an_estimate_starts_as_the_prior_and_moves_by_trials() -> None:
    engine = Acceptance()
    assert [engine.chance(length) for length in (2, 4, 8, 16)] == pytest.approx(PRIOR)
    engine.observe(5, is_right=True)
    assert engine.chance(4) == pytest.approx((1 + PRIOR_TRIALS * PRIOR[1]) / (1 + PRIOR_TRIALS))
    assert engine.chance(8) == PRIOR[2]


def test_a_new_sequence_believes_what_the_others_have_shown() -> None:
    engine = Acceptance()
    first = Acceptance(engine)
    for _ in range(100):
        first.observe(20, is_right=False)
    assert Acceptance(engine).chance(20) == engine.chance(20) < 0.05


def test_a_sequence_follows_what_it_shows_itself_and_forgets() -> None:
    engine = Acceptance()
    for _ in range(1000):
        engine.observe(4, is_right=False)
    sequence = Acceptance(engine)
    for _ in range(60):
        sequence.observe(4, is_right=True)
    assert sequence.chance(4) > 0.8
    assert engine.chance(4) < 0.4
    for _ in range(60):
        sequence.observe(4, is_right=False)
    assert sequence.chance(4) < 0.1
