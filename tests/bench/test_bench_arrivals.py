"""Plans: seeded, lazy, and from traces."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from tokenworks.bench.arrivals import LengthRange, parse_length, plan_synthetic, plan_trace, poisson_arrivals_s
from tokenworks.plan.traces import Trace, TraceRecord

TRACE = Trace(format="mooncake", records=(TraceRecord(0.5, 700, 9, (0, 1)), TraceRecord(2.0, 0, 0)))


def test_lengths_are_read_as_written() -> None:
    assert parse_length("128") == LengthRange(128, 128)
    assert parse_length("uniform:64:256") == LengthRange(64, 256)
    assert [str(parse_length(text)) for text in ("7", "uniform:1:2")] == ["7", "uniform 1 to 2"]


@pytest.mark.parametrize(
    "text", ["", "0", "-3", "1.5", "uniform", "uniform:5", "uniform:9:3", "uniform:0:3", "x:1:2", "99999999999"]
)
def test_a_length_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="uniform:64:256"):
        parse_length(text)


def test_poisson_arrivals_start_at_zero_and_keep_the_rate_and_the_spread_of_gaps() -> None:
    arrivals_s = list(islice(poisson_arrivals_s(20.0, seed=1), 20_001))
    gaps_s = [after - before for before, after in pairwise(arrivals_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    deviation_s = (sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)) ** 0.5
    assert arrivals_s[0] == 0.0
    assert mean_s == pytest.approx(0.05, rel=0.02)
    assert deviation_s / mean_s == pytest.approx(1.0, rel=0.02)  # a Poisson process has a coefficient of variation of 1


def test_a_synthetic_plan_depends_on_its_seed_only() -> None:
    def plan(seed: int) -> list[object]:
        return list(plan_synthetic(LengthRange(1, 9), LengthRange(5, 5), rate=3.0, max_requests=50, seed=seed))

    assert plan(4) == plan(4) != plan(5)


def test_a_synthetic_plan_without_a_bound_goes_on_and_without_a_rate_is_due_at_once() -> None:
    endless = plan_synthetic(LengthRange(2, 4), LengthRange(1, 1), rate=None, max_requests=None, seed=0)
    planned = list(islice(endless, 500))
    assert [request.index for request in planned] == list(range(500))
    assert {request.arrival_s for request in planned} == {0.0}
    assert {request.input_tokens for request in planned} == {2, 3, 4}


def test_a_trace_plan_keeps_instants_lengths_and_blocks_and_asks_for_one_token_at_least() -> None:
    first, second = plan_trace(TRACE, rate=None, max_requests=None, seed=0)
    assert (first.arrival_s, first.input_tokens, first.output_tokens, first.block_ids) == (0.5, 700, 9, (0, 1))
    assert (second.arrival_s, second.input_tokens, second.output_tokens) == (2.0, 1, 1)


def test_a_trace_plan_with_a_rate_takes_only_the_lengths_from_the_trace() -> None:
    (only,) = plan_trace(TRACE, rate=1.0, max_requests=1, seed=0)
    assert (only.arrival_s, only.input_tokens) == (0.0, 700)
