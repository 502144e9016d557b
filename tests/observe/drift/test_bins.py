"""Bins in words, and the range of them that grew most."""

from __future__ import annotations

import numpy as np
import pytest

from tokenworks.observe.drift.bins import grew_most, range_label
from tokenworks.observe.drift.psi import edges


@pytest.mark.parametrize(
    ("first", "last", "label"),
    [
        (0, 0, "up to 10"),
        (0, 1, "up to 20"),
        (1, 1, "10 to 20"),
        (1, 2, "10 to 30"),
        (3, 3, "above 30"),
        (1, 3, "above 10"),
        (0, 3, "anything"),
    ],
)
def test_a_range_says_where_it_begins_and_ends(first: int, last: int, label: str) -> None:
    assert range_label(np.array([10.0, 20.0, 30.0]), first, last) == label


def test_the_smallest_value_with_a_bin_of_its_own_is_named_alone() -> None:
    bounds = edges(np.array([0.0] * 70 + [1.0, 2.0, 3.0] * 10), 10)
    assert [range_label(bounds, at, at) for at in (0, 1)] == ["below 0", "0"]


@pytest.mark.parametrize("seed", range(20))
def test_the_range_that_grew_most_is_the_best_of_all_ranges(seed: int) -> None:
    before, after = np.random.default_rng(seed).dirichlet(np.ones(8), 2)
    growth = after - before
    first, last = grew_most(before, after)
    best = max(growth[i : j + 1].sum() for i in range(8) for j in range(i, 8))
    assert growth[first : last + 1].sum() == pytest.approx(best)
