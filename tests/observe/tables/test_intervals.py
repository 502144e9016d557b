"""Intervals hold what they promise: over many seeded worlds, with requests that share their second's fate too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tokenworks.observe.sketch import ERROR, Sketch, encode_values
from tokenworks.observe.tables.intervals import Estimate, difference, percentile, proportion, quotient, ratio

WORLDS = 200
SLICES = 60


def coverage(estimate: Callable[[np.random.Generator], Estimate | None], truth: float) -> float:
    """How often the 95 % interval holds the truth."""
    found = [estimate(np.random.default_rng(seed)) for seed in range(WORLDS)]
    told = [one for one in found if one is not None]
    assert len(told) > WORLDS / 2
    return sum(one.low <= truth <= one.high for one in told) / len(told)


def sketch_of(values: np.ndarray) -> Sketch:
    return Sketch.decode(encode_values(values))


@pytest.mark.parametrize("spread", [0.0, 0.5], ids=["independent", "a bad second is bad for all"])
def test_a_proportion_lies_in_its_interval_as_often_as_promised(spread: float) -> None:
    def estimate(random: np.random.Generator) -> Estimate | None:
        counts = random.poisson(20, SLICES)
        shares = 0.9 - spread * random.binomial(1, 0.2, SLICES) + spread * 0.2
        return proportion(random.binomial(counts, shares.clip(0, 1)), counts, 0.95)

    truth = 0.9 if not spread else 0.8 * 1.0 + 0.2 * 0.5
    assert 0.92 <= coverage(estimate, truth) <= 0.99


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("spread", [0.0, 0.6], ids=["independent", "a slow second is slow for all"])
def test_a_percentile_lies_in_its_interval_as_often_as_promised(share: float, spread: float) -> None:
    def draw(random: np.random.Generator, count: int) -> list[np.ndarray]:
        means = random.normal(18, spread, SLICES)
        return [np.exp(random.normal(mean, 1.0, count)) for mean in means]

    truth = float(np.quantile(np.concatenate(draw(np.random.default_rng(7), 40_000)[:SLICES]), share))
    if spread:  # the sum of both normal spreads
        z = {0.5: 0.0, 0.9: 1.2815516}[share]
        truth = float(np.exp(18 + z * np.hypot(1.0, spread)))

    def estimate(random: np.random.Generator) -> Estimate | None:
        return percentile([sketch_of(values) for values in draw(random, 20)], share, 0.95)

    assert 0.92 <= coverage(estimate, truth) <= 1.0


def test_a_ratio_of_sums_lies_in_its_interval_as_often_as_promised() -> None:
    def estimate(random: np.random.Generator) -> Estimate | None:
        tokens = random.gamma(2.0, 500.0, SLICES)
        return quotient(tokens * random.gamma(16.0, 1 / 16, SLICES) * 3.0, tokens, 0.95)

    assert 0.92 <= coverage(estimate, 3.0) <= 0.98


def test_two_samples_of_one_world_differ_by_noise_and_two_worlds_do_not() -> None:
    def p90(seed: int, scale: float) -> Estimate:
        random = np.random.default_rng(seed)
        found = percentile([sketch_of(random.gamma(4, scale, 50)) for _ in range(SLICES)], 0.9, 0.95)
        assert found is not None
        return found

    changes = [ratio(p90(2 * seed, 1e6), p90(2 * seed + 1, 1e6)) for seed in range(200)]
    assert sum(change is not None and not change.low <= 1 <= change.high for change in changes) <= 10
    slower = ratio(p90(1, 1e6), p90(2, 1.3e6))
    assert slower is not None
    assert slower.low > 1.1 < slower.value < 1.5


def test_a_proportion_of_all_or_none_is_not_certain() -> None:
    none = proportion([0] * 10, [3] * 10, 0.95)
    every = proportion([3] * 10, [3] * 10, 0.95)
    assert none is not None
    assert every is not None
    assert none.low == 0.0 < none.high < 0.2
    assert every.high == 1.0 > every.low > 0.8
    assert difference(none, every).low > 0.7


@pytest.mark.parametrize("slices", [0, 1, 4])
def test_few_slices_say_nothing(slices: int) -> None:
    assert proportion([1] * slices, [2] * slices, 0.95) is None
    assert quotient([1] * slices, [2] * slices, 0.95) is None
    assert percentile([sketch_of(np.ones(9))] * slices, 0.5, 0.95) is None


def test_a_percentile_rarer_than_the_sample_says_nothing() -> None:
    few = [sketch_of(np.full(5, 1e6 + n)) for n in range(20)]
    assert percentile(few, 0.5, 0.95) is not None
    assert percentile(few, 0.99, 0.95) is None


def test_nothing_above_the_line_has_no_ratio() -> None:
    assert quotient([0] * 20, [1] * 20, 0.95) is None
    assert ratio(Estimate(0.0, 0.0, 1.0), Estimate(1.0, 0.5, 2.0)) is None


def test_a_percentiles_interval_allows_for_the_sketchs_own_error() -> None:
    same = percentile([sketch_of(np.full(100, 5e6))] * 10, 0.5, 0.95)
    assert same is not None
    assert same.low <= 5e6 * (1 - ERROR) * 1.01
    assert same.high >= 5e6 * (1 + ERROR) * 0.99
