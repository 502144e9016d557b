"""Sends one request to an OpenAI-compatible endpoint and turns what happens into a `RequestResult`.

Streaming over aiohttp with one monotonic clock: read before the send, once per received chunk and at the end. TTFT
therefore includes opening the connection whenever no idle one is left, as it does for any client. Every send ends in
exactly one result; network and server failures become outcomes, only cancellation and our own bugs pass through.

Rejected (429, 503) is apart from failed: the server refused the work instead of losing it. Never follows redirects
and never uses a proxy: what is measured is the address that was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec

from tokenworks.bench.arrivals import PlannedRequest
from tokenworks.bench.measure import Outcome, RequestResult
from tokenworks.bench.prompts import Endpoint, PromptStyle, request_body
from tokenworks.bench.stream import StreamFailure, TokenStream, error_code_and_message

REJECTED_STATUSES = (429, 503)
MAX_ERROR_BODY_BYTES = 64 * 1024
IDLE_CONNECTION_S = 4.0  # below the 5 s after which common servers close one, just as it may be picked for a request
PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


class Target(msgspec.Struct, frozen=True):
    """Where to send; `timeout_s` bounds each request from connecting to its last byte."""

    base_url: str
    api_key: str | None = None
    timeout_s: float = 300.0

    def url_of(self, endpoint: Endpoint) -> str:
        return self.base_url + PATHS[endpoint]


class PreparedRequest(msgspec.Struct, frozen=True):
    """A planned request with its body encoded, so that nothing but sending is left at the due instant."""

    planned: PlannedRequest
    body: bytes


@contextlib.asynccontextmanager
async def open_session(target: Target) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a connection cap of its own: a cap would queue requests that an open loop must send."""
    raise_file_limit()
    headers = {"Content-Type": "application/json"}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=3600, keepalive_timeout=IDLE_CONNECTION_S)
    timeout = aiohttp.ClientTimeout(total=target.timeout_s)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield session


def raise_file_limit() -> None:
    """Let this process hold as many sockets as the system allows it (the soft limit is often 1024)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class LoadClient:
    """Prepares and sends the requests of one run; `start_s` is the run's zero on the monotonic clock."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: Target,
        style: PromptStyle,
        *,
        on_token_events: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.start_s = time.monotonic()
        self._session = session
        self._url = target.url_of(style.endpoint)
        self._style = style
        self._on_token_events = on_token_events

    def prepare(self, planned: PlannedRequest) -> PreparedRequest:
        return PreparedRequest(planned, request_body(planned, self._style))

    async def send(self, prepared: PreparedRequest, due_s: float | None) -> RequestResult:
        """Send now and stay until the stream ends; `due_s` (seconds since `start_s`) is passed on to the result."""
        stream = TokenStream(time.monotonic())
        outcome: Outcome = "failed"
        reason = message = ""
        try:
            outcome, reason, message = await self._exchange(prepared.body, stream)
        except StreamFailure as failure:
            reason, message = failure.code, failure.message
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason, message = classify_network_error(error), describe_network_error(error)
        verdict = {"outcome": outcome, "reason": reason, "message": message}
        return self._result(prepared.planned, stream, due_s, time.monotonic(), verdict)

    async def _exchange(self, body: bytes, stream: TokenStream) -> tuple[Outcome, str, str]:
        async with self._session.post(self._url, data=body, allow_redirects=False) as response:
            if response.status != 200:
                return await _refusal(response)
            if response.content_type != "text/event-stream":
                return "failed", "not_a_stream", f"the answer is {response.content_type}, not text/event-stream"
            async for chunk in response.content.iter_any():
                self._on_token_events(stream.feed(chunk, time.monotonic()))
        if not stream.is_finished:
            return "failed", "stream_cut", "the stream ended without a finish reason or [DONE]"
        return "ok", "", ""

    def _result(
        self, planned: PlannedRequest, stream: TokenStream, due_s: float | None, end_s: float, verdict: dict[str, Any]
    ) -> RequestResult:
        return RequestResult(
            index=planned.index,
            due_s=due_s,
            sent_s=stream.sent_s - self.start_s,
            e2e_s=end_s - stream.sent_s,
            ttft_s=stream.ttft_s,
            itl_s=stream.itl_s,
            asked_output_tokens=planned.output_tokens,
            token_events=stream.token_events,
            **_count_tokens(stream, planned, is_exact_input=self._style.sends_ids),
            **verdict,
        )


def _count_tokens(stream: TokenStream, planned: PlannedRequest, *, is_exact_input: bool) -> dict[str, Any]:
    """The server's count where it gives one; else events, and the input only where we chose its ids."""
    usage = stream.usage
    if usage is None:
        input_tokens = planned.input_tokens if is_exact_input else None
        return {"input_tokens": input_tokens, "output_tokens": stream.token_events}
    details = usage.prompt_tokens_details
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cached_tokens": details.cached_tokens if details else None,
        "cached_tokens_by_tier": (details.cached_tokens_by_tier if details else None) or {},
        "has_usage": True,
    }


async def _refusal(response: aiohttp.ClientResponse) -> tuple[Outcome, str, str]:
    outcome: Outcome = "rejected" if response.status in REJECTED_STATUSES else "failed"
    body = await response.content.read(MAX_ERROR_BODY_BYTES)
    code, message = error_code_and_message(body, response.reason or "")
    return outcome, f"{response.status} {code}".strip(), message


def classify_network_error(error: Exception) -> str:
    """The code under which a failure between the client and the server is counted."""
    if isinstance(error, asyncio.TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect_failed"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError)):
        return "connection_dropped"
    return type(error).__name__


def describe_network_error(error: Exception) -> str:
    """The system's own words where there are any."""
    return str(getattr(error, "os_error", error)) or type(error).__name__
