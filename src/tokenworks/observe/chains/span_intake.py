"""`POST /v1/traces`: OTLP over HTTP, as any OpenTelemetry SDK or collector sends it.

The answers are the specification's (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP"): 200 with `partial_success` where
some spans were rejected, 400 with a google.rpc.Status for what cannot be decoded, now or ever, 503 with `Retry-After`
where the ledger cannot take them now; everything in the encoding of the request.

A body is bounded before and after decompression, so that a small one cannot unpack into all memory.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tokenworks.contract.errors import InvalidRequest, PayloadTooLarge, TokenworksError
from tokenworks.observe.chains.otlp import decode_json, decode_protobuf, spans_in
from tokenworks.observe.ledger import Span
from tokenworks.observe.observer.figures import SpanFigures

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
MAX_BODY_BYTES: Final = 8 << 20  # sent, and again after decompression; exporters send 512 spans, about 0.5 MiB
RETRY_AFTER_S: Final = 5
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_CODES: Final = {400: code_pb2.INVALID_ARGUMENT, 413: code_pb2.RESOURCE_EXHAUSTED, 503: code_pb2.UNAVAILABLE}

_log = logging.getLogger(__name__)

TakeIn: TypeAlias = Callable[[Sequence[Span]], Awaitable[None]]
"""Stores spans; raises a TokenworksError where it cannot now."""


class UnsupportedEncoding(InvalidRequest):
    """The body is in no encoding that is understood."""

    status = 415
    code = "unsupported_encoding"


class SpanIntake:
    """The endpoint, and what it counted."""

    def __init__(
        self, take_in: TakeIn, counts: SpanFigures | None = None, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.counts = counts or SpanFigures()
        self._take_in = take_in
        self._max_body_bytes = max_body_bytes

    async def traces(self, request: Request) -> Response:
        """Answer one export."""
        encoding = JSON if _content_type(request) == JSON else PROTOBUF
        try:
            return _answer(await self._accept(request), encoding)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except TokenworksError as error:
            return _refusal(error, encoding)

    async def _accept(self, request: Request) -> ExportTraceServiceResponse:
        decode = {PROTOBUF: decode_protobuf, JSON: decode_json}.get(_content_type(request))
        if decode is None:
            raise UnsupportedEncoding(f"send spans as {PROTOBUF} or {JSON}, in `Content-Type`")
        body = unpacked(await self._body(request), request.headers.get("content-encoding", ""), self._max_body_bytes)
        decoded = spans_in(decode(body), time.time_ns())
        if decoded.spans:
            await self._take_in(decoded.spans)
        self.counts.accepted += len(decoded.spans)
        self.counts.rejected += decoded.rejected
        self.counts.cut += decoded.cut
        answer = ExportTraceServiceResponse()
        if decoded.rejected:
            _log.warning("%d spans rejected: %s", decoded.rejected, decoded.reason)
            answer.partial_success.rejected_spans = decoded.rejected
            answer.partial_success.error_message = decoded.reason
        elif decoded.cut:
            answer.partial_success.error_message = f"{decoded.cut} spans were cut: attributes too many or too long"
        return answer

    async def _body(self, request: Request) -> bytes:
        chunks, num_bytes = [], 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > self._max_body_bytes:
                raise _too_large(self._max_body_bytes)
            chunks.append(chunk)
        return b"".join(chunks)


def unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its `Content-Encoding`; raises InvalidRequest, or PayloadTooLarge beyond `max_bytes`."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise UnsupportedEncoding(f"`Content-Encoding: {encoding[:40]}` is not understood; send gzip or none")
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        found = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not gzip, as its `Content-Encoding` says: {error}") from error
    if len(found) > max_bytes:
        raise _too_large(max_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequest("the body's gzip is cut short, or has something after its end")
    return found


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the spans are larger than {max_bytes} bytes; send fewer at once")


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _answer(message: Message, encoding: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = MessageToJson(message, indent=None) if encoding == JSON else message.SerializeToString()
    return Response(body, status, headers, encoding)


def _refusal(error: TokenworksError, encoding: str) -> Response:
    status = error.status if error.status < 500 else 503  # a ledger that fails now may work later: retryable
    headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else None
    message = Status(code=_CODES.get(status, code_pb2.INVALID_ARGUMENT), message=error.message)
    return _answer(message, encoding, status, headers)
