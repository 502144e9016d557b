"""`/v1/chat/completions` through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
from openai import BadRequestError

from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, SequenceOutput, TokenLogprobs

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig


MODEL = "tiny-echo"
HELLO = [{"role": "user", "content": "the dog"}]


def says(rig: Rig, backend: tokenizers.Tokenizer, text: str) -> None:
    """Let the worker write a text and then the end of a turn."""
    tokens = [*backend.encode(text).ids, 2]

    def answer(request: Request) -> Iterator[SequenceOutput]:
        for token in tokens:
            end = End(EndReason.STOP, stop_token_id=2) if token == 2 else None
            yield SequenceOutput(request.id, [token], end=end)

    rig.worker.answer = answer


def prompt_text(rig: Rig, backend: tokenizers.Tokenizer) -> str:
    """The prompt that the worker got."""
    return backend.decode(rig.worker.submitted[-1].token_ids, skip_special_tokens=False)


def test_the_template_makes_the_prompt_and_the_end_token_ends_the_turn(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    says(rig, backend, "the lazy fox 🙂")
    answer = rig.openai.chat.completions.create(model=MODEL, messages=HELLO)
    assert prompt_text(rig, backend) == "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n"
    assert answer.choices[0].message.content == "the lazy fox 🙂"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert rig.worker.submitted[0].sampling.max_tokens == 256 - len(rig.worker.submitted[0].token_ids)


def test_a_stream_says_who_speaks_first(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    says(rig, backend, "the lazy fox 🙂")
    stream = rig.openai.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == "the lazy fox 🙂"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == len(backend.encode("the lazy fox 🙂").ids) + 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_each_choice_of_a_stream_says_who_speaks_once(rig: Rig) -> None:
    chunks = list(rig.openai.chat.completions.create(model=MODEL, messages=HELLO, n=3, max_tokens=4, stream=True))
    roles = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].delta.role]
    assert sorted(roles) == [0, 1, 2]


def test_logprobs_carry_the_bytes_of_each_token(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    answer = rig.openai.chat.completions.create(
        model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=3, extra_body={"ignore_eos": True}
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 3
    assert all(len(position.top_logprobs) == 2 for position in content)
    for position, token in zip(content, rig.worker.submitted[0].token_ids, strict=False):
        assert position.token == backend.decode([token + 1], skip_special_tokens=False)
        assert position.logprob == -0.5
    assert rig.worker.submitted[0].sampling.num_logprobs == 2


def test_logprobs_of_the_chosen_token_alone(rig: Rig) -> None:
    answer = rig.openai.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, max_tokens=1)
    assert answer.choices[0].logprobs.content[0].top_logprobs == []
    assert rig.worker.submitted[0].sampling.num_logprobs == 0


def test_a_split_characters_bytes_join_up(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    tokens = backend.encode("🙈").ids
    assert len(tokens) > 1

    def answer(request: Request) -> Iterator[SequenceOutput]:
        for at, token in enumerate(tokens):
            end = End(EndReason.LENGTH) if at == len(tokens) - 1 else None
            yield SequenceOutput(request.id, [token], logprobs=[TokenLogprobs(-1.0, [], [])], end=end)

    rig.worker.answer = answer
    found = rig.openai.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True)
    content = found.choices[0].logprobs.content
    assert bytes(byte for position in content for byte in position.bytes).decode() == "🙈"
    assert found.choices[0].message.content == "🙈"


def test_text_parts_are_lines_and_developer_is_system(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    messages = [
        {"role": "developer", "content": "the fox"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    ]
    rig.openai.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
    assert prompt_text(rig, backend).startswith(
        "<|im_start|>system\nthe fox<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>"
    )


def test_the_last_message_can_be_continued(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "the qui"}]
    rig.openai.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=1, extra_body={"continue_final_message": True}
    )
    assert prompt_text(rig, backend).endswith("<|im_start|>assistant\nthe qui")
    rig.openai.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=1, extra_body={"add_generation_prompt": False}
    )
    assert prompt_text(rig, backend).endswith("<|im_end|>\n")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_either_name_limits_the_answer(rig: Rig, name: str) -> None:
    answer = rig.openai.chat.completions.create(
        model=MODEL, messages=HELLO, **{name: 2, "extra_body": {"ignore_eos": True}}
    )
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "empty"),
        ([{"role": "narrator", "content": "x"}], "narrator"),
        ([{"role": "user"}], "missing"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "text"}]}], "without `text`"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}], "tool_calls"),
        ([{"role": "user", "content": "x", "mood": "good"}], "mood"),
        ([{"role": "user", "content": 7}], "content"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "system comes first"),
    ],
)
def test_messages_that_cannot_be_used_are_refused_with_the_reason(rig: Rig, messages: list[Any], said: str) -> None:
    with pytest.raises(BadRequestError, match=said) as caught:
        rig.openai.chat.completions.create(model=MODEL, messages=messages)
    assert caught.value.body["param"].startswith("messages")
    assert not rig.worker.submitted


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"prompt": "x"}, "prompt"),
        ({"max_tokens": 1000}, "max_tokens"),
    ],
)
def test_wrong_options_are_refused_by_name(rig: Rig, options: dict[str, Any], param: str) -> None:
    response = rig.post("/v1/chat/completions", messages=HELLO, **options)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
