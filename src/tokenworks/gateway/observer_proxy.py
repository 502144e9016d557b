"""What the gateway passes on to the observer: questions about the ledger, and spans of applications.

`/observe/...` is answered to this machine alone, as `/admin` is: it tells of every tenant. Spans come from wherever
requests come from, and with the same key.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from tokenworks.gateway.exchange import Exchange
from tokenworks.gateway.local import check_is_local
from tokenworks.gateway.observer_client import Passed
from tokenworks.gateway.service import Service

TRACES_PATH: Final = "/v1/traces"
_HANDED_ON: Final = ("content-type", "content-encoding")


async def observe(service: Service, exchange: Exchange) -> None:
    """`GET /observe/...`: as the observer answers it."""
    check_is_local(exchange, "/observe")
    path = f"/observe/{quote(exchange.path_param('question'), safe='/')}"
    query = exchange.query_string
    await _pass_back(exchange, await service.observer.ask("GET", f"{path}?{query}" if query else path, {}))


async def traces(service: Service, exchange: Exchange) -> None:
    """`POST /v1/traces`: spans by OTLP over HTTP, as exporters send them."""
    body = await exchange.read_body(service.max_body_bytes)
    headers = {name: value for name in _HANDED_ON if (value := exchange.header(name)) is not None}
    await _pass_back(exchange, await service.observer.ask("POST", TRACES_PATH, headers, body))


async def _pass_back(exchange: Exchange, passed: Passed) -> None:
    await exchange.respond(passed.body, passed.status, passed.content_type, (b"cache-control", b"no-store"))
