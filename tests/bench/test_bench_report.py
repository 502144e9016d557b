"""The page and the JSON line: same figures, stable keys, and notes for whoever quotes them."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from tokenworks.bench.measure import Objectives, RequestResult, summarise
from tokenworks.bench.progress import describe, show_progress
from tokenworks.bench.report import Report, TraceUse, Workload, format_ms, notes, print_page, to_json
from tokenworks.bench.run import Tally

WORKLOAD = Workload(
    rate=4.0,
    concurrency=None,
    max_requests=4,
    duration_s=600.0,
    input_tokens="10",
    output_tokens="3",
    prompts="token ids",
    ignore_eos=True,
    temperature=0.0,
    seed=0,
)


def result(index: int, **fields: Any) -> RequestResult:
    usual: dict[str, Any] = {
        "index": index,
        "outcome": "ok",
        "sent_s": 0.0,
        "due_s": 0.0,
        "e2e_s": 1.0,
        "ttft_s": 0.5,
        "itl_s": [0.25, 0.25],
        "input_tokens": 10,
        "output_tokens": 3,
        "asked_output_tokens": 3,
        "cached_tokens": 5,
        "cached_tokens_by_tier": {"device": 4, "host": 1, "disk": 0},
        "token_events": 3,
        "has_usage": True,
    }
    return RequestResult(**(usual | fields))


RESULTS = [
    result(0),
    result(1, ttft_s=0.75),
    RequestResult(index=2, outcome="failed", sent_s=0.0, e2e_s=2.0, reason="cut", message="[red]x" + "y" * 200),
    RequestResult(index=3, outcome="rejected", sent_s=0.0, e2e_s=0.1, reason="429 full"),
]


def report(results: list[RequestResult] = RESULTS, **fields: Any) -> Report:
    objectives = fields.pop("objectives", Objectives(ttft_s=0.6))
    usual: dict[str, Any] = {
        "started_at": "2026-01-01T00:00:00+00:00",
        "url": "http://h/v1/completions",
        "model": "m",
        "workload": WORKLOAD,
        "objectives": objectives,
        "summary": summarise(results, objectives),
        "sent": len(results),
        "abandoned": 0,
        "peak_in_flight": 4,
        "interrupted": False,
        "is_cut_short": False,
        "client_cpu_s": 0.1,
    }
    return Report(**(usual | fields))


def page(of: Report) -> str:
    out = io.StringIO()
    print_page(of, Console(file=out, width=110))
    return out.getvalue()


def test_the_page_says_what_was_asked_what_happened_and_how_fast() -> None:
    lines = [line.rstrip() for line in page(report()).splitlines()]
    assert lines[:10] == [
        "tokenworks bench  m at http://h/v1/completions",
        "open loop, Poisson 4 req/s · input 10, output 3 tokens, length forced · prompts as token ids · seed 0",
        "",
        "  requests  4 sent in 2.0 s: 2 ok, 1 failed, 1 rejected · at most 4 in flight",
        "  rejected  1 x 429 full",
        "    failed  1 x cut: [red]x" + "y" * 91 + "...",
        "throughput  1.00 req/s · 10 input tok/s · 3 output tok/s · 50.0% of input cached (device 40.0%, host 10.0%)",
        "   goodput  0.50 req/s met every objective (1 of 4, 25.0%)",
        "",
        "        ms   mean    P50     P95     P99   P99.9    max  objective  met by",
    ]
    assert lines[10].split() == ["TTFT", "625", "625", "738*", "748*", "750*", "750", "<=", "600", "50.0%"]
    assert lines[11].split() == ["ITL", "250", "250", "250*", "250*", "250*", "250"]
    assert lines[13].split()[:3] == ["E2E", "1,000", "1,000"]


def test_a_run_without_any_success_still_has_a_page() -> None:
    text = page(report(RESULTS[2:]))
    assert "0 ok" in text
    assert text.count("-") >= 24  # four metrics, six marks each


def test_the_json_keys_are_stable_and_in_base_units() -> None:
    fields = json.loads(to_json(report()))
    assert list(fields) == [
        *("schema", "started_at", "url", "model", "workload", "objectives", "sent", "abandoned", "peak_in_flight"),
        *("interrupted", "is_cut_short", "client_cpu_s", "ok", "failed", "rejected", "reasons", "wall_s"),
        *("requests_per_s", "tokens", "ttft_s", "itl_s", "tpot_s", "e2e_s", "send_lag_s", "goodput", "notes"),
    ]
    assert list(fields["ttft_s"]) == ["count", "mean", "p50", "p95", "p99", "p99_9", "max", "thin"]
    assert (fields["schema"], fields["ttft_s"]["mean"], fields["e2e_s"]["max"]) == ("tokenworks.bench/1", 0.625, 1.0)
    assert b"\n" not in to_json(report())


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "too few samples"),
        ({"remarks": ("prompts are text",)}, "prompts are text"),
        ({"interrupted": True, "abandoned": 7}, "7 requests in flight were dropped"),
        ({"is_cut_short": True}, "600 s was over before"),
        ({"results": [result(0, has_usage=False)]}, "1 responses had no usage"),
        ({"results": [result(0, asked_output_tokens=9)]}, "1 responses ended before the asked length"),
        ({"results": [result(0, token_events=1)]}, "One event carried 3.00 tokens"),
        ({"results": [result(0, due_s=-0.001)]}, "Sends left 1.00 ms (P99) and 1.00 ms (max) after their instants."),
        ({"results": [result(0, due_s=-0.2)]}, "the client was too slow"),
        ({"client_cpu_s": 1.9}, "kept its core busy"),
    ],
)
def test_what_a_reader_must_know_is_a_note(changes: dict[str, Any], note: str) -> None:
    assert note in "\n".join(notes(report(**changes)))


@pytest.mark.parametrize(
    ("scales", "note"),
    [
        ((1.0, 1.0, 1.0, 9), "Trace replayed as recorded: 9 requests."),
        ((2.0, 0.1, 0.5, 4), "speed x2, lengths x0.1, rate x0.5 (kept 4 of 9 requests, whole conversations)"),
    ],
)
def test_a_trace_and_its_scaling_are_stated(scales: tuple[float, float, float, int], note: str) -> None:
    speed, length, rate, kept = scales
    use = TraceUse("t.jsonl", "mooncake", speed=speed, length_scale=length, rate_scale=rate, records=9, kept=kept)
    replay = report(workload=msgspec.structs.replace(WORKLOAD, trace=use, rate=None))
    assert note in page(replay)
    assert "open loop · trace t.jsonl (mooncake)" in page(replay)


def test_a_closed_loop_names_its_concurrency() -> None:
    assert "closed loop, 8 in flight" in page(report(workload=msgspec.structs.replace(WORKLOAD, concurrency=8)))


def test_milliseconds_are_short() -> None:
    assert [format_ms(seconds) for seconds in (0.00123, 0.0456, 0.789, 12.3456)] == ["1.23", "45.6", "789", "12,346"]


def test_the_progress_line_names_trouble_only_when_there_is_some() -> None:
    assert describe(Tally(in_flight=3), 1234.4) == "3 in flight  1,234 tok/s"
    troubled = describe(Tally(failed=1, rejected=2), 0.0)
    assert "2 rejected" in troubled
    assert "1 failed" in troubled


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_progress_draws_on_a_terminal_only(is_terminal: bool) -> None:
    out = io.StringIO()
    async with show_progress(Tally(ok=2), 5, Console(file=out, force_terminal=is_terminal)):
        while is_terminal and "2/5" not in out.getvalue():
            await asyncio.sleep(0.02)
    assert bool(out.getvalue()) == is_terminal
