"""`/v1/completions` through the official client, against outputs computed by hand."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import tokenizers
from openai import AsyncOpenAI

from tokenworks.contract.request import Scenario
from tokenworks.contract.wire import SequenceOutput, TokenLogprobs

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig, WaitUntil


MODEL = "tiny-echo"
PROMPT = [100, 110, 120]


def echo(prompt: list[int], num: int) -> list[int]:
    """What the worker writes."""
    return [token + 1 for token in itertools.islice(itertools.cycle(prompt), num)]


def test_a_text_prompt_is_tokenised_once_and_answered(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    answer = rig.openai.completions.create(model=MODEL, prompt="the quick brown fox", max_tokens=5)
    ids = backend.encode("the quick brown fox").ids
    assert rig.worker.submitted[0].token_ids == ids
    assert answer.choices[0].text == backend.decode(echo(ids, 5))
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.model == MODEL
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": len(ids),
        "completion_tokens": 5,
        "total_tokens": len(ids) + 5,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_token_ids_are_taken_as_they_are(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    answer = rig.openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4)
    assert rig.worker.submitted[0].token_ids == PROMPT
    assert answer.choices[0].text == backend.decode(echo(PROMPT, 4))


@pytest.mark.parametrize("stop", [None, ["no such text"]])
def test_token_ids_are_given_to_who_asks(rig: Rig, stop: list[str] | None) -> None:
    body = {"prompt": PROMPT, "max_tokens": 4, "stop": stop}
    asking = body | {"return_token_ids": True}
    whole = rig.http.post("/v1/completions", json=asking).json()
    assert whole["choices"][0]["token_ids"] == echo(PROMPT, 4)
    assert "token_ids" not in rig.http.post("/v1/completions", json=body).json()["choices"][0]
    streamed = [
        token_id
        for chunk in rig.openai.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=4, stop=stop, stream=True, extra_body={"return_token_ids": True}
        )
        for token_id in chunk.choices[0].model_dump()["token_ids"]
    ]
    assert streamed == echo(PROMPT, 4)


@pytest.mark.parametrize("prompts", [["the dog", "the fox"], [[100, 101], [102]]])
def test_a_batch_of_prompts_with_n_is_indexed_prompt_first(
    rig: Rig, backend: tokenizers.Tokenizer, prompts: list[Any]
) -> None:
    answer = rig.openai.completions.create(model=MODEL, prompt=prompts, n=2, max_tokens=3, seed=7)
    ids = [backend.encode(each).ids if isinstance(each, str) else each for each in prompts]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = [backend.decode(echo(ids[index // 2], 3)) for index in range(4)]
    assert [choice.text for choice in answer.choices] == expected
    seeds = [request.sampling.seed for request in rig.worker.submitted]
    assert seeds[0] == 7
    assert len({*seeds, 8, 9, 10}) == 7  # all different, and not those that another request would be given
    assert [request.id.rsplit("-", 1)[1] for request in rig.worker.submitted] == ["0", "1", "2", "3"]
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens_details.cached_tokens == 8


def test_a_stream_brings_the_same_text_in_pieces(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    chunks = list(rig.openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=6, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == backend.decode(echo(PROMPT, 6))
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_choices_of_a_stream_are_told_apart_by_index(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    texts = {index: "" for index in range(4)}
    for chunk in rig.openai.completions.create(model=MODEL, prompt=[[100], [200]], n=2, max_tokens=5, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {index: backend.decode(echo([[100], [200]][index // 2], 5)) for index in range(4)}


def test_the_wire_format_of_a_stream(rig: Rig) -> None:
    with rig.http.stream(
        "POST", "/v1/completions", json={"prompt": PROMPT, "max_tokens": 2, "stream": True}
    ) as response:
        lines = list(response.iter_lines())
    assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line == "" or line.startswith("data: ") for line in lines)


def test_usage_comes_last_or_all_the_time(rig: Rig) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        rig.openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=3, stream=True, stream_options=options)
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    running = [chunk.usage.completion_tokens for chunk in chunks[:-1]]
    assert running == sorted(running)
    assert running[-1] == 3
    only_last = list(
        rig.openai.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage is None for chunk in only_last[:-1]] == [True] * (len(only_last) - 1)
    assert only_last[-1].usage.total_tokens == 6


def test_characters_that_span_tokens_arrive_whole(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    text = "你好🙂 naïve 🙃 世界"
    ids = [token - 1 for token in backend.encode(text).ids]
    chunks = list(rig.openai.completions.create(model=MODEL, prompt=ids, max_tokens=len(ids), stream=True))
    pieces = [chunk.choices[0].text for chunk in chunks]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stop_string_ends_the_text_before_it_and_cancels_the_worker(
    rig: Rig, backend: tokenizers.Tokenizer, wait_until: WaitUntil
) -> None:
    text = "the quick brown fox"
    ids = [token - 1 for token in backend.encode(text).ids]
    rig.worker.max_steps = len(ids)  # so that it would wait for ever if it were not cancelled
    for stream in (False, True):
        answer = rig.openai.completions.create(
            model=MODEL, prompt=ids, max_tokens=200, stop=["zzz", "n f"], stream=stream
        )
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        assert "".join(choice.text for choice in choices) == "the quick brow"
        assert choices[-1].finish_reason == "stop"
    wait_until(lambda: [request.id for request in rig.worker.submitted] == rig.worker.cancelled)


def test_the_stop_string_is_shown_on_demand(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    ids = [token - 1 for token in backend.encode("the quick brown fox").ids]
    answer = rig.openai.completions.create(
        model=MODEL, prompt=ids, max_tokens=50, stop="quick", extra_body={"include_stop_str_in_output": True}
    )
    assert answer.choices[0].text == "the quick"


def test_text_held_for_a_stop_string_comes_out_at_the_end(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    ids = [token - 1 for token in backend.encode("the dog").ids]
    answer = rig.openai.completions.create(model=MODEL, prompt=ids, max_tokens=len(ids), stop=["dogs"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("the dog", "length")


def test_end_and_stop_tokens_end_the_text_and_are_not_shown(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    prompt = [99, 149, 100]
    answer = rig.openai.completions.create(
        model=MODEL, prompt=prompt, max_tokens=9, extra_body={"stop_token_ids": [150]}
    )
    assert rig.worker.submitted[0].sampling.stop_token_ids == (0, 2, 150)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (backend.decode([100]), "stop")
    assert answer.usage.completion_tokens == 2
    shown = rig.openai.completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=9,
        extra_body={"stop_token_ids": [150], "include_stop_str_in_output": True, "ignore_eos": True},
    )
    assert rig.worker.submitted[1].sampling.stop_token_ids == (150,)
    assert shown.choices[0].text == backend.decode([100, 150])


def test_special_tokens_are_hidden_unless_wanted(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    options = {"ignore_eos": True}
    hidden = rig.openai.completions.create(model=MODEL, prompt=[1, 99], max_tokens=2, extra_body=options)
    assert hidden.choices[0].text == backend.decode([100])
    options["skip_special_tokens"] = False
    shown = rig.openai.completions.create(model=MODEL, prompt=[1, 99], max_tokens=2, extra_body=options)
    assert shown.choices[0].text == "<|im_end|>" + backend.decode([100])


def test_logprobs_have_openais_shape(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    text = "the quick"
    ids = [token - 1 for token in backend.encode(text).ids]
    answer = rig.openai.completions.create(model=MODEL, prompt=ids, max_tokens=len(ids), logprobs=2)
    found = answer.choices[0].logprobs
    assert "".join(found.tokens) == text
    assert found.token_logprobs == [-0.5] * len(ids)
    assert [len(top) for top in found.top_logprobs] == [2] * len(ids)
    assert found.text_offset == [len("".join(found.tokens[:at])) for at in range(len(ids))]
    chosen_only = rig.openai.completions.create(model=MODEL, prompt=ids, max_tokens=1, logprobs=0)
    assert chosen_only.choices[0].logprobs.top_logprobs == [{found.tokens[0]: -0.5}]


def test_streamed_logprobs_join_up_to_the_whole_ones(rig: Rig) -> None:
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 5, "logprobs": 1}
    whole = rig.openai.completions.create(**options).choices[0].logprobs
    pieces = [chunk.choices[0].logprobs for chunk in rig.openai.completions.create(**options, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert list(itertools.chain(*(getattr(piece, name) for piece in pieces))) == getattr(whole, name)


def test_a_piece_of_a_character_has_a_name_of_its_own(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    first = backend.encode("\u2248").ids[0]  # the first byte of a sign that the tokenizer has never seen
    answer = rig.openai.completions.create(model=MODEL, prompt=[first - 1], max_tokens=1, logprobs=1)
    assert answer.choices[0].logprobs.tokens == ["bytes:\\xe2"]
    assert answer.choices[0].text == "\ufffd"


def test_a_log_probability_of_minus_infinity_is_a_number(rig: Rig) -> None:
    nothing = float("-inf")
    rig.worker.answer = lambda request: iter(
        [SequenceOutput(request.id, [100], logprobs=[TokenLogprobs(nothing, [101], [nothing])])]
    )
    rig.worker.max_steps = 1
    with rig.openai.completions.create(model=MODEL, prompt=PROMPT, logprobs=1, stream=True) as stream:
        assert next(iter(stream)).choices[0].logprobs.token_logprobs == [-9999.0]


def test_every_sampling_parameter_reaches_the_worker(rig: Rig) -> None:
    rig.openai.completions.create(
        model=MODEL,
        prompt=PROMPT,
        max_tokens=1,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        seed=42,
        user="someone",
        logprobs=3,
        extra_body={
            "top_k": 5,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "service_tier": "flex",
            "metadata": {"a": "b"},
        },
    )
    request = rig.worker.submitted[0]
    assert request.scenario is Scenario.OFFLINE
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 5, 0.05)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.1, -0.2)
    assert (sampling.repetition_penalty, sampling.seed, sampling.num_logprobs) == (1.1, 42, 3)


def test_defaults_come_from_the_checkpoint_then_from_openai(rig: Rig) -> None:
    for _ in range(2):
        rig.openai.completions.create(model=MODEL, prompt=PROMPT)
    first, second = (request.sampling for request in rig.worker.submitted)
    assert (first.temperature, first.top_k, first.max_tokens, first.num_logprobs) == (1.0, 20, 16, None)
    assert first.seed != second.seed
    rig.openai.completions.create(model=MODEL, prompt=PROMPT, extra_body={"top_k": -1})
    assert rig.worker.submitted[2].sampling.top_k == 0


def test_parameters_that_ask_for_nothing_are_taken(rig: Rig) -> None:
    nothing = {
        "suffix": None,
        "echo": False,
        "logit_bias": {},
        "best_of": 1,
        "n": None,
        "stop": None,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "store": False,
        "min_tokens": 0,
        "temperature": None,
    }
    assert rig.post("/v1/completions", prompt=PROMPT, max_tokens=1, **nothing).status_code == 200


def test_the_request_id_and_tier_come_back(rig: Rig) -> None:
    response = rig.http.post(
        "/v1/completions",
        json={"prompt": PROMPT, "max_tokens": 1, "service_tier": "priority"},
        headers={"x-request-id": "mine-1", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"},
    )
    assert response.headers["x-request-id"] == "mine-1"
    assert response.json()["service_tier"] == "priority"
    other = rig.http.post("/v1/completions", json={"prompt": PROMPT}, headers={"x-request-id": "not an id"})
    assert len(other.headers["x-request-id"]) == 24
    assert "authorization" not in other.headers


async def test_many_clients_at_once_each_get_their_own_text(rig: Rig, backend: tokenizers.Tokenizer) -> None:
    async with httpx.AsyncClient(timeout=20) as http:
        client = AsyncOpenAI(base_url=f"{rig.gateway.url}/v1", api_key="any", http_client=http)

        async def one(token: int) -> str:
            stream = await client.completions.create(model=MODEL, prompt=[token], max_tokens=8, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

        texts = await asyncio.gather(*(one(token) for token in range(50, 90)))
    assert texts == [backend.decode(echo([token], 8)) for token in range(50, 90)]
