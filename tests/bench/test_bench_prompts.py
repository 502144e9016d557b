"""Prompts: deterministic, inside their range, and sharing prefixes exactly where the trace says so."""

from __future__ import annotations

import json

import msgspec
import pytest

from tokenworks.bench.arrivals import LengthRange, PlannedRequest
from tokenworks.bench.prompts import PromptStyle, prompt_text, prompt_token_ids, request_body, splitmix64

STYLE = PromptStyle(model="m")


def planned(index: int, input_tokens: int, *block_ids: int) -> PlannedRequest:
    return PlannedRequest(index, 0.0, input_tokens, 8, block_ids)


def shared_prefix(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def test_splitmix64_gives_the_published_first_outputs() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317


def test_ids_have_the_asked_length_and_range() -> None:
    style = PromptStyle(model="m", token_ids=LengthRange(10, 12))
    ids = prompt_token_ids(planned(0, 300), style)
    assert len(ids) == 300
    assert set(ids) == {10, 11, 12}


def test_requests_without_blocks_share_nothing_and_repeat_with_the_seed() -> None:
    first, second = (prompt_token_ids(planned(index, 200), STYLE) for index in (0, 1))
    reseeded = prompt_token_ids(planned(0, 200), msgspec.structs.replace(STYLE, seed=1))
    assert shared_prefix(first, second) < 3
    assert shared_prefix(first, reseeded) < 3
    assert first == prompt_token_ids(planned(0, 200), STYLE)


@pytest.mark.parametrize("block_tokens", [512.0, 51.2, 6.656, 0.3])
def test_requests_share_exactly_the_tokens_of_their_common_leading_blocks(block_tokens: float) -> None:
    style = msgspec.structs.replace(STYLE, block_tokens=block_tokens, token_ids=LengthRange(0, 10**9))
    num_tokens = round(4 * block_tokens) + 2
    first = prompt_token_ids(planned(0, num_tokens, 7, 8, 9, 10), style)
    second = prompt_token_ids(planned(1, num_tokens, 7, 8, 11, 10), style)
    assert shared_prefix(first, second) == round(2 * block_tokens)
    # an equal id at an equal place is equal content even after a difference; what follows the blocks is each one's own
    tail = round(4 * block_tokens)
    assert first[round(3 * block_tokens) : tail] == second[round(3 * block_tokens) : tail]
    assert first[tail:] != second[tail:]


def test_a_short_prompt_is_a_prefix_of_a_longer_one_of_the_same_blocks() -> None:
    short, long = prompt_token_ids(planned(0, 600, 1, 2), STYLE), prompt_token_ids(planned(1, 1000, 1, 2), STYLE)
    assert long[:600] == short


@pytest.mark.parametrize("block_id", [-1, 2**63, 2**70])
def test_block_ids_of_any_size_are_taken(block_id: int) -> None:
    assert len(prompt_token_ids(planned(0, 5, block_id), STYLE)) == 5


def test_text_has_one_word_per_id_and_keeps_prefixes() -> None:
    text = prompt_text([0, 1, 2, 0])
    assert text == "the of and the"


def test_a_completions_body_asks_for_a_stream_with_usage_and_a_forced_length() -> None:
    style = PromptStyle(model="m", extra_body={"service_tier": "flex"})
    assert json.loads(request_body(planned(3, 4), style)) == {
        "model": "m",
        "prompt": prompt_token_ids(planned(3, 4), style),
        "max_tokens": 8,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "service_tier": "flex",
    }


def test_chat_and_text_bodies_carry_words() -> None:
    chat = json.loads(request_body(planned(3, 4), PromptStyle(model="m", endpoint="chat", ignore_eos=False)))
    text = json.loads(request_body(planned(3, 4), PromptStyle(model="m", kind="text")))
    assert len(text["prompt"].split()) == 4
    assert chat["messages"] == [{"role": "user", "content": text["prompt"]}]
    assert "ignore_eos" not in chat
