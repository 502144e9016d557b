"""One response stream as it arrives: bytes in, token instants, usage and the way it ended out.

`SseDecoder` follows the WHATWG event-stream format over arbitrary chunk boundaries (a chunk may end inside a line, a
UTF-8 character or a CRLF). `TokenStream` gives each event a meaning in the OpenAI dialect. Both are pure: the caller
reads the clock once per chunk, so events that share a chunk share an instant.

A token event is one that carries text (or reasoning or a tool call). An empty text also counts when nothing else
explains the event (no role, no finish reason): servers send it for a token whose characters are not complete yet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

MAX_EVENT_BYTES = 16 * 1024 * 1024  # an event that never ends must not fill the client's memory
UNREADABLE = (
    msgspec.MsgspecError,
    UnicodeDecodeError,
    RecursionError,
)  # what JSON ends in: the last, nested too deeply


class StreamFailure(Exception):
    """The stream told of an error or cannot be understood; `code` is what failures are counted by."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SseEvent(NamedTuple):
    """The event's name (empty for a plain message) and its data lines, joined."""

    name: bytes
    data: bytes


class SseDecoder:
    """Cuts a byte stream into events; keeps the unfinished rest."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Events completed by this chunk; raises StreamFailure when one grows past MAX_EVENT_BYTES."""
        data, held_cr = self._rest + chunk, b""
        if b"\r" in data:  # rare: no server known to the field sends CRLF, the format allows it
            if data.endswith(b"\r"):
                data, held_cr = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        self._rest = rest + held_cr
        if len(self._rest) > MAX_EVENT_BYTES:
            raise StreamFailure("event_too_large", f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return [event for block in blocks if (event := _parse_event(block)) is not None]


def _parse_event(block: bytes) -> SseEvent | None:
    """None for a block without data, such as a comment that keeps the connection alive."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return SseEvent(b"", block[6:])
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return SseEvent(name, b"\n".join(data)) if data else None


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cached_tokens_by_tier: dict[str, int] | None = None  # Tokenworks: where they were


class Usage(msgspec.Struct):
    """Token counts as the server bills them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(Chunk).decode


class TokenStream:
    """What one streamed response has shown so far; instants are the caller's, in seconds of its one clock."""

    def __init__(self, sent_s: float) -> None:
        self.sent_s = sent_s
        self.ttft_s: float | None = None
        self.itl_s: list[float] = []
        self.usage: Usage | None = None
        self.is_finished = False  # a finish reason or [DONE] was seen
        self._sse = SseDecoder()
        self._last_token_s = sent_s

    @property
    def token_events(self) -> int:
        return 0 if self.ttft_s is None else 1 + len(self.itl_s)

    def feed(self, chunk: bytes, now_s: float) -> int:
        """Take in one chunk; returns how many token events it completed. Raises StreamFailure."""
        return sum(self._on_event(event, now_s) for event in self._sse.feed(chunk))

    def _on_event(self, event: SseEvent, now_s: float) -> bool:
        if event.data == b"[DONE]":
            self.is_finished = True
            return False
        chunk = _parse_chunk(event)
        self.usage = chunk.usage or self.usage
        choices = chunk.choices or ()
        self.is_finished |= any(choice.finish_reason for choice in choices)
        has_token = any(_carries_token(choice) for choice in choices)
        if has_token:
            self._on_token(now_s)
        return has_token

    def _on_token(self, now_s: float) -> None:
        if self.ttft_s is None:
            self.ttft_s = now_s - self.sent_s
        else:
            self.itl_s.append(now_s - self._last_token_s)
        self._last_token_s = now_s


def _parse_chunk(event: SseEvent) -> Chunk:
    if event.name == b"error":
        raise StreamFailure(*error_code_and_message(event.data, "error_event"))
    try:
        chunk = _decode_chunk(event.data)
    except UNREADABLE as error:
        raise StreamFailure("bad_event", f"{error}: {event.data[:200]!r}") from error
    if chunk.error is not None:
        raise StreamFailure(*error_code_and_message(event.data, "error_event"))
    return chunk


def _carries_token(choice: Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return bool(choice.text) or (choice.text == "" and choice.finish_reason is None)
    if delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls:
        return True
    return delta.content == "" and delta.role is None and choice.finish_reason is None


def error_code_and_message(body: bytes, default_code: str) -> tuple[str, str]:
    """Code (or type) and message of an OpenAI error body, with or without its `error` wrapper; else the raw text."""
    raw_text = body[:300].decode("utf-8", "replace").strip()
    try:
        parsed = msgspec.json.decode(body)
    except UNREADABLE:
        return default_code, raw_text
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return default_code, str(error)
    code = error.get("code") or error.get("type") or default_code
    return str(code), str(error.get("message") or raw_text)
