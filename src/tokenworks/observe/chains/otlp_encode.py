"""Records as an ExportTraceServiceRequest: what `own_spans` makes of them, in OpenTelemetry's protobuf.

Each leg (a sending to a worker) is an event of the request's span, at the time when it was sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

import tokenworks
from tokenworks.contract.record import Leg, Record
from tokenworks.observe.chains.own_spans import SERVICE, spans_of
from tokenworks.observe.ledger import Attribute, Span

_KINDS: Final = {
    "internal": trace_pb2.Span.SPAN_KIND_INTERNAL,
    "server": trace_pb2.Span.SPAN_KIND_SERVER,
}
_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"


def encoded(records: Iterable[Record], zone: str = "") -> ExportTraceServiceRequest:
    """One request with the spans of all records that carry a trace."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    place = {"service.name": SERVICE, "service.version": tokenworks.__version__, "cloud.availability_zone": zone}
    resource_spans.resource.attributes.extend(_pair(key, value) for key, value in place.items() if value)
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = SERVICE
    for record in records:
        spans = spans_of(record)
        scope_spans.spans.extend(map(_span, spans))
        if spans:
            _complete(scope_spans.spans[-len(spans)], record)
    return request


def _span(span: Span) -> trace_pb2.Span:
    raw = trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_span_id),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.started_ns,
        end_time_unix_nano=span.started_ns + span.duration_ns,
        attributes=[_pair(key, value) for key, value in span.attributes.items()],
    )
    if span.is_error:
        raw.status.code = trace_pb2.Status.STATUS_CODE_ERROR
    return raw


def _complete(raw: trace_pb2.Span, record: Record) -> None:
    """What a request's span has that a ledger's has no room for: lists, tags and events."""
    if record.finish_reasons:
        values = [AnyValue(string_value=reason) for reason in record.finish_reasons]
        raw.attributes.append(KeyValue(key=_FINISH_REASONS, value=AnyValue(array_value=ArrayValue(values=values))))
    raw.attributes.extend(_pair(f"tokenworks.tag.{key}", value) for key, value in record.tags.items())
    raw.events.extend(_event(leg, record.started_ns) for leg in record.legs)


def _event(leg: Leg, started_ns: int) -> trace_pb2.Span.Event:
    said: dict[str, Attribute] = {
        "tokenworks.worker": leg.worker,
        "tokenworks.leg.kind": leg.kind,
        "tokenworks.leg.reason": leg.reason,
        "tokenworks.leg.outcome": leg.outcome,
        "tokenworks.leg.span_s": leg.span_ns / 1e9,
    }
    return trace_pb2.Span.Event(
        name="tokenworks.leg",
        time_unix_nano=started_ns + leg.start_ns,
        attributes=[_pair(key, value) for key, value in said.items()],
    )


def _pair(key: str, value: Attribute) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value))
