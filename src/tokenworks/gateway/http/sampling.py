"""From the sampling parameters of a body to the `Sampling` that an engine trusts: defaults, ranges, seeds.

A parameter that the client leaves out takes the value that the checkpoint's `generation_config.json` recommends, where
it names one, and otherwise OpenAI's default. Knows nothing of prompts and nothing of text, except that stop strings are
checked here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.request import Sampling
from tokenworks.gateway.http.bodies import ChatBody, CompletionBody, GenerationBody
from tokenworks.text.model_files import GenerationDefaults

MAX_STOP_STRINGS: Final = 64
MAX_STOP_CHARS: Final = 1024
MAX_STOP_TOKEN_IDS: Final = 1024
MAX_N: Final = 128
MAX_LOGPROBS: Final = 20
_SEED_RANGE: Final = 1 << 63
_SEED_STRIDE: Final = 0x9E3779B97F4A7C15  # odd, so that no two choices share a seed


class Range(msgspec.Struct, frozen=True):
    """The values that a number may have."""

    low: float
    high: float
    is_low_open: bool = False

    def check(self, name: str, value: float | None) -> None:
        """Raises InvalidRequest where the value is outside; None is inside."""
        if value is None or (self.low <= value <= self.high and not (self.is_low_open and value == self.low)):
            return
        bound = f"above {self.low:g}" if self.is_low_open else f"from {self.low:g}"
        top = "" if self.high == _NO_LIMIT else f" {'up ' if self.is_low_open else ''}to {self.high:g}"
        raise InvalidRequest(f"`{name}` is {value}; give a number {bound}{top}", param=name)


_NO_LIMIT: Final = float("inf")
_RANGES: Final = {
    "max_tokens": Range(1, _NO_LIMIT),
    "max_completion_tokens": Range(1, _NO_LIMIT),
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, is_low_open=True),
    "top_k": Range(-1, 1 << 31),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0, 10, is_low_open=True),
    "seed": Range(-_SEED_RANGE, _SEED_RANGE * 2 - 1),
    "n": Range(1, MAX_N),
    "top_logprobs": Range(0, MAX_LOGPROBS),
}


def check_ranges(body: GenerationBody) -> None:
    """Raises InvalidRequest that names the parameter and says what it may be."""
    for name, allowed in _RANGES.items():
        allowed.check(name, getattr(body, name, None))
    if isinstance(body, CompletionBody):
        Range(0, MAX_LOGPROBS).check("logprobs", body.logprobs)
        if body.best_of not in (None, body.n or 1):
            raise InvalidRequest("`best_of` other than `n` is not supported; leave it out", param="best_of")


def stop_strings(body: GenerationBody) -> list[str]:
    """The checked stop strings."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"`stop` has {len(stops)} strings; give at most {MAX_STOP_STRINGS}", param="stop")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InvalidRequest(
                f"`stop` has a string of {len(stop)} characters; give 1 to {MAX_STOP_CHARS}", param="stop"
            )
    return stops


def num_logprobs(body: GenerationBody) -> int | None:
    """How many likeliest tokens are wanted at each position; None: no log probabilities at all."""
    if isinstance(body, CompletionBody):
        return body.logprobs
    assert isinstance(body, ChatBody)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def sampling(
    body: GenerationBody, defaults: GenerationDefaults, eos_token_ids: Sequence[int], max_tokens: int
) -> Sampling:
    """The sampling of the first choice; the ranges have been checked."""
    seed = secrets.randbelow(_SEED_RANGE) if body.seed is None else body.seed % _SEED_RANGE
    return Sampling(
        max_tokens=max_tokens,
        temperature=_first(body.temperature, defaults.temperature, 1.0),
        top_p=_first(body.top_p, defaults.top_p, 1.0),
        top_k=max(0, int(_first(body.top_k, defaults.top_k, 0))),
        min_p=_first(body.min_p, defaults.min_p, 0.0),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        seed=seed,
        stop_token_ids=_stop_token_ids(body, eos_token_ids),
        num_logprobs=num_logprobs(body),
    )


def for_choice(first: Sampling, index: int) -> Sampling:
    """The sampling of choice `index`; its seed is far from any that a client would try next, such as seed + 1."""
    return msgspec.structs.replace(first, seed=(first.seed + index * _SEED_STRIDE) % _SEED_RANGE) if index else first


def _stop_token_ids(body: GenerationBody, eos_token_ids: Sequence[int]) -> tuple[int, ...]:
    wanted = body.stop_token_ids or []
    if len(wanted) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"`stop_token_ids` has {len(wanted)} ids; give at most {MAX_STOP_TOKEN_IDS}", param="stop_token_ids"
        )
    eos = () if body.ignore_eos else eos_token_ids
    return tuple(dict.fromkeys((*eos, *wanted)))


def _first(wanted: float | None, recommended: float | None, default: float) -> float:
    if wanted is not None:
        return wanted
    return default if recommended is None else recommended
