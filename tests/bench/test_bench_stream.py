"""Event streams over arbitrary chunk boundaries, and what counts as a token."""

from __future__ import annotations

import random

import pytest

from tokenworks.bench.stream import (
    MAX_EVENT_BYTES,
    SseDecoder,
    SseEvent,
    StreamFailure,
    TokenStream,
    error_code_and_message,
)

STREAM = (
    ": ping\n\ndata: one\n\nevent: note\nid: 4\ndata: two\ndata:é漢🙂\n\n\ndata\n\nretry: 5\n\ndata: [DONE]\n\n"
).encode()
EVENTS = [
    SseEvent(b"", b"one"),
    SseEvent(b"note", "two\né漢🙂".encode()),
    SseEvent(b"", b""),
    SseEvent(b"", b"[DONE]"),
]


def token(text: str) -> bytes:
    return b'data: {"choices": [{"text": "' + text.encode() + b'", "finish_reason": null}]}\n\n'


def feed_all(stream: TokenStream, *chunks: bytes) -> None:
    for second, chunk in enumerate(chunks, 1):
        stream.feed(chunk, float(second))


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_events_do_not_depend_on_chunk_boundaries(newline: bytes) -> None:
    data = STREAM.replace(b"\n", newline)
    rng = random.Random(7)
    for _ in range(200):
        decoder = SseDecoder()
        cuts = sorted(rng.sample(range(len(data)), rng.randint(0, 12)))
        chunks = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        # a final lone CR may yet become a CRLF, so the last event waits for one more byte
        events = [event for chunk in [*chunks, b":"] for event in decoder.feed(chunk)]
        assert events == EVENTS


def test_an_endless_event_is_refused() -> None:
    decoder = SseDecoder()
    decoder.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(StreamFailure, match="larger than"):
        decoder.feed(b"x")


def test_instants_become_ttft_and_gaps() -> None:
    stream = TokenStream(sent_s=0.5)
    feed_all(stream, b": ping\n\n", token("a"), token("b") + token("c"), b"", token("d"))
    assert stream.ttft_s == 1.5
    assert stream.itl_s == [1.0, 0.0, 2.0]
    assert stream.token_events == 4
    assert not stream.is_finished


def test_feed_counts_the_token_events_of_each_chunk() -> None:
    stream = TokenStream(0.0)
    assert [stream.feed(chunk, 1.0) for chunk in (token("a")[:9], token("a")[9:] + token("b"), b"\n")] == [0, 2, 0]


@pytest.mark.parametrize(
    ("choice", "is_token"),
    [
        (b'{"text": "x", "finish_reason": "length"}', True),
        (b'{"text": "", "finish_reason": "length"}', False),
        (b'{"text": "", "finish_reason": null}', True),
        (b'{"delta": {"role": "assistant", "content": ""}}', False),
        (b'{"delta": {"role": "assistant", "content": "x"}}', True),
        (b'{"delta": {"content": ""}}', True),
        (b'{"delta": {"content": "", "x": 1}, "finish_reason": "stop"}', False),
        (b'{"delta": {"reasoning_content": "hm"}}', True),
        (b'{"delta": {"tool_calls": [{"index": 0}]}}', True),
        (b'{"delta": {}}', False),
    ],
)
def test_what_counts_as_a_token_event(choice: bytes, is_token: bool) -> None:
    stream = TokenStream(0.0)
    stream.feed(b'data: {"choices": [' + choice + b"]}\n\n", 1.0)
    assert stream.token_events == is_token


def test_usage_and_both_kinds_of_end_are_seen() -> None:
    stream = TokenStream(0.0)
    usage = b'{"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}'
    stream.feed(b'data: {"choices": [], "usage": ' + usage + b"}\n\n" + token("a"), 1.0)
    assert stream.usage is not None
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (7, 2)
    assert stream.usage.prompt_tokens_details is not None
    assert stream.usage.prompt_tokens_details.cached_tokens == 3
    assert not stream.is_finished
    stream.feed(b'data: {"choices": [{"finish_reason": "stop"}], "usage": null}\n\n', 2.0)
    assert stream.is_finished
    assert stream.usage is not None
    done = TokenStream(0.0)
    done.feed(b"data: [DONE]\n\n", 1.0)
    assert done.is_finished


@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        (b'data: {"error": {"message": "gone", "code": "worker_lost"}}\n\n', "worker_lost", "gone"),
        (b'event: error\ndata: {"message": "gone", "type": "server_error"}\n\n', "server_error", "gone"),
        (b"event: error\ndata: plain words\n\n", "error_event", "plain words"),
        (b'data: {"error": "gone"}\n\n', "error_event", "gone"),
        (b"data: {not json\n\n", "bad_event", "not json"),
        (b"data: \xff\n\n", "bad_event", "xff"),
        (b'data: {"error": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n\n", "bad_event", "recursion"),
    ],
)
def test_errors_inside_a_stream_have_a_code(event: bytes, code: str, message: str) -> None:
    with pytest.raises(StreamFailure) as caught:
        TokenStream(0.0).feed(event, 1.0)
    assert caught.value.code == code
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "no", "code": 42}}', ("42", "no")),
        (b'{"error": {"message": "no", "code": null, "type": "t"}}', ("t", "no")),
        (b'{"detail": "Not Found"}', ("default", '{"detail": "Not Found"}')),
        (b"[1, 2]", ("default", "[1, 2]")),
        (b" <html> ", ("default", "<html>")),
        (b"", ("default", "")),
        (b"[" * 50_000, ("default", "[" * 300)),
    ],
)
def test_error_bodies_of_all_sorts_are_read(body: bytes, expected: tuple[str, str]) -> None:
    assert error_code_and_message(body, "default") == expected
