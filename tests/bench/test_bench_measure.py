"""Figures against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tokenworks.bench.measure import Objectives, RequestResult, distribution, samples_needed, summarise


def ok(index: int, **fields: Any) -> RequestResult:
    """Sent at `index` seconds: first token after 0.2 s, three more 0.1 s apart, the end 0.1 s later."""
    usual: dict[str, Any] = {
        "sent_s": float(index),
        "e2e_s": 0.6,
        "ttft_s": 0.2,
        "itl_s": [0.1, 0.1, 0.1],
        "input_tokens": 10,
        "output_tokens": 4,
        "asked_output_tokens": 4,
        "cached_tokens": 5,
        "cached_tokens_by_tier": {"device": 2, "disk": 3},
        "token_events": 4,
        "has_usage": True,
    }
    return RequestResult(index=index, outcome="ok", **(usual | fields))


def bad(index: int, outcome: Any = "failed", reason: str = "cut", message: str = "") -> RequestResult:
    return RequestResult(index=index, outcome=outcome, sent_s=float(index), e2e_s=1.0, reason=reason, message=message)


def test_percentiles_interpolate_linearly_and_say_when_samples_are_too_few() -> None:
    marks = distribution(float(value) for value in range(1, 101))
    assert (marks.count, marks.mean, marks.max) == (100, 50.5, 100.0)
    assert (marks.p50, marks.p95, marks.p99, marks.p99_9) == pytest.approx((50.5, 95.05, 99.01, 99.901))
    assert marks.thin == ("p99_9",)
    assert distribution([1.0] * 1000).thin == ()
    assert distribution([1.0] * 19).thin == ("p95", "p99", "p99_9")


def test_no_samples_make_no_marks() -> None:
    marks = distribution([None, None])
    assert (marks.count, marks.mean, marks.p50, marks.thin) == (0, None, None, ())


def test_a_percentile_needs_one_sample_beyond_it() -> None:
    assert [samples_needed(percent) for percent in (50.0, 95.0, 99.0, 99.9)] == [2, 20, 100, 1000]


def test_tpot_is_over_the_gaps_and_undefined_for_one_token() -> None:
    assert ok(0).tpot_s == pytest.approx(0.4 / 3)
    assert ok(0, output_tokens=1).tpot_s is None
    assert ok(0, ttft_s=None).tpot_s is None


def test_rates_divide_what_succeeded_by_first_send_to_last_end() -> None:
    summary = summarise([ok(1), ok(2), bad(4), bad(3, "rejected", "429 full")], Objectives())
    assert summary.wall_s == pytest.approx(4.0)
    assert (summary.ok, summary.failed, summary.rejected) == (2, 1, 1)
    assert summary.requests_per_s == pytest.approx(0.5)
    assert summary.tokens.input_per_s == pytest.approx(5.0)
    assert summary.tokens.output_per_s == pytest.approx(2.0)
    assert (summary.tokens.input, summary.tokens.output, summary.tokens.cached) == (20, 8, 10)
    assert summary.tokens.cached_by_tier == {"device": 4, "disk": 6}
    assert (summary.ttft_s.count, summary.itl_s.count, summary.tpot_s.count, summary.e2e_s.count) == (2, 6, 2, 2)
    assert summary.send_lag_s.count == 0
    assert summary.goodput is None


def test_send_lag_covers_every_request_with_a_due_instant() -> None:
    late = [ok(1, due_s=0.75), RequestResult(index=2, outcome="failed", sent_s=2.0, e2e_s=0.0, due_s=2.0)]
    assert summarise(late, Objectives()).send_lag_s.max == 0.25
    assert summarise(late, Objectives()).send_lag_s.count == 2


def test_reasons_are_counted_apart_with_an_example_and_the_most_frequent_first() -> None:
    results = [
        bad(0, reason="cut", message="first"),
        bad(1, "rejected", "429 full"),
        bad(2, reason="cut"),
        bad(3, reason="b"),
    ]
    reasons = summarise(results, Objectives()).reasons
    assert [(reason.outcome, reason.code, reason.count, reason.example) for reason in reasons] == [
        ("failed", "cut", 2, "first"),
        ("rejected", "429 full", 1, ""),
        ("failed", "b", 1, ""),
    ]


def test_goodput_counts_requests_that_meet_all_objectives_and_says_what_was_missed() -> None:
    results = [
        ok(0),
        ok(1, ttft_s=0.31),
        ok(2, itl_s=[0.05, 0.25]),
        ok(3, ttft_s=0.4, itl_s=[0.9]),
        bad(4),
    ]
    goodput = summarise(results, Objectives(ttft_s=0.3, itl_s=0.2)).goodput
    assert goodput is not None
    assert (goodput.met, goodput.share, goodput.missed) == (1, 0.2, {"ttft": 2, "itl": 2})
    assert goodput.requests_per_s == pytest.approx(1 / 5.0)


def test_gaps_that_do_not_exist_are_met_and_a_first_token_that_never_came_is_not() -> None:
    one_token = ok(0, itl_s=(), output_tokens=1)
    empty = ok(0, itl_s=(), output_tokens=0, ttft_s=None)
    tight = Objectives(itl_s=1e-9, tpot_s=1e-9)
    assert summarise([one_token], tight).goodput.met == 1  # type: ignore[union-attr]
    assert summarise([empty], Objectives(ttft_s=9.0)).goodput.missed == {"ttft": 1}  # type: ignore[union-attr]


def test_missing_usage_and_short_answers_are_counted() -> None:
    tokens = summarise([ok(0, has_usage=False, cached_tokens=None), ok(1, asked_output_tokens=9)], Objectives()).tokens
    assert (tokens.uncounted_requests, tokens.short_requests, tokens.cached) == (1, 1, 5)


def test_a_run_without_results_has_no_figures() -> None:
    summary = summarise([], Objectives(ttft_s=1.0))
    assert (summary.wall_s, summary.requests_per_s, summary.goodput, summary.tokens.cached) == (0.0, 0.0, None, None)
