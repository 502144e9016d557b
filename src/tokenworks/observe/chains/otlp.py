"""Spans out of what OpenTelemetry sends: an ExportTraceServiceRequest in protobuf or JSON, decoded and made to fit.

Source: the OTLP specification (opentelemetry.io/docs/specs/otlp). In its JSON encoding ids are hexadecimal, unlike what
protobuf's JSON mapping says of bytes; everything else is that mapping.

Whatever a stranger sends, what comes out is bounded: a span that cannot be kept (no id, no time, a time that cannot be)
is rejected, one that is too large is cut; both are counted. Attributes that a breakdown needs come first, others as far
as there is room.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import Attribute, Span

MAX_SPANS: Final = 10_000  # of one request; exporters send 512
MAX_ATTRIBUTES: Final = 32
MAX_VALUE_CHARS: Final = 256
MAX_NAME_CHARS: Final = 128
MAX_AHEAD_NS: Final = 24 * 3600 * 10**9
"""A span that starts later than this from now has a wrong clock: it would outlive every rule of retention."""
KEPT_FIRST: Final = (
    "tokenworks.",
    "cache.",
    "db.",
    "gen_ai.",
    "http.",
    "rpc.",
    "server.",
    "messaging.",
    "error.",
    "url.",
    "network.",
    "peer.",
)
_OF_RESOURCE: Final = ("cloud.availability_zone", "cloud.region", "host.name", "service.version", "service.namespace")
_KINDS: Final = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_HEX_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_ERROR: Final = trace_pb2.Status.STATUS_CODE_ERROR


class Decoded(msgspec.Struct):
    """What became of one request's spans."""

    spans: list[Span]
    rejected: int = 0
    cut: int = 0  # kept, but not with all that they carried
    reason: str = ""  # of the first rejection


def decode_protobuf(body: bytes) -> ExportTraceServiceRequest:
    """Raises InvalidRequest where it is none."""
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise InvalidRequest(f"the body is not an ExportTraceServiceRequest in protobuf: {error}") from error


def decode_json(body: bytes) -> ExportTraceServiceRequest:
    """Raises InvalidRequest where it is none. Unknown fields are ignored, as the specification demands."""
    try:
        table = msgspec.json.decode(body, type=dict[str, Any])
        return ParseDict(_with_base64_ids(table), ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (msgspec.DecodeError, ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not an ExportTraceServiceRequest in JSON: {str(error)[:200]}") from error


def spans_in(request: ExportTraceServiceRequest, now_ns: int) -> Decoded:
    """The spans that can be kept. `now_ns` is the wall clock, against times that cannot be."""
    decoded = Decoded([])
    for resource_spans in request.resource_spans:
        service, place = _resource(resource_spans.resource)
        for scope_spans in resource_spans.scope_spans:
            for raw in scope_spans.spans:
                is_full = len(decoded.spans) >= MAX_SPANS
                reason = f"more than {MAX_SPANS} spans at once" if is_full else _flaw(raw, now_ns)
                if reason:
                    decoded.rejected += 1
                    decoded.reason = decoded.reason or reason
                    continue
                span, is_cut = _span(raw, service, place)
                decoded.spans.append(span)
                decoded.cut += is_cut
    return decoded


def _flaw(raw: trace_pb2.Span, now_ns: int) -> str:
    """Why a span cannot be kept; empty where it can."""
    if len(raw.trace_id) != 16 or not any(raw.trace_id):
        return "a trace id is not 16 bytes, or all zero"
    if len(raw.span_id) != 8 or not any(raw.span_id):
        return "a span id is not 8 bytes, or all zero"
    if len(raw.parent_span_id) not in (0, 8):
        return "a parent span id is not 8 bytes"
    if not raw.start_time_unix_nano or not raw.end_time_unix_nano:
        return "a span lacks its start or its end"
    if max(raw.start_time_unix_nano, raw.end_time_unix_nano) > now_ns + MAX_AHEAD_NS:
        return "a span lies in the future; look at the sender's clock"
    return ""


def _span(raw: trace_pb2.Span, service: str, place: dict[str, Attribute]) -> tuple[Span, bool]:
    """The span, and whether it lost something."""
    attributes, is_cut = _attributes(raw.attributes, MAX_ATTRIBUTES - len(place))
    has_parent = any(raw.parent_span_id)
    span = Span(
        trace_id=raw.trace_id.hex(),
        span_id=raw.span_id.hex(),
        parent_span_id=raw.parent_span_id.hex() if has_parent else "",
        service=service,
        name=_clean(raw.name, MAX_NAME_CHARS),
        kind=_KINDS.get(raw.kind, "internal"),
        started_ns=raw.start_time_unix_nano,
        duration_ns=max(0, raw.end_time_unix_nano - raw.start_time_unix_nano),  # below zero: its clock was set back
        is_error=raw.status.code == _ERROR,
        attributes={**place, **attributes},
    )
    return span, is_cut or len(raw.name) > MAX_NAME_CHARS


def _resource(resource: Resource) -> tuple[str, dict[str, Attribute]]:
    """The service's name, and where it runs."""
    known = {pair.key: _value(pair.value) for pair in resource.attributes}
    service = _clean(str(known.get("service.name") or "unknown_service"), MAX_NAME_CHARS)
    place = {key: value for key in _OF_RESOURCE if (value := known.get(key)) is not None}
    return service, {key: _shortened(value) for key, value in place.items()}


def _attributes(pairs: Iterable[KeyValue], room: int) -> tuple[dict[str, Attribute], bool]:
    """As many as there is room for, those that matter first, and whether something was left out or cut."""
    found: dict[str, Attribute] = {}
    is_cut = False
    for pair in sorted(pairs, key=lambda pair: not pair.key.startswith(KEPT_FIRST)):
        value = _value(pair.value)
        if value is None or len(found) >= room or len(pair.key) > MAX_NAME_CHARS:
            is_cut = True
            continue
        key = _clean(pair.key, MAX_NAME_CHARS)
        found[key] = _shortened(value)
        is_cut = is_cut or found[key] != value
    return found, is_cut


def _shortened(value: Attribute) -> Attribute:
    return _clean(value, MAX_VALUE_CHARS) if isinstance(value, str) else value


def _clean(text: str, max_chars: int) -> str:
    """Short, and without the one character that PostgreSQL does not take in text."""
    return text[:max_chars].replace("\0", "")


def _value(value: AnyValue) -> Attribute | None:
    """A plain value; arrays as text, parted by commas; None for what is kept nowhere (bytes, tables, not a number)."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return ",".join(_texts(value.array_value.values))
    if kind == "double_value":
        return value.double_value if math.isfinite(value.double_value) else None
    if kind in ("string_value", "int_value", "bool_value"):
        plain: Attribute = getattr(value, kind)
        return plain
    return None


def _texts(values: Iterable[AnyValue]) -> Iterator[str]:
    num_chars = 0
    for value in values:
        if num_chars > MAX_VALUE_CHARS:
            return
        if value.WhichOneof("value") != "array_value" and (plain := _value(value)) is not None:
            num_chars += len(str(plain))
            yield str(plain)


def _with_base64_ids(node: Any) -> Any:
    """The decoded JSON with its ids as protobuf's mapping wants them; raises ValueError for what is not hexadecimal."""
    if isinstance(node, list):
        return [_with_base64_ids(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: b64encode(bytes.fromhex(value)).decode()
        if key in _HEX_IDS and isinstance(value, str)
        else _with_base64_ids(value)
        for key, value in node.items()
    }
