"""Dependencies over many traces, against figures computed by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.observe.made import MINUTE_NS, NOON_NS, record, span
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.record import Record, Stage
from tokenworks.observe.chains import breakdown as module
from tokenworks.observe.chains.breakdown import Breakdown, Dependency, breakdown, covered_ns
from tokenworks.observe.chains.chain import chain_of
from tokenworks.observe.ledger import Span, Window

WINDOW = Window(NOON_NS - MINUTE_NS, NOON_NS + MINUTE_NS)
MS = 1_000_000


def call(trace: str, start_ms: int, end_ms: int, parent: str = "", **fields: Any) -> Record:
    """A model call, half prefill and half decode."""
    e2e_ns = (end_ms - start_ms) * MS
    return record(
        ended_ns=NOON_NS + end_ms * MS,
        e2e_ns=e2e_ns,
        trace_id=trace,
        span_id=f"{trace}-call",
        parent_span_id=parent,
        stages_ns={Stage.PREFILL: e2e_ns // 2, Stage.DECODE: e2e_ns - e2e_ns // 2},
        endpoint="/v1/chat/completions",
        **fields,
    )


def application(trace: str, search_ms: int, *, hit: bool, zone: str = "b") -> list[Span]:
    """A root, a search, and a cache that asks its origin on a miss; the model is called for 100 ms from 500 ms on."""
    spans = [
        span(f"{trace}-root", 0, 600, name="answer", kind="server", trace_id=trace, attributes={ZONE: "a"}),
        span(f"{trace}-search", 0, search_ms, f"{trace}-root", name="search", trace_id=trace),
        span(f"{trace}-cache", 400, 450, f"{trace}-root", name="cache", trace_id=trace, attributes={"cache.hit": hit}),
    ]
    if not hit:
        asked = span(
            f"{trace}-get",
            410,
            450,
            f"{trace}-cache",
            name="GET",
            kind="client",
            trace_id=trace,
            attributes={ZONE: "a"},
        )
        given = span(
            f"{trace}-origin",
            420,
            440,
            f"{trace}-get",
            name="passage",
            kind="server",
            service="origin",
            trace_id=trace,
            attributes={ZONE: zone},
        )
        spans += [asked, given]
    return spans


ZONE = "cloud.availability_zone"


def of(found: Breakdown, name: str) -> Dependency:
    (row,) = [row for row in found.rows if row.name == name]
    return row


def test_a_chain_joins_the_record_to_the_span_that_called_it() -> None:
    ledger = MemoryLedger([call("t", 500, 600, "t-root")], spans=application("t", 100, hit=False))
    chain = chain_of(ledger, "t")
    assert chain is not None
    held_ms = {link.span.name: link.critical_ns / MS for link in chain.links}
    assert held_ms == {
        "answer": 350,  # 100 to 400 and 450 to 500
        "search": 100,
        "cache": 10,
        "GET": 20,
        "passage": 20,
        "chat qwen": 0,
        "prefill": 50,
        "decode": 50,
    }
    assert sum(held_ms.values()) * MS == chain.duration_ns
    assert [link.depth for link in chain.links] == [0, 1, 1, 2, 3, 1, 2, 2]
    assert chain.request_ids == ["req-0"]
    last = chain.links[-1]
    assert (last.span.name, last.span.service) == ("decode", "tokenworks")
    assert last.critical_ns / chain.duration_ns == pytest.approx(0.083, abs=0.001)


def test_a_trace_without_spans_of_others_is_the_request_alone_and_an_unknown_one_is_none() -> None:
    ledger = MemoryLedger([call("t", 0, 100)])
    chain = chain_of(ledger, "t")
    assert chain is not None
    assert [link.span.name for link in chain.links] == ["chat qwen", "prefill", "decode"]
    assert chain_of(ledger, "other") is None


def test_every_model_call_of_a_trace_is_in_it() -> None:
    first = call("t", 500, 540, "t-root")
    second = msgspec.structs.replace(call("t", 550, 590, "t-root", id="two"), span_id="t-again")
    chain = chain_of(MemoryLedger([first, second], spans=application("t", 100, hit=True)), "t")
    assert chain is not None
    assert chain.request_ids == ["req-0", "two"]
    assert [link.span.name for link in chain.links].count("decode") == 2


def test_spans_that_we_exported_and_got_back_count_once() -> None:
    own = call("t", 0, 100)
    alone = chain_of(MemoryLedger([own]), "t")
    assert alone is not None
    twice = chain_of(MemoryLedger([own], spans=[link.span for link in alone.links]), "t")
    assert twice == alone


def test_a_trace_that_only_our_own_export_told_of_is_no_application() -> None:
    alone = chain_of(MemoryLedger([call("t", 0, 100)]), "t")
    assert alone is not None
    found = breakdown(MemoryLedger([call("t", 0, 100)], spans=[link.span for link in alone.links]), WINDOW)
    assert (found.traces, found.requests) == (0, 1)


def test_rates_and_shares_are_those_computed_by_hand() -> None:
    hits = [True, True, True, False]
    spans = [each for index, hit in enumerate(hits) for each in application(f"t{index}", 100, hit=hit)]
    spans[1] = msgspec.structs.replace(spans[1], is_error=True)
    calls = [call(f"t{index}", 500, 600, f"t{index}-root", id=f"r{index}") for index in range(4)]
    found = breakdown(MemoryLedger([*calls, call("alone", 0, 50, id="x")], spans=spans), WINDOW)
    assert (found.traces, found.requests, found.incomplete, found.tail_traces) == (4, 5, 0, 1)
    assert found.p99_s == pytest.approx(0.6, rel=0.011)
    assert of(found, "search").error_rate == 0.25
    assert of(found, "search").hit_rate is None
    assert of(found, "cache").hit_rate == 0.75
    assert of(found, "cache").origin_p99_s == pytest.approx(0.04, rel=0.011)
    assert of(found, "decode").critical_share == pytest.approx(50 / 600)
    assert sum(row.critical_share for row in found.rows) == pytest.approx(1)
    assert sum(row.tail_share for row in found.rows) == pytest.approx(1)
    assert of(found, "GET").cross_zone_share == of(found, "passage").cross_zone_share == 1.0
    assert of(found, "answer").cross_zone_share is None


def test_the_tail_shows_what_the_slowest_traces_waited_for() -> None:
    spans, calls = [], []
    for index in range(200):
        is_slow = index < 2
        length = 5000 if is_slow else 600
        root = span(f"r{index}", 0, length, trace_id=f"t{index}", name="answer")
        search = span(f"s{index}", 0, 4500 if is_slow else 100, f"r{index}", trace_id=f"t{index}", name="search")
        spans += [root, search]
        calls.append(call(f"t{index}", length - 100, length, f"r{index}", id=f"r{index}"))
    found = breakdown(MemoryLedger(calls, spans=spans), WINDOW)
    assert found.tail_traces == 2
    assert found.rows[0].name == "search"
    assert found.rows[0].tail_share == pytest.approx(0.9)
    assert found.rows[0].tail_s == pytest.approx(4.5)
    assert of(found, "search").critical_share < 0.3


def test_a_peer_that_sends_no_spans_may_be_named_by_its_zone() -> None:
    near, far = ({ZONE: "a", "tokenworks.peer.zone": zone} for zone in "ab")
    spans = [
        span("root", 0, 600, trace_id="t", name="answer"),
        span("n", 0, 10, "root", trace_id="t", name="redis", kind="client", attributes=near),
        span("f", 20, 30, "root", trace_id="t", name="redis", kind="client", attributes=far),
        span("u", 40, 50, "root", trace_id="t", name="unknown", kind="client", attributes={ZONE: "a"}),
    ]
    found = breakdown(MemoryLedger([call("t", 500, 600, "root")], spans=spans), WINDOW, zone="a")
    assert of(found, "redis").cross_zone_share == 0.5
    assert of(found, "unknown").cross_zone_share is None


def test_our_own_zone_counts_for_the_model_call() -> None:
    caller = span("c", 490, 600, "t-root", trace_id="t", name="ask", kind="client", attributes={ZONE: "a"})
    ledger = MemoryLedger([call("t", 500, 600, "c")], spans=[*application("t", 100, hit=True), caller])
    assert of(breakdown(ledger, WINDOW, zone="a"), "ask").cross_zone_share == 0.0
    assert of(breakdown(ledger, WINDOW, zone="z"), "ask").cross_zone_share == 1.0
    assert of(breakdown(ledger, WINDOW), "ask").cross_zone_share is None


def test_a_million_names_fold_into_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    names = [span(f"n{n}", n * 10, n * 10 + 9 - n / 10, "t-root", trace_id="t", name=f"hostile {n}") for n in range(20)]
    spans = [*application("t", 100, hit=True), *names, span("o", 0, 1, "t-root", trace_id="t", service="(others)")]
    found = breakdown(MemoryLedger([call("t", 500, 600, "t-root")], spans=spans), WINDOW)
    assert len(found.rows) == 4
    rest = of(found, "(others)")
    assert rest.count > 15
    assert sum(row.critical_share for row in found.rows) == pytest.approx(1)


def test_without_traces_there_is_nothing_to_divide() -> None:
    found = breakdown(MemoryLedger(), WINDOW)
    assert (found.traces, found.rows, found.p50_s) == (0, [], None)


def test_time_that_several_cover_counts_once() -> None:
    assert covered_ns([span("a", 0, 10), span("b", 5, 20), span("c", 30, 31), span("d", 6, 7)]) == 21 * MS
    assert covered_ns([]) == 0
