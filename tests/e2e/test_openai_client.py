"""The official `openai` client through every endpoint and option, against real processes and a real model."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

pytestmark = pytest.mark.slow

MODEL = "embedded"
QUESTION: list[Any] = [{"role": "user", "content": "What does os.path.join do?"}]


def chat(client: OpenAI, **options: Any) -> Any:
    options = {"max_tokens": 24, "temperature": 0, "messages": QUESTION, **options}
    return client.chat.completions.create(model=MODEL, **options)


def complete(
    client: OpenAI, prompt: Any = "The with statement", extra: dict[str, Any] | None = None, **options: Any
) -> Any:
    options = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True, **(extra or {})}, **options}
    return client.completions.create(model=MODEL, prompt=prompt, **options)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_chat_answer_is_text_that_a_person_can_read(client: OpenAI) -> None:
    answer = chat(client, max_tokens=60)
    text = answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    words = text.split()
    assert len(words) > 4
    assert sum(word.strip(".,:;()'\"").isalpha() for word in words) > len(words) / 2
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_says_the_same_as_a_whole_one(client: OpenAI) -> None:
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


def test_prompts_as_text_ids_and_lists_of_either(client: OpenAI, served: Any) -> None:
    one = complete(client).choices[0].text
    tokens = httpx.post(f"{served.url}/tokenize", json={"prompt": "The with statement"}, timeout=60).json()["tokens"]
    assert (
        httpx.post(f"{served.url}/detokenize", json={"tokens": tokens}, timeout=60).json()["prompt"]
        == "The with statement"
    )
    assert complete(client, tokens).choices[0].text == one
    for prompts in (["The with statement"] * 2, [tokens, tokens]):
        answer = complete(client, prompts)
        assert [choice.text for choice in answer.choices] == [one, one]
        assert [choice.index for choice in answer.choices] == [0, 1]


def test_seeded_sampling_repeats_and_n_gives_different_choices(client: OpenAI) -> None:
    first = complete(client, temperature=1.0, seed=7, n=3)
    again = complete(client, temperature=1.0, seed=7, n=3)
    texts = [choice.text for choice in first.choices]
    assert [choice.text for choice in again.choices] == texts
    assert len(set(texts)) > 1
    assert complete(client, temperature=1.0, seed=99).choices[0].text not in texts


def test_the_sampling_options_and_vllm_s_extensions_are_taken(client: OpenAI) -> None:
    answer = complete(
        client,
        temperature=0.9,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        seed=1,
        user="someone",
        stop=["\n\n\n"],
        extra={
            "top_k": 20,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "stop_token_ids": [4095],
            "skip_special_tokens": True,
            "service_tier": "flex",
        },
    )
    assert answer.usage.completion_tokens == 12


def test_stop_strings_and_stop_token_ids_end_the_text_before_them(client: OpenAI, served: Any) -> None:
    text = complete(client, max_tokens=30).choices[0].text
    stop = text.split()[2]
    answer = complete(client, max_tokens=30, stop=[stop]).choices[0]
    assert answer.text == text[: text.index(stop)]
    assert answer.finish_reason == "stop"
    streamed = complete(client, max_tokens=30, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.text
    body = {"prompt": text, "add_special_tokens": False}
    tokens = httpx.post(f"{served.url}/tokenize", json=body, timeout=60).json()["tokens"]
    answer = complete(client, max_tokens=30, extra={"stop_token_ids": [tokens[3]]})
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens <= 4


def test_logprobs_in_both_endpoints(client: OpenAI) -> None:
    content = chat(client, logprobs=True, top_logprobs=3, max_tokens=5).choices[0].logprobs.content
    assert len(content) == 5
    for entry in content:
        assert entry.logprob <= 0
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)  # greedy
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 3
    logprobs = complete(client, logprobs=2, max_tokens=5).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 5


def test_a_repeated_prompt_is_not_computed_again(client: OpenAI) -> None:
    prompt = "A prompt that nobody has sent before, " * 30
    first = complete(client, prompt)
    again = complete(client, prompt)
    assert first.usage.prompt_tokens_details.cached_tokens < 32
    assert again.usage.prompt_tokens_details.cached_tokens >= again.usage.prompt_tokens // 32 * 32 - 32
    assert again.choices[0].text == first.choices[0].text


def test_many_at_once_each_get_their_own_answer(client: OpenAI) -> None:
    prompts = [f"The {word} module" for word in ("os", "re", "json", "socket", "ast", "csv", "email", "queue")]
    alone = [complete(client, prompt, max_tokens=20).choices[0].text for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda p: complete(client, p, max_tokens=20).choices[0].text, prompts * 4))
    # bf16 sums depend on the batch's shape, so a near-tie may fall the other way; most must agree.
    agreeing = sum(a == b for a, b in zip(alone * 4, together, strict=True))
    assert agreeing > len(together) * 0.6


def test_embeddings_and_unknown_parameters_are_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="embeddings") as refused:
        client.embeddings.create(model=MODEL, input="x")
    assert refused.value.status_code == 501
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat(client, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    with pytest.raises(openai.BadRequestError, match="temprature") as unknown:
        chat(client, extra_body={"temprature": 1})
    assert "temperature" in unknown.value.message
    with pytest.raises(openai.NotFoundError, match="gpt-5"):
        client.chat.completions.create(model="gpt-5", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="2048"):
        complete(client, "word " * 5000)


async def test_the_async_client_streams_too(served: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, stream=True)
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason


def test_prometheus_can_read_what_was_counted(served: Any, client: OpenAI) -> None:
    before = served.metric("tokenworks_output_tokens_sum")
    count = complete(client).usage.completion_tokens
    assert served.metric("tokenworks_output_tokens_sum") == before + count
