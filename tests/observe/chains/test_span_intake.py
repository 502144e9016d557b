"""The endpoint over real HTTP: the answers are those of the OTLP specification."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.observe.otlp_rig import SPAN_ID, TRACE_ID, Receiver, export, raw_span, running, text
from tokenworks.contract.errors import PayloadTooLarge
from tokenworks.observe.chains.span_intake import MAX_BODY_BYTES, unpacked

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json; charset=utf-8"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with running(receiver.traces) as receiver.url:
        yield receiver


@pytest.fixture(autouse=True)
def nothing_yet(receiver: Receiver) -> None:
    receiver.spans.clear()
    receiver.is_busy = False


def post(receiver: Receiver, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{receiver.url}/v1/traces", content=body, headers=headers, timeout=60)


def status_of(response: httpx.Response) -> Status:
    assert response.headers["content-type"] == "application/x-protobuf"
    return Status.FromString(response.content)


def test_protobuf_is_answered_in_protobuf(receiver: Receiver) -> None:
    response = post(receiver, export(raw_span()).SerializeToString(), **PROTOBUF)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-protobuf")
    assert ExportTraceServiceResponse.FromString(response.content) == ExportTraceServiceResponse()
    assert [span.name for span in receiver.spans] == ["search"]


def test_gzip_is_unpacked(receiver: Receiver) -> None:
    body = gzip.compress(export(raw_span()).SerializeToString())
    assert post(receiver, body, **PROTOBUF, **{"content-encoding": "gzip"}).status_code == 200
    assert len(receiver.spans) == 1


def test_json_is_answered_in_json(receiver: Receiver) -> None:
    span = {"traceId": TRACE_ID.hex(), "spanId": SPAN_ID.hex(), "name": "s", "startTimeUnixNano": "1"}
    span["endTimeUnixNano"] = "2"
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span, {"name": "no id"}]}]}]}).encode()
    response = post(receiver, body, **JSON)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    partial = response.json()["partialSuccess"]
    assert partial["rejectedSpans"] == "1"
    assert "trace id" in partial["errorMessage"]
    assert [span.service for span in receiver.spans] == ["unknown_service"]


def test_some_spans_rejected_is_a_partial_success(receiver: Receiver) -> None:
    before = receiver.intake.counts.rejected
    response = post(receiver, export(raw_span(), raw_span(span_id=b"")).SerializeToString(), **PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert (response.status_code, partial.rejected_spans) == (200, 1)
    assert "span id" in partial.error_message
    assert receiver.intake.counts.rejected == before + 1


def test_a_span_that_was_cut_is_told_of_with_no_rejection(receiver: Receiver) -> None:
    body = export(raw_span(attributes=[text("a", "x" * 1000)])).SerializeToString()
    partial = ExportTraceServiceResponse.FromString(post(receiver, body, **PROTOBUF).content).partial_success
    assert partial.rejected_spans == 0
    assert "cut" in partial.error_message


@pytest.mark.parametrize("body", [b"\xff\xff", b"\x0a\x05abc"])
def test_what_cannot_be_decoded_is_400_with_a_status(receiver: Receiver, body: bytes) -> None:
    response = post(receiver, body, **PROTOBUF)
    assert response.status_code == 400
    assert status_of(response).code == code_pb2.INVALID_ARGUMENT
    assert "protobuf" in status_of(response).message


def test_malformed_json_is_400_with_a_status_in_json(receiver: Receiver) -> None:
    response = post(receiver, b"{", **JSON)
    assert response.status_code == 400
    assert response.json()["code"] == code_pb2.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x", {"content-type": "text/plain"}, 415),
        (b"x", {}, 415),
        (b"x", PROTOBUF | {"content-encoding": "br"}, 415),
        (b"not gzip", PROTOBUF | {"content-encoding": "gzip"}, 400),
        (gzip.compress(b"x" * 1000)[:-6], PROTOBUF | {"content-encoding": "gzip"}, 400),
        (bytes(MAX_BODY_BYTES + 1), PROTOBUF, 413),
        (gzip.compress(bytes(MAX_BODY_BYTES + 1)), PROTOBUF | {"content-encoding": "gzip"}, 413),
    ],
    ids=["text", "nothing", "brotli", "no-gzip", "cut-gzip", "large", "bomb"],
)
def test_other_bodies_are_refused(receiver: Receiver, body: bytes, headers: dict[str, str], status: int) -> None:
    response = post(receiver, body, **headers)
    assert response.status_code == status
    assert status_of(response).message
    assert not receiver.spans


def test_a_bomb_is_not_unpacked_further_than_the_limit() -> None:
    with pytest.raises(PayloadTooLarge):
        unpacked(gzip.compress(bytes(100 << 20)), "gzip", 1 << 20)


def test_a_ledger_that_is_busy_asks_for_another_try(receiver: Receiver) -> None:
    receiver.is_busy = True
    response = post(receiver, export(raw_span()).SerializeToString(), **PROTOBUF)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert status_of(response).code == code_pb2.UNAVAILABLE


def test_an_empty_export_is_a_success(receiver: Receiver) -> None:
    assert post(receiver, b"", **PROTOBUF).status_code == 200


def test_a_client_that_leaves_in_the_middle_does_no_harm(receiver: Receiver) -> None:
    parts = urlsplit(receiver.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as line:
        line.sendall(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n")
        line.sendall(b"content-type: application/x-protobuf\r\n\r\nabc")
    assert post(receiver, export(raw_span()).SerializeToString(), **PROTOBUF).status_code == 200
