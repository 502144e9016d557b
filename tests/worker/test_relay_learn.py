"""What is learnt of a foreign server by trying, and what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest

from tests.foreign_server import FURTHER, OWN, ForeignServer
from tokenworks.contract.config import EngineSettings
from tokenworks.contract.errors import StartupError
from tokenworks.fleet.launch import EMBEDDED_MODEL
from tokenworks.text.tokenizer import Tokenizer, load_tokenizer
from tokenworks.worker.relay.learn import LLAMA_CPP, LLAMA_CPP_HONOURS, SAMPLE, Learnt, learn, pick_model
from tokenworks.worker.relay.measure import Timing, measure_card, ordinary_ids, timing
from tokenworks.worker.relay.upstream import ListedModel, Upstream, UpstreamBusy, open_upstream

T = TypeVar("T")
Foreign = Callable[..., ForeignServer]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(EMBEDDED_MODEL)


def ask(server: ForeignServer, question: Callable[[Upstream], Coroutine[None, None, T]]) -> T:
    async def run() -> T:
        async with open_upstream(server.url) as upstream:
            return await question(upstream)

    return asyncio.run(run())


def learnt_of(server: ForeignServer, tokenizer: Tokenizer) -> Learnt:
    return ask(server, lambda upstream: learn(upstream, "", tokenizer))


def test_a_server_that_knows_everything(foreign: Foreign, tokenizer: Tokenizer) -> None:
    found = learnt_of(foreign(), tokenizer)
    assert found.dialect.takes_ids
    assert found.dialect.honours == {*OWN, *FURTHER}
    assert found.dialect.always == {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    assert found.dialect.eos_token_ids == tokenizer.eos_token_ids
    assert (found.dialect.model, found.maker, found.max_context_tokens) == ("scripted", "scripted", 200)


def test_a_parameter_that_a_server_ignores_is_not_counted_on(foreign: Foreign, tokenizer: Tokenizer) -> None:
    assert learnt_of(foreign(knows=(*OWN, "top_k")), tokenizer).dialect.honours == {*OWN, "top_k"}


def test_of_a_server_that_looks_at_nothing_only_openais_own_is_believed(foreign: Foreign, tokenizer: Tokenizer) -> None:
    assert learnt_of(foreign(checks=False), tokenizer).dialect.honours == set(OWN)


def test_llama_cpp_is_known_by_its_name(foreign: Foreign, tokenizer: Tokenizer) -> None:
    dialect = learnt_of(foreign(owned_by=LLAMA_CPP, checks=False), tokenizer).dialect
    assert dialect.honours == LLAMA_CPP_HONOURS
    assert dialect.names == {"repetition_penalty": "repeat_penalty"}
    assert dialect.always["repeat_last_n"] == 200  # its window: all there can be


def test_a_server_that_takes_text_only(foreign: Foreign, tokenizer: Tokenizer) -> None:
    server = foreign(takes_ids=False)
    assert not learnt_of(server, tokenizer).dialect.takes_ids
    assert server.bodies[-1]["prompt"] == SAMPLE


def test_another_models_tokens_are_refused(foreign: Foreign, tokenizer: Tokenizer) -> None:
    ours = tokenizer.encode(SAMPLE, add_special_tokens=False)
    learnt_of(foreign(tokens=ours), tokenizer)
    with pytest.raises(StartupError, match="start it with the same checkpoint"):
        learnt_of(foreign(tokens=ours[:-1]), tokenizer)


def test_the_wanted_model_must_be_listed() -> None:
    models = [ListedModel("a"), ListedModel("b")]
    assert pick_model(models, "", "http://x").id == "a"
    assert pick_model(models, "b", "http://x").id == "b"
    with pytest.raises(StartupError, match="set `upstream_model` to one of: a, b"):
        pick_model(models, "c", "http://x")
    with pytest.raises(StartupError, match="lists no model"):
        pick_model([], "", "http://x")
    assert pick_model([], "unlisted", "http://x").id == "unlisted"


def test_a_busy_server_is_not_mistaken_for_an_ignorant_one(foreign: Foreign, tokenizer: Tokenizer) -> None:
    server = foreign()
    server.status = 503
    with pytest.raises(UpstreamBusy):
        learnt_of(server, tokenizer)


def test_a_server_that_refuses_everything_cannot_be_used(foreign: Foreign, tokenizer: Tokenizer) -> None:
    server = foreign()
    server.status = 400
    with pytest.raises(StartupError, match="refuses a plain completion: no"):
        learnt_of(server, tokenizer)


@pytest.mark.parametrize("takes_ids", [True, False])
def test_the_card_is_made_of_real_requests(foreign: Foreign, tokenizer: Tokenizer, takes_ids: bool) -> None:
    server = foreign(takes_ids=takes_ids)
    found = learnt_of(server, tokenizer)
    server.bodies.clear()
    engine = EngineSettings(price_per_hour=1.5, watts=70)
    card = ask(server, lambda upstream: measure_card(upstream, found, tokenizer, 200, engine))
    assert [(p.new_tokens, p.context_tokens) for p in card.prefill_points] == [(16, 0)]  # 256 do not fit the window
    assert [(p.batch, p.context_tokens) for p in card.decode_points] == [(1, 16), (4, 16)]
    assert min(p.seconds for p in (*card.prefill_points, *card.decode_points)) > 0
    assert (card.price_per_hour, card.watts) == (1.5, 70)
    assert card.device == f"scripted at {server.url}"
    assert len(server.bodies) == 6
    assert all(isinstance(body["prompt"], list if takes_ids else str) for body in server.bodies)
    assert len({str(body["prompt"]) for body in server.bodies}) == 6


def test_a_server_that_hangs_up_behind_a_stream_is_asked_on_a_new_connection(
    foreign: Foreign, tokenizer: Tokenizer
) -> None:
    """As llama.cpp's does: the next request would break on the old one."""
    server = foreign()
    server.hangs_up = True

    async def stream_often(upstream: Upstream) -> list[bytes]:
        body = {"prompt": [300, 310], "max_tokens": 2, "stream": True}
        return [b"".join([chunk async for chunk in upstream.stream(body)]) for _ in range(20)]

    assert all(answer.endswith(b"data: [DONE]\n\n") for answer in ask(server, stream_often))


def test_tokens_that_come_at_once_share_the_time() -> None:
    assert timing(1.0, [(3.0, 1), (4.0, 2), (7.0, 2)]) == Timing(2.0, 1.0)
    assert timing(1.0, [(3.0, 4)]) == Timing(2.0, 0.5)
    assert timing(1.0, [(3.0, 1)]) == Timing(2.0, None)


def test_made_up_prompts_are_text_for_any_server(tokenizer: Tokenizer) -> None:
    ids = ordinary_ids(tokenizer)
    assert len(ids) > 1000
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.decode(ids).isascii()
