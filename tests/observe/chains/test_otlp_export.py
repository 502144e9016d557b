"""Our spans on their way out: what a collector gets, and what happens while it is busy, broken or dead."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as RawSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from starlette.responses import Response

import tokenworks
from tests.observe.made import record as made
from tests.observe.otlp_rig import Receiver, running
from tokenworks.contract.config import ExportSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Leg, Record, Stage
from tokenworks.observe.chains import otlp_export
from tokenworks.observe.chains.otlp_encode import encoded
from tokenworks.observe.chains.otlp_export import MAX_QUEUED, SpanExporter
from tokenworks.observe.chains.otlp_target import Target, target_of
from tokenworks.observe.chains.own_spans import spans_of

PATIENCE_S = 60.0  # a bound for a busy machine, not an expectation


def record(number: int = 0, **fields: Any) -> Record:
    trace = f"{number + 1:032x}"
    return made(number, trace_id=trace, span_id=f"{number + 1:016x}", endpoint="/v1/chat/completions", **fields)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_export, "GATHER_S", 0.0)


@asynccontextmanager
async def exporting(url: str, **options: Any) -> AsyncIterator[SpanExporter]:
    """An exporter at work that waits a hundredth of what it would."""
    exporter = SpanExporter(Target(f"{url}/v1/traces", {"x-key": "secret"}), wait=lambda s: s / 100, **options)
    task = asyncio.create_task(exporter.run())
    try:
        yield exporter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def values(pairs: list[KeyValue]) -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


def raw_spans(*records: Record, zone: str = "") -> list[RawSpan]:
    """As any OpenTelemetry program decodes them."""
    request = ExportTraceServiceRequest.FromString(encoded(records, zone).SerializeToString())
    return list(request.resource_spans[0].scope_spans[0].spans)


def test_a_request_is_a_span_by_the_conventions() -> None:
    told = record(
        tags={"team": "search"},
        finish_reasons=["stop", "length"],
        num_sequences=2,
        cached_tokens={Tier.DEVICE: 3, Tier.HOST: 4},
        parent_span_id="ab" * 8,
        legs=[Leg("w1", reason="prefix", start_ns=5, span_ns=10**9)],
    )
    request = raw_spans(told)[0]
    found = values(list(request.attributes))
    reasons = found.pop("gen_ai.response.finish_reasons")
    assert [value.string_value for value in reasons.values] == ["stop", "length"]  # type: ignore[attr-defined]
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tokenworks",
        "gen_ai.request.model": "qwen",
        "gen_ai.response.model": "qwen",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 7,
        "gen_ai.request.choice.count": 2,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "tokenworks.request.id": "req-0",
        "tokenworks.tenant": "anna",
        "tokenworks.scenario": "online",
        "tokenworks.ttft_s": 0.25,
        "tokenworks.worker": "w1",
        "tokenworks.tag.team": "search",
    }
    assert (request.name, request.kind) == ("chat qwen", RawSpan.SPAN_KIND_SERVER)
    assert (request.trace_id.hex(), request.span_id.hex()) == (told.trace_id, told.span_id)
    assert request.parent_span_id == b"\xab" * 8
    assert request.end_time_unix_nano - request.start_time_unix_nano == told.e2e_ns
    (event,) = request.events
    assert (event.name, event.time_unix_nano) == ("tokenworks.leg", told.started_ns + 5)
    assert values(list(event.attributes))["tokenworks.leg.reason"] == "prefix"


def test_its_stages_are_spans_below_it_that_fill_its_time() -> None:
    told = record(stages_ns={Stage.DECODE: 600, Stage.LOST: 100, Stage.ROUTE: 200, Stage.QUEUE: 0}, e2e_ns=900)
    request, *stages = raw_spans(told)
    assert [stage.name for stage in stages] == ["route", "lost", "decode"]
    assert {stage.parent_span_id for stage in stages} == {request.span_id}
    edges = [request.start_time_unix_nano, *(stage.end_time_unix_nano for stage in stages)]
    assert edges == [*(stage.start_time_unix_nano for stage in stages), request.end_time_unix_nano]
    assert len({stage.span_id for stage in stages}) == 3
    assert raw_spans(told) == [request, *stages]


@pytest.mark.parametrize(
    ("outcome", "status", "is_error"),
    [
        ("ok", 200, False),
        ("invalid_value", 400, False),
        ("rate_limited", 429, False),
        ("no_worker", 503, True),
        ("engine_failed", 200, True),  # a stream that had begun
        ("internal_error", 0, True),
        ("client_gone", 0, False),
    ],
)
def test_the_span_is_an_error_where_the_server_failed(outcome: str, status: int, is_error: bool) -> None:
    request = raw_spans(record(outcome=outcome, status=status))[0]
    assert (request.status.code == Status.STATUS_CODE_ERROR) == is_error
    assert values(list(request.attributes)).get("error.type") == (None if outcome == "ok" else outcome)


def test_a_record_without_a_trace_is_no_span() -> None:
    assert raw_spans(made(), made(trace_id="1" * 32)) == []


async def test_what_we_export_our_own_ingest_takes_in_unchanged() -> None:
    receiver = Receiver()
    with running(receiver.traces) as url:
        async with exporting(url, zone="zone-a") as exporter:
            exporter.offer([record(1), made(), record(2)])
            await until(lambda: exporter.counts.exported_requests == 2)
    wanted = [span for number in (1, 2) for span in spans_of(record(number), "zone-a")]
    version = {"service.version": tokenworks.__version__}
    assert receiver.spans == [replace(span, attributes=span.attributes | version) for span in wanted]
    assert receiver.headers[0]["x-key"] == "secret"
    assert receiver.intake.counts.cut == receiver.intake.counts.rejected == 0


async def test_a_collector_that_is_busy_is_asked_again_and_gets_the_same() -> None:
    receiver = Receiver()
    receiver.answers = [Response(status_code=503), Response(status_code=429, headers={"retry-after": "0"})]
    with running(receiver.traces) as url:
        async with exporting(url) as exporter:
            exporter.offer([record(1)])
            await until(lambda: exporter.counts.exported_requests == 1)
    assert (exporter.num_retries, exporter.counts.dropped_requests) == (2, 0)
    assert len(receiver.spans) == 3
    assert {gzip.decompress(body) for body in receiver.bodies} == {encoded([record(1)]).SerializeToString()}


async def test_what_a_collector_takes_in_part_is_told(caplog: pytest.LogCaptureFixture) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "too old"
    receiver = Receiver()
    receiver.answers = [Response(answer.SerializeToString()), Response(b"thank you \xff")]
    with running(receiver.traces) as url:
        async with exporting(url) as exporter:
            for number in (1, 2):
                exporter.offer([record(number)])
                await until(lambda wanted=number: exporter.counts.exported_requests == wanted)
    assert [line.getMessage() for line in caplog.records] == ["the collector rejected 2 spans: too old"]


async def test_what_a_collector_refuses_is_dropped_at_once_and_the_next_is_sent() -> None:
    receiver = Receiver()
    receiver.answers = [Response(status_code=400)]
    with running(receiver.traces) as url:
        async with exporting(url) as exporter:
            exporter.offer([record(1)])
            await until(lambda: exporter.counts.dropped_requests == 1)
            exporter.offer([record(2)])
            await until(lambda: exporter.counts.exported_requests == 1)
    assert exporter.num_retries == 0


async def test_a_collector_that_is_dead_costs_its_batches_and_comes_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    receiver = Receiver()
    async with exporting(f"http://127.0.0.1:{port}") as exporter:
        exporter.offer([record(1)])
        await until(lambda: exporter.counts.dropped_requests == 1)
        assert exporter.num_retries == otlp_export.MAX_TRIES - 1
        with running(receiver.traces, port):
            exporter.offer([record(2)])
            await until(lambda: exporter.counts.exported_requests == 1)
    assert {span.trace_id for span in receiver.spans} == {record(2).trace_id}


async def test_while_nobody_sends_the_queue_keeps_the_newest() -> None:
    exporter = SpanExporter(Target("http://127.0.0.1:1/v1/traces"))
    exporter.offer(record(number) for number in range(MAX_QUEUED + 10))
    assert (exporter.num_queued, exporter.counts.dropped_requests) == (MAX_QUEUED, 10)


async def test_a_header_that_cannot_be_sent_ends_nothing() -> None:
    exporter = SpanExporter(Target("http://127.0.0.1:1/v1/traces", {"x": "a\nb"}), wait=lambda s: 0.001)
    task = asyncio.create_task(exporter.run())
    exporter.offer([record(1)])
    await until(lambda: exporter.counts.dropped_requests == 1)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("setting", "environment", "url"),
    [
        ("", {}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("http://c:4318/", {ENDPOINT: "http://other"}, "http://c:4318/v1/traces"),
        ("http://c:4318/v1/traces", {TRACES: "http://other"}, "http://c:4318/v1/traces"),
        ("", {ENDPOINT: "https://c/otlp"}, "https://c/otlp/v1/traces"),
        ("", {ENDPOINT: "http://c", TRACES: "http://d/any"}, "http://d/any"),
    ],
)
def test_the_collector_is_the_settings_or_the_standard_environments(
    setting: str, environment: dict[str, str], url: str | None
) -> None:
    target = target_of(ExportSettings(otlp_endpoint=setting), environment)
    assert (target and target.url) == url


def test_headers_come_from_the_standard_environment() -> None:
    names = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, bad,k=v", ENDPOINT: "http://c"}
    target = target_of(ExportSettings(), names)
    assert target == Target("http://c/v1/traces", {"authorization": "Bearer x", "k": "v"})


@pytest.mark.parametrize("address", ["collector:4318", "grpc://c:4317", "http://", "c"])
def test_what_is_no_address_is_refused_with_what_to_write(address: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:4318"):
        target_of(ExportSettings(otlp_endpoint=address), {})
