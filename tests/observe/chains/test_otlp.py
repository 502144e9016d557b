"""What OpenTelemetry sends becomes bounded spans, whatever a stranger puts into it."""

from __future__ import annotations

import json
import random

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span as RawSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.observe.made import NOON_NS
from tests.observe.otlp_rig import SPAN_ID, TRACE_ID, export, raw_span, text
from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.chains import otlp
from tokenworks.observe.chains.otlp import Decoded, decode_json, decode_protobuf, spans_in
from tokenworks.observe.ledger import Span


def decoded(*spans: RawSpan) -> Decoded:
    return spans_in(decode_protobuf(export(*spans).SerializeToString()), NOON_NS)


def attributes(*pairs: KeyValue) -> dict[str, object]:
    (span,) = decoded(raw_span(attributes=pairs)).spans
    return {key: value for key, value in span.attributes.items() if key != "cloud.availability_zone"}


def test_a_span_comes_through_as_it_was_sent() -> None:
    raw = raw_span(
        parent_span_id=b"\1" * 8,
        status=Status(code=Status.STATUS_CODE_ERROR),
        attributes=[text("db.system.name", "redis"), KeyValue(key="cache.hit", value=AnyValue(bool_value=False))],
    )
    assert decoded(raw).spans == [
        Span(
            trace_id=TRACE_ID.hex(),
            span_id=SPAN_ID.hex(),
            parent_span_id="01" * 8,
            service="shop",
            name="search",
            kind="client",
            started_ns=NOON_NS,
            duration_ns=5_000_000,
            is_error=True,
            attributes={"cloud.availability_zone": "zone-a", "db.system.name": "redis", "cache.hit": False},
        )
    ]


def test_json_says_the_same_as_protobuf() -> None:
    pairs = [
        text("a", "x"),
        KeyValue(key="n", value=AnyValue(int_value=1 << 60)),
        KeyValue(key="f", value=AnyValue(double_value=0.5)),
        KeyValue(key="l", value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="y")] * 2))),
    ]
    request = export(raw_span(parent_span_id=b"\2" * 8, attributes=pairs), raw_span())
    table = MessageToDict(request)
    for raw, each in zip(request.resource_spans[0].scope_spans[0].spans, _spans(table), strict=True):
        each |= {"traceId": raw.trace_id.hex().upper(), "spanId": raw.span_id.hex()}
        each |= {"parentSpanId": raw.parent_span_id.hex()}
        each |= {"kind": raw.kind, "unknownField": [1]}  # enumerations are numbers in OTLP
    assert spans_in(decode_json(json.dumps(table).encode()), NOON_NS) == spans_in(request, NOON_NS)


def _spans(table: dict) -> list[dict]:  # type: ignore[type-arg]
    return table["resourceSpans"][0]["scopeSpans"][0]["spans"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b""}, "trace id"),
        ({"trace_id": b"\1" * 15}, "trace id"),
        ({"trace_id": bytes(16)}, "trace id"),
        ({"span_id": bytes(8)}, "span id"),
        ({"span_id": b"\1" * 9}, "span id"),
        ({"parent_span_id": b"\1" * 3}, "parent span id"),
        ({"start_time_unix_nano": 0}, "start"),
        ({"end_time_unix_nano": 0}, "end"),
        ({"start_time_unix_nano": (1 << 64) - 1}, "future"),
        ({"end_time_unix_nano": NOON_NS + 2 * otlp.MAX_AHEAD_NS}, "future"),
    ],
)
def test_a_span_that_cannot_be_is_rejected_and_the_others_are_kept(fields: dict[str, object], reason: str) -> None:
    found = decoded(raw_span(**fields), raw_span())
    assert (len(found.spans), found.rejected) == (1, 1)
    assert reason in found.reason


def test_a_clock_that_was_set_back_gives_a_span_no_negative_time() -> None:
    assert decoded(raw_span(end_time_unix_nano=NOON_NS - 1)).spans[0].duration_ns == 0


def test_of_too_many_attributes_those_are_kept_that_matter() -> None:
    many = [text(f"note.{number}", "x") for number in range(1000)]
    found = decoded(raw_span(attributes=[*many, text("db.system.name", "redis"), text("tokenworks.peer.zone", "b")]))
    (span,) = found.spans
    assert len(span.attributes) == otlp.MAX_ATTRIBUTES
    assert {"db.system.name", "tokenworks.peer.zone", "cloud.availability_zone"} <= set(span.attributes)
    assert (found.cut, found.rejected) == (1, 0)


def test_long_values_and_names_are_cut_and_counted() -> None:
    found = decoded(raw_span(name="n" * 5000), raw_span(attributes=[text("db.query.text", "SELECT " * 10_000)]))
    assert found.cut == 2
    assert len(found.spans[0].name) == otlp.MAX_NAME_CHARS
    assert len(str(found.spans[1].attributes["db.query.text"])) == otlp.MAX_VALUE_CHARS


def test_values_that_are_kept_nowhere_are_left_out() -> None:
    endless = AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=7)] * 100_000))
    nested = AnyValue(array_value=ArrayValue(values=[endless, AnyValue(string_value="a")]))
    found = attributes(
        KeyValue(key="bytes", value=AnyValue(bytes_value=b"x")),
        KeyValue(key="table", value=AnyValue(kvlist_value=KeyValueList(values=[text("a", "b")]))),
        KeyValue(key="nan", value=AnyValue(double_value=float("nan"))),
        KeyValue(key="none"),
        KeyValue(key="k" * 500, value=AnyValue(int_value=1)),
        KeyValue(key="endless", value=endless),
        KeyValue(key="nested", value=nested),
    )
    assert set(found) == {"endless", "nested"}
    assert len(str(found["endless"])) == otlp.MAX_VALUE_CHARS
    assert found["nested"] == "a"


def test_text_that_a_database_may_not_take_is_cleaned() -> None:
    found = decoded(raw_span(name="a\0b", attributes=[text("k\0", "v\0v")])).spans[0]
    assert (found.name, found.attributes["k"]) == ("ab", "vv")


def test_more_spans_than_an_exporter_sends_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "MAX_SPANS", 3)
    found = decoded(*[raw_span()] * 5)
    assert (len(found.spans), found.rejected, found.reason) == (3, 2, "more than 3 spans at once")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff\xff",
        b"[]",
        b"{",
        b'"x"',
        b'{"resourceSpans": 1}',
        b'{"resourceSpans": [1]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xyz"}]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"soon"}]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\\ud800"}]}]}]}',
        b'{"resourceSpans":' * 5000 + b"1" + b"}" * 5000,
        b'{"resourceSpans":[{"resource":{"attributes":[{"value":' + b'{"arrayValue":{"values":[' * 200,
    ],
)
def test_what_is_no_json_of_spans_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="in JSON"):
        decode_json(body)


def test_bits_flipped_anywhere_give_spans_or_a_refusal_and_never_a_crash() -> None:
    body = export(*[raw_span(attributes=[text("a", "b")])] * 3).SerializeToString()
    rng = random.Random(7)
    outcomes = set()
    for _ in range(3000):
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            found = spans_in(decode_protobuf(bytes(damaged)), NOON_NS)
        except InvalidRequest:
            outcomes.add("refused")
        else:
            outcomes.add("rejected" if found.rejected else "spans")
            assert all(len(span.attributes) <= otlp.MAX_ATTRIBUTES for span in found.spans)
    assert outcomes == {"refused", "rejected", "spans"}
