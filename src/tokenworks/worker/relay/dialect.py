"""How to put a request to one foreign server: what it takes, what it honours, and the body that says it.

Pure. A parameter that the server would ignore is refused by name before anything is sent, so that another worker can
run the request; one that asks for nothing is left out. What is honoured is always said, since servers have defaults of
their own (vLLM takes them from the checkpoint's `generation_config.json`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from tokenworks.contract.request import Request, Sampling
from tokenworks.worker.relay.upstream import UpstreamRefusal

OFF: Final[Mapping[str, float]] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Parameters that change what is sampled, and the value with which each changes nothing."""

_FOR_CHANCE: Final = ("top_p", "top_k", "min_p")  # mean nothing where the likeliest token is taken

_OF_OUTPUT: Final = ("presence_penalty", "frequency_penalty")  # count what was written, and not the prompt


class Dialect(msgspec.Struct, frozen=True):
    """What was learnt of a server."""

    model: str  # the model's name there
    takes_ids: bool = True  # a prompt may be token ids
    honours: frozenset[str] = frozenset()  # parameters that have an effect
    names: Mapping[str, str] = {}  # of those that the server calls by another name
    always: Mapping[str, Any] = {}  # said with every request
    eos_token_ids: tuple[int, ...] = ()  # at which the server stops by itself


def completion_body(request: Request, prompt: str | list[int], dialect: Dialect) -> dict[str, Any]:
    """The body for `/completions`; raises UpstreamRefusal that names the parameter which cannot be honoured."""
    sampling = request.sampling
    said: dict[str, Any] = {
        **_steering(request, dialect),
        **_stopping(sampling, dialect),
        "seed": sampling.seed,
        "add_special_tokens": False,
        "return_token_ids": True,
    }
    if request.salt:
        said["cache_salt"] = request.salt
    return {
        "model": dialect.model,
        "prompt": prompt,
        "max_tokens": sampling.max_tokens - request.num_generated,
        "temperature": sampling.temperature,
        "stream": True,
        **dialect.always,
        **_logprobs(sampling, dialect),
        **{dialect.names.get(name, name): value for name, value in said.items() if name in dialect.honours},
    }


def _steering(request: Request, dialect: Dialect) -> dict[str, Any]:
    """What changes the sampling. Of a continuation the server takes the tokens behind the prompt for prompt as well,
    so it would not count them in its penalties.
    """
    said, sampling = {}, request.sampling
    for name, off in OFF.items():
        value = getattr(sampling, name)
        is_off = value == off or (name == "top_k" and value <= 0) or (name in _FOR_CHANCE and not sampling.temperature)
        said[name] = off if is_off else value
        _check(is_off or (name in dialect.honours and not (name in _OF_OUTPUT and request.num_generated)), name)
    return said


def _stopping(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    wanted = sampling.stop_token_ids
    ignores_eos = not set(dialect.eos_token_ids) <= set(wanted)
    own = () if ignores_eos else dialect.eos_token_ids
    _check(not ignores_eos or "ignore_eos" in dialect.honours, "ignore_eos")
    # Where ids come back the answer's reader stops at them itself.
    _check(set(wanted) <= set(own) or _any_of(("stop_token_ids", "return_token_ids"), dialect), "stop_token_ids")
    return {"ignore_eos": ignores_eos, "stop_token_ids": list(wanted)}


def _logprobs(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """Log probabilities are passed on only where their tokens come as ids."""
    if sampling.num_logprobs is None:
        return {}
    _check({"return_token_ids", "return_tokens_as_token_ids"} <= dialect.honours, "logprobs")
    return {"logprobs": sampling.num_logprobs, "return_tokens_as_token_ids": True}


def _any_of(names: Collection[str], dialect: Dialect) -> bool:
    return not dialect.honours.isdisjoint(names)


def _check(is_honoured: bool, name: str) -> None:
    if not is_honoured:
        raise UpstreamRefusal(f"`{name}` is not known to the server that would run this; leave it out", param=name)
