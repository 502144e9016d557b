"""What an operator asks and changes while the system runs: `/admin`, answered to this machine alone."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tokenworks.contract.card import Card
from tokenworks.contract.errors import NotFound
from tokenworks.contract.wire import Role
from tokenworks.gateway.http.bodies import Body
from tokenworks.gateway.http.decoding import decode_body
from tokenworks.gateway.http.exchange import Exchange
from tokenworks.gateway.http.local import check_is_local
from tokenworks.gateway.http.service import Service
from tokenworks.gateway.pool.registry import Worker


class RoleBody(Body, frozen=True, kw_only=True):
    """`PUT /admin/workers/{id}`."""

    role: Role


_role: Final = msgspec.json.Decoder(RoleBody)
_CARD_FIELDS: Final = ("device", "threads", "dtype", "weights", "kv_capacity_tokens", "price_per_hour", "watts")
_SUMMARY_TOKENS: Final = 1000  # of the prompt whose predicted prefill stands for a card


async def workers(service: Service, exchange: Exchange) -> None:
    """`GET /admin/workers`: every worker, what it is for, how busy it is, and what it can do."""
    check_is_local(exchange, "/admin")
    await _respond(exchange, {"workers": [_worker(worker) for worker in service.dispatcher.workers]})


async def change_worker(service: Service, exchange: Exchange) -> None:
    """`PUT /admin/workers/{id}`: give a worker another role, from the next request on."""
    check_is_local(exchange, "/admin")
    body = decode_body(await exchange.read_body(service.max_body_bytes), RoleBody, _role)
    worker_id = exchange.path_param("worker")
    registry = service.dispatcher.workers
    worker = registry.get(worker_id)
    if worker is None:
        known = ", ".join(each.id for each in registry) or "none"
        raise NotFound(f"there is no worker `{worker_id}` here; there are: {known}")
    service.dispatcher.change_role(worker, body.role)
    await _respond(exchange, _worker(worker))


def _worker(worker: Worker) -> dict[str, Any]:
    hello = worker.hello
    return {
        "id": worker.id,
        "role": worker.role,
        "configured_role": hello.role,
        "is_leaving": worker.is_leaving,
        "pid": hello.pid,
        "model": hello.model,
        "max_context_tokens": hello.max_context_tokens,
        "has_store": hello.has_store,
        "load": worker.load,
        "card": _card(hello.card),
        "kv": hello.kv,
    }


def _card(card: Card) -> dict[str, Any]:
    """A card without its measured points."""
    return {name: getattr(card, name) for name in _CARD_FIELDS} | {
        f"prefill_s_of_{_SUMMARY_TOKENS}_tokens": card.prefill_s(_SUMMARY_TOKENS, 0),
        "decode_s_of_1_sequence": card.decode_s(1, _SUMMARY_TOKENS),
    }


async def _respond(exchange: Exchange, answer: dict[str, Any]) -> None:
    await exchange.respond(msgspec.json.encode(answer))
