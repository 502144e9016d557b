"""Costs by rows: what is learnt from steps, what lies between and beyond them, what is forgotten."""

from __future__ import annotations

import pytest

from tokenworks.policy.step_costs import DOWN, HALF_LIFE_STEPS, UP, StepCosts, bucket_of


def costs_of(*steps: tuple[int, float]) -> StepCosts:
    costs = StepCosts()
    for num_rows, seconds in steps:
        costs.observe(num_rows, seconds)
    return costs


def test_while_nothing_is_known_rows_are_free() -> None:
    assert costs_of().seconds(1) == costs_of().seconds(500)
    assert costs_of((1, 0.0), (4, -1.0)).seconds(4) == costs_of().seconds(1)  # a clock that stands still


def test_between_two_points_lies_a_line_and_beyond_the_last_it_goes_on() -> None:
    costs = costs_of((1, 10.0), (5, 12.0), (3, 10.5))
    assert [costs.seconds(rows) for rows in (1, 2, 3, 4, 5, 7)] == pytest.approx(
        [10, 10.25, 10.5, 11.25, 12, 13.5], rel=1e-3
    )


def test_below_the_first_point_the_line_goes_on_but_each_row_gets_no_cheaper() -> None:
    assert costs_of((4, 10.0), (6, 14.0)).seconds(3) == 8.0
    assert costs_of((4, 10.0), (6, 24.0)).seconds(3) == 7.5  # not 3


def test_rows_are_never_thought_dearer_than_more_rows_were() -> None:
    costs = costs_of((1, 2.0), (4, 10.0), (6, 5.0), (8, 6.0))
    assert [costs.seconds(rows) for rows in (1, 2, 4, 6, 8, 10)] == [2, 3, 5, 5, 6, 7]


def test_one_point_is_a_proportion_below_and_no_reason_to_fear_more() -> None:
    assert [costs_of((4, 2.0)).seconds(rows) for rows in (1, 4, 100)] == [0.5, 2.0, 2.0]


def test_an_estimate_falls_fast_and_rises_slowly() -> None:
    assert costs_of((1, 10.0), (1, 6.0)).seconds(1) == 10 - DOWN * 4
    assert costs_of((1, 10.0), (1, 26.0)).seconds(1) == 10 + UP * 16


def test_row_counts_share_a_bucket_where_they_are_many() -> None:
    assert [bucket_of(rows) for rows in (1, 7, 8, 9, 10, 17, 20, 63, 64, 500)] == [1, 7, 8, 8, 10, 16, 20, 56, 64, 448]
    assert costs_of((1, 1.0), (64, 8.0), (79, 8.0)).seconds(64 + UP * 15) == pytest.approx(8.0)


def test_what_was_not_measured_for_long_is_believed_less_and_believed_again_once_it_is() -> None:
    costs = costs_of((5, 101.0), *[(1, 1.0)] * HALF_LIFE_STEPS)
    assert costs.seconds(5) == 51.0
    for _ in range(HALF_LIFE_STEPS):
        costs.observe(1, 1.0)
    assert costs.seconds(5) == 26.0
    costs.observe(5, 101.0)
    assert costs.seconds(5) == 101.0
