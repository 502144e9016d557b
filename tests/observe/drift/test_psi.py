"""PSI: by hand, its noise as the formula has it, and its bins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tokenworks.observe.drift.psi import chi_square_999, counts, edges, shift


def test_two_bins_by_hand() -> None:
    found = shift(np.array([500, 500]), np.array([800, 200]))
    p, q = 800.5 / 1001, 500.5 / 1001
    assert found.psi == pytest.approx((p - q) * math.log(p / q) + (q - p) * math.log((1 - p) / (1 - q)))
    assert found.expected == pytest.approx(1 / 1000 + 1 / 1000)
    assert found.excess == found.psi - found.expected


def test_equal_counts_have_no_shift_and_an_empty_bin_no_infinite_one() -> None:
    assert shift(np.array([5, 7, 9]), np.array([5, 7, 9])).psi == pytest.approx(0)
    assert 0 < shift(np.array([100, 0]), np.array([50, 50])).psi < 10


def test_the_quantile_is_that_of_chi_square() -> None:
    assert chi_square_999(0) == 0
    for freedom, published in ((1, 10.828), (2, 13.816), (9, 27.877), (20, 45.315)):  # any table of chi-square
        assert chi_square_999(freedom) == pytest.approx(published, rel=0.04)


@pytest.mark.parametrize(("before", "after"), [(200, 200), (1000, 200), (5000, 5000)])
def test_samples_of_one_distribution_have_the_expected_psi_and_hardly_ever_exceed_the_noise(
    before: int, after: int
) -> None:
    draw = np.random.default_rng(7)
    found = []
    for _ in range(1000):
        reference = draw.lognormal(6, 1, before)
        bounds = edges(reference, 10)
        found.append(shift(counts(reference, bounds), counts(draw.lognormal(6, 1, after), bounds)))
    assert np.mean([each.psi for each in found]) == pytest.approx(found[0].expected, rel=0.12)
    assert sum(each.psi > each.noise for each in found) <= 8  # one in a thousand is expected


def test_bins_of_a_reference_hold_equal_shares_of_it() -> None:
    values = np.arange(1000.0)
    assert counts(values, edges(values, 10)) == pytest.approx(100, abs=1)


def test_a_constant_reference_is_told_from_what_is_smaller_and_from_what_is_larger() -> None:
    bounds = edges(np.full(100, 5.0), 10)
    assert counts(np.array([4.0, 5.0, 5.0, 6.0]), bounds).tolist() == [1, 2, 1]


def test_a_mass_at_the_smallest_value_has_a_bin_of_its_own() -> None:
    values = np.concatenate([np.zeros(700), np.linspace(0.1, 1, 300)])
    binned = counts(values, edges(values, 10))
    assert binned[0] == 0
    assert binned[1] == 700
    assert binned.sum() == 1000
