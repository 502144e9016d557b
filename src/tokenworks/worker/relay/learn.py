"""Learns, by trying, what a foreign server takes and honours.

A parameter outside OpenAI's own API counts as honoured where a sound value is taken and an absurd one is refused: a
server that takes both has not looked. llama.cpp's never looks and is known by its name instead. A few tokens are spent
on it; a request that is refused costs none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from tokenworks.contract.errors import StartupError
from tokenworks.text.tokenizer import Tokenizer
from tokenworks.worker.relay.dialect import Dialect
from tokenworks.worker.relay.upstream import (
    ListedModel,
    Upstream,
    UpstreamBusy,
    UpstreamDown,
    UpstreamError,
    UpstreamRefusal,
    decode_answer,
)

log = logging.getLogger(__name__)

SAMPLE: Final = "The quick brown fox: 3.14 naïve 你好\n\n    def f(x): return x"
ABSURD: Final = {"absurd": True}  # is no value of any parameter below
OWN: Final[Mapping[str, Any]] = {"top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": (1 << 62) + 1}
"""OpenAI's own: a server that takes these is trusted to honour them."""

FURTHER: Final[Mapping[str, Any]] = {
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "ignore_eos": True,
    "stop_token_ids": [1],
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "add_special_tokens": False,
    "cache_salt": "tokenworks",
}
USAGE: Final = ({"include_usage": True, "continuous_usage_stats": True}, {"include_usage": True})
"""From the most that may be asked for to the least."""

LLAMA_CPP: Final = "llamacpp"
LLAMA_CPP_HONOURS: Final = frozenset({*OWN, "top_k", "min_p", "repetition_penalty", "ignore_eos"})


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None


class _Completion(msgspec.Struct, frozen=True):
    choices: list[Any]
    usage: _Usage = _Usage()


class Learnt(msgspec.Struct, frozen=True):
    """What there is to know of a server before the first real request."""

    dialect: Dialect
    maker: str  # of the server, as it says
    max_context_tokens: int | None  # None: it does not say


async def learn(upstream: Upstream, wanted_model: str, tokenizer: Tokenizer) -> Learnt:
    """Raises UpstreamError where the server cannot be asked, StartupError where it cannot be used."""
    model = pick_model(await upstream.models(), wanted_model, upstream.url)
    await _check_tokenizer(upstream, model, tokenizer)
    trial = _Trial(upstream, model.id, tokenizer)
    takes_ids = await trial.find_prompt()
    window = model.max_model_len or await upstream.window()
    if model.owned_by == LLAMA_CPP:
        dialect = _llama_cpp(model.id, window)
    else:
        dialect = Dialect(model.id, honours=await trial.honoured())
    return Learnt(
        msgspec.structs.replace(
            dialect,
            takes_ids=takes_ids,
            always={**dialect.always, **await trial.usage_option()},
            eos_token_ids=tokenizer.eos_token_ids,
        ),
        model.owned_by or "a server",
        window,
    )


def _llama_cpp(model: str, window: int | None) -> Dialect:
    """A penalty looks back over its last 64 tokens only, unless told otherwise; new versions refuse -1 for all."""
    return Dialect(
        model,
        honours=LLAMA_CPP_HONOURS,
        names={"repetition_penalty": "repeat_penalty"},
        always={"repeat_last_n": window} if window else {},
    )


def pick_model(models: list[ListedModel], wanted: str, url: str) -> ListedModel:
    """The one wanted, or the first; raises StartupError.

    Who lists none may serve one all the same (`transformers serve` lists what it has downloaded): then it is what is
    wanted, and the trials that follow show whether it is there.
    """
    if not models and wanted:
        return ListedModel(wanted)
    if not models:
        raise StartupError(f"the server at {url} lists no model; load one there, or name it in `upstream_model`")
    found = [model for model in models if wanted in ("", model.id)]
    if not found:
        names = ", ".join(model.id for model in models)
        raise StartupError(f"the server at {url} does not serve `{wanted}`; set `upstream_model` to one of: {names}")
    return found[0]


async def _check_tokenizer(upstream: Upstream, model: ListedModel, tokenizer: Tokenizer) -> None:
    """Raises StartupError where the server tells its tokens, and they are not ours: it is another model."""
    if model.owned_by == LLAMA_CPP:
        body: dict[str, Any] = {"content": SAMPLE, "add_special": False}
    else:
        body = {"model": model.id, "prompt": SAMPLE, "add_special_tokens": False}
    theirs = await upstream.token_ids(body)
    if theirs is None:
        log.info("%s does not tell its tokens: that it serves the same model is taken on trust", upstream.url)
    elif theirs != tokenizer.encode(SAMPLE, add_special_tokens=False):
        raise StartupError(
            f"the server at {upstream.url} serves `{model.id}`, whose tokens are not those of this pool's model; start "
            "it with the same checkpoint, or correct `url` or `upstream_model`"
        )


class _Trial:
    """Short requests and what becomes of them."""

    def __init__(self, upstream: Upstream, model: str, tokenizer: Tokenizer) -> None:
        self._upstream = upstream
        self._ids = tokenizer.encode(SAMPLE, add_special_tokens=False)
        self._body: dict[str, Any] = {"model": model, "prompt": self._ids, "max_tokens": 1, "temperature": 0.0}

    async def find_prompt(self) -> bool:
        """Whether token ids are taken for what they are; raises StartupError where text is not taken either."""
        if await self._takes_ids():
            return True
        self._body["prompt"] = SAMPLE
        try:
            await self._upstream.complete(self._body)
        except UpstreamRefusal as error:
            raise StartupError(f"the server at {self._upstream.url} refuses a plain completion: {error}") from error
        return False

    async def honoured(self) -> frozenset[str]:
        """The parameters with an effect."""
        looked_at = [name for name in FURTHER if not await self._accepts({name: ABSURD})]
        return frozenset([*await self._accepted(OWN, OWN), *await self._accepted(FURTHER, looked_at)])

    async def usage_option(self) -> dict[str, Any]:
        """What makes the server count tokens in a stream, if anything does."""
        for options in USAGE:
            try:
                async for _ in self._upstream.stream({**self._body, "stream": True, "stream_options": options}):
                    pass
            except UpstreamRefusal:
                continue
            return {"stream_options": options}
        return {}

    async def _accepted(self, values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
        """Those of the names whose values are taken: all at once, or else one by one."""
        wanted = {name: values[name] for name in names}
        if await self._accepts(wanted):
            return list(wanted)
        return [name for name, value in wanted.items() if await self._accepts({name: value})]

    async def _accepts(self, extra: Mapping[str, Any]) -> bool:
        try:
            await self._upstream.complete({**self._body, **extra})
        except (UpstreamBusy, UpstreamDown):
            raise
        except UpstreamError:  # some answer 500 to what they do not understand
            return False
        return True

    async def _takes_ids(self) -> bool:
        try:
            answer = decode_answer(await self._upstream.complete(self._body), _Completion)
        except (UpstreamBusy, UpstreamDown):
            raise
        except UpstreamError:
            return False
        return answer.usage.prompt_tokens in (None, len(self._ids))
