"""From the bytes of a foreign server's answer to outputs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenworks.contract.wire import End, EndReason, SequenceOutput, TokenLogprobs
from tokenworks.worker.relay import answer
from tokenworks.worker.relay.answer import AnswerReader
from tokenworks.worker.relay.upstream import UpstreamFault

DONE = b"data: [DONE]\n\n"
LENGTH = End(EndReason.LENGTH)


def event(text: str = "", usage: int | None = None, **choice: Any) -> bytes:
    found: dict[str, Any] = {"id": "x", "choices": [{"index": 0, "text": text, **choice}]}
    if usage is not None:
        found["usage"] = {"completion_tokens": usage, "prompt_tokens": 3}
    return b"data: " + json.dumps(found).encode() + b"\n\n"


def usage_event(tokens: int, cached: int | None = None) -> bytes:
    usage = {"completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": cached}}
    return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"


def read(*chunks: bytes, **options: Any) -> list[SequenceOutput]:
    reader = AnswerReader("r", **options)
    outputs = [output for chunk in chunks for output in reader.feed(chunk)]
    return outputs + reader.close()


def test_ids_are_passed_on_with_the_end_in_the_last_output() -> None:
    outputs = read(event("a", token_ids=[5]), event("b", token_ids=[6, 7], finish_reason="length"), DONE)
    assert outputs == [SequenceOutput("r", [5]), SequenceOutput("r", [6, 7], end=LENGTH)]


def test_text_counts_as_the_server_counts_it() -> None:
    outputs = read(event("ab", usage=2), event("c", usage=3), event("", usage=4, finish_reason="stop"), usage_event(4))
    assert [(output.text, output.text_tokens) for output in outputs] == [("ab", 2), ("c", 1), ("", 1)]
    assert outputs[-1].end == End(EndReason.STOP)


def test_without_a_count_an_event_is_a_token_and_a_late_count_sets_it_right() -> None:
    events = [event("ab"), event("c"), event("", finish_reason="length")]
    assert [output.text_tokens for output in read(*events, DONE)] == [1, 1, 0]
    assert [output.text_tokens for output in read(*events, usage_event(7), DONE)] == [1, 1, 5]
    assert [output.text_tokens for output in read(*events, usage_event(1), DONE)] == [1, 1, 0]


def test_the_end_waits_for_the_usage_and_is_told_once() -> None:
    reader = AnswerReader("r")
    assert list(reader.feed(event("a", token_ids=[5], finish_reason="length"))) == []
    assert not reader.is_over
    assert list(reader.feed(usage_event(1, cached=2))) == [SequenceOutput("r", [5], cached_tokens=2, end=LENGTH)]
    assert reader.is_over
    assert list(reader.feed(DONE + event("late"))) == []
    assert reader.close() == []


def test_cached_tokens_are_told_once() -> None:
    first = {"choices": [{"text": "a"}], "usage": {"prompt_tokens_details": {"cached_tokens": 9}}}
    outputs = read(b"data: " + json.dumps(first).encode() + b"\n\n", event("b"), event("c", finish_reason="stop"), DONE)
    assert [output.cached_tokens for output in outputs] == [9, None, None]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_an_answer_does_not_depend_on_how_its_bytes_are_cut(size: int) -> None:
    whole = b": hello\n\n" + event("ä€🙂", usage=1) + event("b", usage=2, finish_reason="stop") + usage_event(2) + DONE
    whole = whole.replace(b"\n\n", b"\r\n\r\n")
    assert read(*(whole[at : at + size] for at in range(0, len(whole), size))) == read(whole)


def test_a_stop_token_ends_the_answer_whether_or_not_the_server_knows_it() -> None:
    stop = End(EndReason.STOP, stop_token_id=9)
    unknowing = AnswerReader("r", stop_token_ids=[9])
    assert list(unknowing.feed(event("a", token_ids=[5, 9, 6]))) == [SequenceOutput("r", [5, 9], end=stop)]
    assert unknowing.is_over
    assert read(event("a", token_ids=[9], finish_reason="stop"), DONE, stop_token_ids=[9])[-1].end == stop
    other = read(event("a", token_ids=[5], finish_reason="stop"), DONE, stop_token_ids=[9])
    assert other[-1].end == End(EndReason.STOP)


def logprobs(**tops: float) -> dict[str, Any]:
    top = {name.replace("_id", "_id:"): value for name, value in tops.items()}
    return {"tokens": ["token_id:5"], "token_logprobs": [-0.7], "top_logprobs": [top]}


def test_log_probabilities_come_in_falling_order_and_as_many_as_asked() -> None:
    found = logprobs(token_id5=-0.7, token_id8=-0.2, token_id6=-3.0)
    outputs = read(event("a", token_ids=[5], logprobs=found, finish_reason="length"), DONE, num_logprobs=2)
    assert outputs[0].logprobs == [TokenLogprobs(-0.7, [8, 5], [-0.2, -0.7])]
    outputs = read(event("a", token_ids=[5], logprobs=found, finish_reason="length"), DONE, num_logprobs=0)
    assert outputs[0].logprobs == [TokenLogprobs(-0.7, [], [])]
    assert read(event("a", token_ids=[5], logprobs=found, finish_reason="length"), DONE)[0].logprobs is None


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([event("a")], "cut the answer short"),
        ([event("a"), DONE], "cut the answer short"),
        ([b"data: {nonsense\n\n"], "not what OpenAI's API says"),
        ([b"data: \xff\xfe\n\n"], "not what OpenAI's API says"),
        ([b'data: {"choices":[{"text":5}]}\n\n'], "not what OpenAI's API says"),
        ([b'data: {"error":{"message":"the kernel said no"}}\n\n'], "the kernel said no"),
        ([b'data: {"error":"plain words"}\n\n'], "plain words"),
        ([event("a", finish_reason="abort")], "ended the answer with `abort`"),
    ],
)
def test_what_is_no_good_answer_is_a_fault_with_a_reason(chunks: list[bytes], message: str) -> None:
    with pytest.raises(UpstreamFault, match=message):
        read(*chunks)


def test_what_was_good_before_a_fault_is_given() -> None:
    given = AnswerReader("r").feed(event("a", token_ids=[5]) + b"data: {nonsense\n\n")
    assert next(given) == SequenceOutput("r", [5])
    with pytest.raises(UpstreamFault):
        next(given)


def test_missing_or_unreadable_log_probabilities_are_a_fault() -> None:
    with pytest.raises(UpstreamFault, match="left out"):
        read(event("a", token_ids=[5]), num_logprobs=1)
    with pytest.raises(UpstreamFault, match="by text"):
        read(event("a", token_ids=[5], logprobs=logprobs(word=-1.0)), num_logprobs=1)


def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "MAX_EVENT_BYTES", 100)
    reader = AnswerReader("r")
    assert list(reader.feed(b"data: " + b"x" * 90)) == []
    with pytest.raises(UpstreamFault, match="larger than"):
        list(reader.feed(b"x" * 90))
