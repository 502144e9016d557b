"""From a decoded completion or chat body to the job that runs it: requests for workers and the choices they will fill.

All that can be wrong with a request is found here, before anything is sent to a worker.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.request import AUTO_TIER, SERVICE_TIERS, Request, Scenario
from tokenworks.gateway.http.answer import AnswerFormat, AnswerHead
from tokenworks.gateway.http.bodies import ChatBody, CompletionBody, GenerationBody
from tokenworks.gateway.http.chat_format import ChatFormat
from tokenworks.gateway.http.choice import Choice
from tokenworks.gateway.http.completion_format import CompletionFormat
from tokenworks.gateway.http.prompts import output_budget
from tokenworks.gateway.http.sampling import check_ranges, for_choice, sampling, stop_strings
from tokenworks.gateway.http.service import Service
from tokenworks.gateway.keys.tenants import Caller, salt_for
from tokenworks.gateway.records.record import Recording

DEFAULT_COMPLETION_TOKENS: Final = 16  # OpenAI's default; a chat answer may fill the window
MAX_CHOICES: Final = 2048  # prompts times n
MAX_METADATA_PAIRS: Final = 16  # as OpenAI has it, and the next two
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_CHARS: Final = 512


class Job(msgspec.Struct, frozen=True):
    """One HTTP request, ready to run. Choice i is written by request i."""

    requests: list[Request]
    choices: list[Choice]
    format: AnswerFormat
    prompt_tokens: int  # each prompt counted once
    n: int
    is_stream: bool
    has_usage: bool
    has_running_usage: bool
    has_cost: bool  # in the usage


def note_kind(body: GenerationBody, recording: Recording) -> None:
    """Note which kind of traffic a request is, whatever becomes of it; raises InvalidRequest."""
    recording.is_understood = True
    recording.is_stream = bool(body.stream)
    recording.scenario = _scenario(body.service_tier, recording.caller)
    recording.tags = _tags(body.metadata)


async def completion_job(service: Service, body: CompletionBody, recording: Recording) -> Job:
    """The job of a completion request; raises InvalidRequest. What is found out of it is noted in `recording`."""
    stops = _check(service, body)
    recording.tokenise_ns = time.monotonic_ns()
    prompts = await service.reader.prompts(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    recording.tokenised_ns = time.monotonic_ns()
    budget = output_budget(prompts, body.max_tokens, DEFAULT_COMPLETION_TOKENS, service.window())
    head = _head("cmpl", service, body)
    return _job(service, body, recording, head, prompts, budget, stops)


async def chat_job(service: Service, body: ChatBody, recording: Recording) -> Job:
    """The job of a chat request; raises InvalidRequest. What is found out of it is noted in `recording`."""
    stops = _check(service, body)
    limits = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        raise InvalidRequest("`max_tokens` and `max_completion_tokens` differ; give one", param="max_tokens")
    recording.tokenise_ns = time.monotonic_ns()
    prompt = await service.reader.chat(body)
    recording.tokenised_ns = time.monotonic_ns()
    budget = output_budget([prompt], next(iter(limits), None), None, service.window(), "messages")
    head = _head("chatcmpl", service, body)
    return _job(service, body, recording, head, [prompt], budget, stops)


def _check(service: Service, body: GenerationBody) -> list[str]:
    """What can be checked before the prompt is read; returns the stop strings."""
    service.check_model(body.model)
    check_ranges(body)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("`stream_options` needs `stream` to be true", param="stream_options")
    service.tokenizer.check_ids(body.stop_token_ids or (), "stop_token_ids")
    return stop_strings(body)


def _scenario(service_tier: str | None, caller: Caller) -> Scenario:
    """Of the request: the one it names, or its key's."""
    if service_tier in (None, AUTO_TIER):
        return caller.scenario
    if service_tier not in SERVICE_TIERS:
        raise InvalidRequest(
            f"`service_tier` is `{service_tier}`; use one of {', '.join(SERVICE_TIERS)}", param="service_tier"
        )
    return SERVICE_TIERS[service_tier]


def _tags(metadata: dict[str, str] | None) -> dict[str, str]:
    """The client's own words for the request, checked."""
    tags = metadata or {}
    if len(tags) > MAX_METADATA_PAIRS:
        raise InvalidRequest(f"`metadata` has {len(tags)} pairs; send at most {MAX_METADATA_PAIRS}", param="metadata")
    for key, value in tags.items():
        if len(key) > MAX_METADATA_KEY_CHARS:
            raise InvalidRequest(
                f"`metadata` has a key of {len(key)} characters; give at most {MAX_METADATA_KEY_CHARS}",
                param="metadata",
            )
        if len(value) > MAX_METADATA_CHARS:
            raise InvalidRequest(
                f"`metadata` has a value of {len(value)} characters; give at most {MAX_METADATA_CHARS}",
                param="metadata",
            )
    return tags


def _head(kind: str, service: Service, body: GenerationBody) -> AnswerHead:
    return AnswerHead(f"{kind}-{secrets.token_hex(16)}", int(time.time()), service.model_name, body.service_tier)


def _job(
    service: Service,
    body: GenerationBody,
    recording: Recording,
    head: AnswerHead,
    prompts: Sequence[list[int]],
    budget: int,
    stops: Sequence[str],
) -> Job:
    n = body.n or 1
    if len(prompts) * n > MAX_CHOICES:
        raise InvalidRequest(f"{len(prompts)} prompts times n={n} is more than {MAX_CHOICES} choices", param="n")
    tenant = recording.caller.tenant
    salt = salt_for(tenant, body.cache_salt, is_sharing=service.is_sharing_kv)
    first = sampling(body, service.tokenizer.files.generation, service.tokenizer.eos_token_ids, budget)
    indices = range(len(prompts) * n)
    shared = Request("", head.model, [], first, recording.scenario or Scenario.ONLINE, tenant, salt)
    options = body.stream_options
    has_cost = body.usage is not None and bool(body.usage.include)
    has_usage = has_cost or (options is not None and bool(options.include_usage))
    recording.answer_id = head.id
    recording.num_sequences = len(indices)
    recording.prompt_tokens = sum(map(len, prompts))
    is_chat = isinstance(body, ChatBody)
    return Job(
        requests=[
            replace(shared, id=f"{head.id}-{index}", token_ids=prompts[index // n], sampling=for_choice(first, index))
            for index in indices
        ],
        choices=[_choice(service, body, index, stops) for index in indices],
        format=(ChatFormat if is_chat else CompletionFormat)(
            head, has_usage_field=has_usage, has_token_ids=bool(body.return_token_ids)
        ),
        prompt_tokens=recording.prompt_tokens,
        n=n,
        is_stream=bool(body.stream),
        has_usage=has_usage,
        has_running_usage=options is not None and bool(options.continuous_usage_stats),
        has_cost=has_cost,
    )


def _choice(service: Service, body: GenerationBody, index: int, stops: Sequence[str]) -> Choice:
    detokenizer = service.tokenizer.detokenizer(
        skip_special_tokens=body.skip_special_tokens is not False,
        is_continuation=isinstance(body, CompletionBody),
    )
    return Choice(
        index,
        service.tokenizer.token_bytes,
        detokenizer,
        stops,
        shows_stop=bool(body.include_stop_str_in_output),
    )
