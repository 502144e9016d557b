"""The endpoints, each a coroutine that answers one exchange or raises the error that is the answer."""

from __future__ import annotations

import os
import time
from typing import Any, Final, TypeVar

import msgspec

from tokenworks.contract.errors import Draining, InvalidRequest, NotImplementedHere, TokenworksError
from tokenworks.gateway.http.bodies import ChatBody, CompletionBody, DetokenizeBody, GenerationBody, TokenizeBody
from tokenworks.gateway.http.decoding import NoObject, decode_body
from tokenworks.gateway.http.exchange import Exchange
from tokenworks.gateway.http.generation import run
from tokenworks.gateway.http.intake import chat_job, completion_job, note_kind
from tokenworks.gateway.http.service import Service

G = TypeVar("G", bound=GenerationBody)

_completion: Final = msgspec.json.Decoder(CompletionBody)
_chat: Final = msgspec.json.Decoder(ChatBody)
_tokenize: Final = msgspec.json.Decoder(TokenizeBody)
_detokenize: Final = msgspec.json.Decoder(DetokenizeBody)


async def completions(service: Service, exchange: Exchange) -> None:
    """`POST /v1/completions`."""
    body = await _understood(service, exchange, CompletionBody, _completion)
    await run(service, exchange, await completion_job(service, body, exchange.recording))


async def chat_completions(service: Service, exchange: Exchange) -> None:
    """`POST /v1/chat/completions`."""
    body = await _understood(service, exchange, ChatBody, _chat)
    await run(service, exchange, await chat_job(service, body, exchange.recording))


async def _understood(service: Service, exchange: Exchange, kind: type[G], decoder: msgspec.json.Decoder[G]) -> G:
    """The body of a request to generate; from here on it ends with a record."""
    recording = exchange.recording
    recording.caller = exchange.caller
    content = await exchange.read_body(service.max_body_bytes)
    recording.received_ns = time.monotonic_ns()
    try:
        body = decode_body(content, kind, decoder)
    except TokenworksError as error:
        recording.is_understood = not isinstance(error, NoObject)
        raise
    note_kind(body, recording)
    service.check_takes_work()
    return body


async def embeddings(service: Service, exchange: Exchange) -> None:
    """`POST /v1/embeddings`."""
    await exchange.read_body(service.max_body_bytes)
    raise NotImplementedHere("/v1/embeddings is not offered: this server generates text; use /v1/completions or chat")


async def responses(service: Service, exchange: Exchange) -> None:
    """`POST /v1/responses`."""
    await exchange.read_body(service.max_body_bytes)
    raise NotImplementedHere("/v1/responses is not offered here; use /v1/chat/completions")


async def models(service: Service, exchange: Exchange) -> None:
    """`GET /v1/models`."""
    await _respond(exchange, {"object": "list", "data": [_model(service)]})


async def model(service: Service, exchange: Exchange) -> None:
    """`GET /v1/models/{id}`."""
    service.check_model(exchange.path_param("model"))
    await _respond(exchange, _model(service))


async def tokenize(service: Service, exchange: Exchange) -> None:
    """`POST /tokenize`: the token ids of a prompt or of a conversation."""
    body = decode_body(await exchange.read_body(service.max_body_bytes), TokenizeBody, _tokenize)
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give either `prompt` or `messages`", param="prompt")
    tokenizer = service.tokenizer
    if body.prompt is not None:
        text, adds = body.prompt, body.add_special_tokens is not False
        tokens = await service.reader.in_thread(lambda: tokenizer.encode(text, add_special_tokens=adds))
    else:
        tokens = await service.reader.chat(body)
    answer = {"count": len(tokens), "max_model_len": service.window(), "tokens": tokens, "token_strs": None}
    if body.return_token_strs:
        answer["token_strs"] = [tokenizer.token_bytes[token].decode("utf-8", "replace") for token in tokens]
    await _respond(exchange, answer)


async def detokenize(service: Service, exchange: Exchange) -> None:
    """`POST /detokenize`: the text of token ids."""
    body = decode_body(await exchange.read_body(service.max_body_bytes), DetokenizeBody, _detokenize)
    service.check_model(body.model)
    service.tokenizer.check_ids(body.tokens, "tokens")
    prompt = await service.reader.in_thread(lambda: service.tokenizer.decode(body.tokens))
    await _respond(exchange, {"prompt": prompt})


async def health_live(service: Service, exchange: Exchange) -> None:
    """`GET /health/live`: the process answers."""
    await _respond(exchange, {"status": "live", "pid": os.getpid()})


async def health_ready(service: Service, exchange: Exchange) -> None:
    """`GET /health/ready`: a request would be taken now."""
    workers = service.dispatcher.workers
    ready = [worker.id for worker in workers.ready()]
    reason = "draining" if service.is_draining else None if ready else "no worker is ready"
    answer = {
        "status": "ready" if reason is None else "not ready",
        "reason": reason,
        "workers": ready,
        "stores": [store.store_id for store in service.dispatcher.stores],
        "loads": {worker.id: worker.load for worker in workers},
    }
    await _respond(exchange, answer, 200 if reason is None else Draining.status)


async def metrics(service: Service, exchange: Exchange) -> None:
    """`GET /metrics`: OpenMetrics for a scraper that accepts it, else Prometheus' text."""
    service.recorder.settle()  # so that every request that has ended is counted
    body, content_type = service.metrics.exposition(exchange.accept)
    await exchange.respond(body, 200, content_type.encode())


async def _respond(exchange: Exchange, answer: dict[str, Any], status: int = 200) -> None:
    await exchange.respond(msgspec.json.encode(answer), status)


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "tokenworks",
        "max_model_len": service.window(),
    }
