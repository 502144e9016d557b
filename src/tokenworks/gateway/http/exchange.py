"""One HTTP request and its answer, on the bare ASGI interface.

Reads a bounded body, answers whole or as server-sent events, notices a client that goes away, and turns an error into
the OpenAI error body: as a status where nothing was sent yet, as an error event where a stream has begun. Every answer
carries `x-request-id`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from tokenworks.contract.errors import (
    InvalidRequest,
    NotImplementedHere,
    PayloadTooLarge,
    TokenworksError,
    Unauthorized,
    Unavailable,
    WorkerLost,
)
from tokenworks.gateway.keys.tenants import UNKNOWN
from tokenworks.gateway.pool.streams import ClientGone
from tokenworks.gateway.records.record import Recording
from tokenworks.gateway.records.traces import Trace, trace_of

DRAIN_FACTOR: Final = 8
"""An oversized body is read and dropped up to this many times the limit, so that its sender sees the answer."""
HELD_BYTES: Final = 1 << 16  # uvicorn's high water
RETRY_AFTER_S: Final = 2
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
_JSON: Final = b"application/json"


class ErrorDetail(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def error_body(error: TokenworksError) -> bytes:
    """The OpenAI error body of an error."""
    return msgspec.json.encode(ErrorBody(ErrorDetail(error.message, error.type, error.param, error.code)))


class Exchange:
    """The gateway's end of one HTTP request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started_ns = time.monotonic_ns()
        self.status = 0  # of the answer, once it has begun
        self.notes: dict[str, Any] = {}  # for the log line at the end
        self.caller = UNKNOWN  # until its key was looked at
        self._recording: Recording | None = None
        self._trace: Trace | None = None  # drawn when somebody asks
        self._client: tuple[str, int] | None = scope.get("client")
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._path_params: dict[str, Any] = scope.get("path_params", {})
        self.query_string = str(scope.get("query_string", b""), "latin-1")
        self._receive = receive
        self._send = send
        wanted = self._headers.get(b"x-request-id", b"")
        self.id: str = wanted.decode() if _REQUEST_ID.fullmatch(wanted) else secrets.token_hex(12)

    @property
    def trace(self) -> Trace:
        """The trace that this is a span of."""
        if self._recording is not None:
            return self._recording.trace
        if self._trace is None:
            self._trace = trace_of(self._headers.get(b"traceparent"))
        return self._trace

    @property
    def labels(self) -> dict[str, str]:
        """What a log line about this request says of it, for whoever looks for one request's lines."""
        trace = self.trace
        return {
            "request_id": self.id,
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
            "tenant": self.caller.tenant,
        }

    @property
    def authorization(self) -> bytes | None:
        """The header of that name, as it is."""
        return self._headers.get(b"authorization")

    @property
    def recording(self) -> Recording:
        """What is noted for this request's record; there is one for every request to generate."""
        assert self._recording is not None
        return self._recording

    def begin_recording(self, endpoint: str) -> None:
        """It is a request to generate."""
        self._recording = Recording(self.id, endpoint, self._headers.get(b"traceparent"), self.started_ns)

    @property
    def accept(self) -> str:
        """The kinds of answer that the client takes."""
        return self._headers.get(b"accept", b"").decode("latin-1")

    @property
    def is_local(self) -> bool:
        """Whether it comes from this machine; a proxy here that names the client it speaks for is not the client."""
        try:
            return self._client is not None and ip_address(self._client[0]).is_loopback
        except ValueError:  # a name that a proxy gave
            return False

    @property
    def host(self) -> str:
        """The host that the client asked for, as it wrote it; empty: it did not say."""
        return self.header("host") or ""

    def header(self, name: str) -> str | None:
        """A header of the request, by its name in lower case."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def path_param(self, name: str) -> str:
        """A parameter of the path."""
        return str(self._path_params[name])

    async def read_body(self, max_bytes: int) -> bytes:
        """The request body; raises PayloadTooLarge, after reading on for a while so that the client sees the answer."""
        chunks: list[bytes] = []
        num_bytes = 0
        has_more = True
        while has_more and num_bytes <= DRAIN_FACTOR * max_bytes:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client went away while sending its request")
            chunk = message.get("body", b"")
            num_bytes += len(chunk)
            if num_bytes <= max_bytes:
                chunks.append(chunk)
            has_more = message.get("more_body", False)
        if num_bytes > max_bytes:
            raise PayloadTooLarge(f"the request body is larger than {max_bytes} bytes; send less at once")
        if not num_bytes:
            raise InvalidRequest("the request has no body; send a JSON object")
        return b"".join(chunks)

    def watch(self, on_gone: Callable[[], None]) -> asyncio.Task[None]:
        """Call back when the client closes the connection; the body must have been read. Cancel the task when done."""
        return asyncio.get_running_loop().create_task(self._wait_for_disconnect(on_gone))

    async def respond(self, body: bytes, status: int = 200, content_type: bytes = _JSON, *extra: _Header) -> None:
        """Send a whole answer; returns once the client has taken all of it but what a connection holds anyway."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", content_type), length, *extra])
        await self._write(body, is_last=True)

    async def write_events(self, events: bytes, *, is_last: bool = False) -> None:
        """Send server-sent events, after the head of the answer where these are the first."""
        if not self.status:
            await self._start(200, [(b"content-type", b"text/event-stream; charset=utf-8"), *_NO_BUFFERING])
        await self._write(events, is_last=is_last)

    async def fail(self, error: TokenworksError) -> None:
        """Answer with an error, in whichever way is still open."""
        if self.status:
            await self.write_events(b"data: " + error_body(error) + b"\n\n", is_last=True)
            return
        await self.refuse(error, error_body(error))

    async def refuse(self, error: TokenworksError, body: bytes, content_type: bytes = _JSON) -> None:
        """Answer with an error in a form of the endpoint's own; nothing has been sent."""
        await self.respond(body, error.status, content_type, *_advice(error))

    async def _write(self, body: bytes, *, is_last: bool) -> None:
        """The server waits for the client before it sends something, never after: so what is large is not sent last."""
        has_more = is_last and len(body) > HELD_BYTES
        await self._send({"type": "http.response.body", "body": body, "more_body": has_more or not is_last})
        if has_more:
            await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: list[_Header]) -> None:
        self.status = status
        headers.append((b"x-request-id", self.id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _wait_for_disconnect(self, on_gone: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_gone()


def _advice(error: TokenworksError) -> list[_Header]:
    """Headers that say what to do about an error."""
    if isinstance(error, Unauthorized):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, NotImplementedHere):
        return [(b"x-should-retry", b"false")]  # OpenAI's clients send again what has a status of 5xx, but for this
    may_retry = isinstance(error, Unavailable) and not isinstance(error, WorkerLost)
    return [(b"retry-after", str(RETRY_AFTER_S).encode())] if may_retry else []


_Header = tuple[bytes, bytes]
_NO_BUFFERING: Final[list[_Header]] = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
