"""Chances of reuse: what they start from, what they learn, and that the least recently used is never worth more."""

from __future__ import annotations

import random

import pytest

from tokenworks.policy.reuse import EDGES_S, NUM_BUCKETS, REBUILD_EVENTS, Kind, ReuseModel, best_rates, bucket_of


def test_buckets_grow_by_half_an_octave() -> None:
    assert [bucket_of(age_s) for age_s in (0.0, 0.99, 1.0, 1.41, 1.42, 2.0, 2.82, 2.83)] == [0, 0, 1, 1, 2, 3, 3, 4]
    assert bucket_of(1e12) == NUM_BUCKETS - 1
    for bucket in range(1, NUM_BUCKETS - 1):
        assert bucket_of(EDGES_S[bucket] * 1.01) == bucket


def test_nothing_seen_is_least_recently_used() -> None:
    model = ReuseModel()
    rates = [model.rate(Kind(0, 0), edge_s) for edge_s in EDGES_S[:-1]]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates[1:])) == len(rates) - 1  # the first second is as good as the second
    assert rates == [model.rate(Kind(1, 0), edge_s) for edge_s in EDGES_S[:-1]]


def teach(model: ReuseModel, history: int, chance: float, age_s: float, count: int = 4 * REBUILD_EVENTS) -> None:
    rng = random.Random(history)
    for _ in range(count):
        model.entered(Kind(history, 0))
        if rng.random() < chance:
            model.used(Kind(history, 0), age_s)


def test_a_class_that_comes_back_is_worth_more() -> None:
    model = ReuseModel()
    teach(model, 0, 0.1, 100.0)
    teach(model, 1, 0.8, 100.0)
    for age_s in (0.0, 10.0, 90.0):
        assert model.rate(Kind(1, 0), age_s) > 3 * model.rate(Kind(0, 0), age_s)


def test_a_class_that_is_never_used_again_is_worth_less_the_more_of_it_were_seen() -> None:
    model = ReuseModel()
    teach(model, 0, 0.5, 50.0)
    before = model.rate(Kind(1, 0), 1.0)
    teach(model, 1, 0.0, 0.0)
    assert model.rate(Kind(1, 0), 1.0) < before / 10


def test_a_kind_that_was_never_met_is_thought_to_be_like_others_of_its_history() -> None:
    model = ReuseModel()
    teach(model, 0, 0.1, 100.0)
    teach(model, 1, 0.8, 100.0)
    assert model.rate(Kind(1, 5), 10.0) > 3 * model.rate(Kind(0, 5), 10.0)
    assert model.rate(Kind(0, 5), 10.0) < model.rate(Kind(7, 0), 10.0) < model.rate(Kind(1, 5), 10.0)


def test_a_block_is_kept_for_a_use_that_is_still_to_come() -> None:
    """Everybody answers after 100 s: until then no age is worth less than 90 s of it, afterwards hardly anything."""
    model = ReuseModel()
    teach(model, 0, 0.9, 100.0)
    assert model.rate(Kind(0, 0), 1.0) == model.rate(Kind(0, 0), 90.0) > 100 * model.rate(Kind(0, 0), 1000.0)


def test_what_was_learnt_long_ago_fades() -> None:
    model = ReuseModel()
    teach(model, 1, 0.9, 10.0)
    high = model.rate(Kind(1, 0), 0.0)
    teach(model, 1, 0.0, 0.0, count=400_000)
    assert model.rate(Kind(1, 0), 0.0) < high / 10


@pytest.mark.parametrize("seed", range(20))
def test_a_rate_is_the_best_ratio_of_uses_to_time(seed: int) -> None:
    """By simulation of its definition on a fine grid of stopping ages, for shares of any shape."""
    rng = random.Random(seed)
    shares = [rng.random() * rng.choice([0, 1]) for _ in range(NUM_BUCKETS)]
    total = sum(shares) * rng.uniform(1.0, 3.0)
    shares = [share / total for share in shares]
    rates = best_rates(shares)
    direct = [
        max(_ratio(shares, start, end) for end in range(start + 1, NUM_BUCKETS + 1)) for start in range(NUM_BUCKETS)
    ]
    assert rates == pytest.approx([max(direct[start:]) for start in range(NUM_BUCKETS)], rel=1e-6)


def _ratio(shares: list[float], start: int, end: int) -> float:
    uses = time_s = 0.0
    for bucket in range(start, end):
        still_there = 1 - sum(shares[:bucket])
        uses += shares[bucket]
        time_s += (EDGES_S[bucket + 1] - EDGES_S[bucket]) * max(1e-9, still_there - shares[bucket] / 2)
    return uses / time_s
