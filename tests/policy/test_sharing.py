"""Shares: whole, exact, and as the card says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.contract.card import Card
from tokenworks.contract.request import Request, Sampling
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.sharing import Prices, chunk_costs, share_out
from tokenworks.policy.step_plan import Chunk

PRICES = Prices(0.010, 0.001, 0.00001, 0.040, 0.002, 0.0001)
COSTS = st.lists(st.floats(0, 1e6), min_size=1, max_size=80)
ANY_COSTS = st.lists(st.floats(0, allow_infinity=True) | st.just(math.nan), min_size=1, max_size=20)


def chunk(start: int, rows: int, num_sampled: int, drafts: tuple[int, ...] = ()) -> Chunk:
    sequence = Sequence(Request("r", "model", list(range(start + rows)), Sampling(max_tokens=9)), 4, "f")
    return Chunk(sequence, start, rows, num_sampled, drafts)


@given(st.integers(0, 2**53), COSTS | ANY_COSTS)
def test_shares_are_whole_and_sum_to_the_total(total: int, costs: list[float]) -> None:
    shares = share_out(total, costs)
    assert sum(shares) == total
    assert len(shares) == len(costs)
    assert all(isinstance(share, int) and share >= 0 for share in shares)


@given(st.integers(0, 10**12), COSTS)
def test_no_share_is_off_by_more_than_one(total: int, costs: list[float]) -> None:
    if sum(costs) < 1e-300:
        return
    for share, cost in zip(share_out(total, costs), costs, strict=True):
        assert abs(share - total * (cost / math.fsum(costs))) <= 1 + total * 1e-12


def test_costs_that_say_nothing_are_even_and_nobody_gets_nothing() -> None:
    assert share_out(10, [0.0, 0.0]) == share_out(10, [math.nan, 1.0]) == [5, 5]
    assert share_out(10, []) == []


def test_decoding_sequences_split_the_reading_of_the_weights_and_pay_their_own_context() -> None:
    costs = chunk_costs([chunk(100, 1, 1), chunk(300, 1, 1)], PRICES)
    assert costs == pytest.approx([0.020 + 0.002 + 0.010, 0.020 + 0.002 + 0.030])
    assert math.isclose(sum(costs), card().decode_s(2, 200))


def test_a_prompts_chunk_costs_what_the_card_says_of_it_alone() -> None:
    assert math.isclose(chunk_costs([chunk(256, 64, 0)], PRICES)[0], card().prefill_s(64, 256))


def test_prompts_and_decoding_in_one_step_each_count_as_a_step_of_their_own() -> None:
    costs = chunk_costs([chunk(100, 1, 1), chunk(0, 64, 1), chunk(0, 64, 0)], PRICES)
    assert math.isclose(costs[0], card().decode_s(1, 100))
    assert math.isclose(costs[1] + costs[2], 2 * card().prefill_s(64, 0) - PRICES.prefill_base_s)


def test_a_draft_costs_a_row_and_no_context() -> None:
    plain, ahead = chunk_costs([chunk(100, 1, 1)], PRICES), chunk_costs([chunk(100, 4, 4, (7, 8, 9))], PRICES)
    assert math.isclose(ahead[0] - plain[0], 3 * PRICES.per_row_s)


def card() -> Card:
    made = Card("cpu", 1, "float32", "float32", 1, 1, "float32", 1, 1, (), (), *PRICES)
    assert Prices.of(made) == PRICES
    return made
