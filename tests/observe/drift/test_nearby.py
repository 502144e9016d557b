"""The least PSI within reach: against every way of placing the values, and at its two ends."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tokenworks.observe.drift.nearby import counts_nearby
from tokenworks.observe.drift.psi import counts, edges, shift


def by_brute_force(reference: np.ndarray, values: np.ndarray, bounds: np.ndarray, reach: np.ndarray) -> float:
    """The least PSI of all cumulative counts that are allowed, in whole values."""
    allowed = []
    for bound, near in zip(bounds, reach, strict=True):
        over = int(((values > bound) & (values <= bound + near)).sum())
        under = int(((values <= bound) & (values > bound - near)).sum())
        known_over = len(values) * float(((reference > bound) & (reference <= bound + near)).mean())
        known_under = len(values) * float(((reference <= bound) & (reference > bound - near)).mean())
        at = int((values <= bound).sum())
        allowed.append(range(at - int(min(under, known_over)), at + int(min(over, known_under)) + 1))
    ways = (np.diff([0, *way, len(values)]) for way in product(*allowed))
    return min(shift(counts(reference, bounds), way).psi for way in ways if (way >= 0).all())


@pytest.mark.parametrize("seed", range(30))
def test_no_way_of_placing_the_values_has_a_smaller_psi(seed: int) -> None:
    draw = np.random.default_rng(seed)
    reference, values = draw.lognormal(3, 0.5, 20), draw.lognormal(3 + draw.normal(0, 0.3), 0.4, 40)
    bounds = edges(reference, 4)
    expected, reach = counts(reference, bounds), bounds * draw.choice([0.03, 0.1, 0.3])
    least = shift(expected, counts_nearby(reference, values, bounds, reach)).psi
    brute = by_brute_force(reference, values, bounds, reach)
    assert least <= brute + 1e-9  # parts of a value may be placed here, and whole ones there
    assert least == pytest.approx(brute, abs=0.02)
    assert brute <= shift(expected, counts(values, bounds)).psi


def test_without_reach_they_are_the_plain_counts_and_with_much_of_it_what_is_expected() -> None:
    draw = np.random.default_rng(1)
    reference, values = draw.lognormal(3, 0.5, 200), draw.lognormal(4, 0.5, 100)
    bounds = edges(reference, 10)
    assert counts_nearby(reference, values, bounds, 0 * bounds) == pytest.approx(counts(values, bounds))
    endless = counts_nearby(reference, values, bounds, np.full(len(bounds), 1e9))
    assert shift(counts(reference, bounds), endless).psi == pytest.approx(0, abs=1e-6)
    assert endless.sum() == pytest.approx(100)


def test_what_the_reference_never_had_near_a_bound_is_not_said_to_come_from_there() -> None:
    reference, values = np.array([50.0, 203.0] * 100), np.full(200, 50.0)
    bounds = edges(reference, 10)
    nearby = counts_nearby(reference, values, bounds, 0.05 * bounds)
    assert nearby == pytest.approx(counts(values, bounds))  # the half that had 203 did not become 50 by moving a little
