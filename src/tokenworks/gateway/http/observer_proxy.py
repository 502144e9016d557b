"""What the gateway passes on to the observer: questions about the ledger, and spans of applications. Two it answers
itself: what it has not written down, and which alerts fire.

`/observe/...` is answered to this machine alone, as `/admin` is: it tells of every tenant. Spans come from wherever
requests come from, and with the same key; where the gateway itself refuses them, it says so in OTLP's form.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgspec

from tokenworks.contract.errors import TokenworksError
from tokenworks.gateway.http.exchange import Exchange
from tokenworks.gateway.http.local import check_is_local
from tokenworks.gateway.http.observer_client import Passed
from tokenworks.gateway.http.service import Service
from tokenworks.observe.observer.figures import AlertFigure, Figures

TRACES_PATH: Final = "/v1/traces"
_HANDED_ON: Final = ("content-type", "content-encoding")
_JSON: Final = "application/json"
_PAGE: Final = "page"
_UNKNOWN: Final = 2
_RPC_CODES: Final = {400: 3, 401: 16, 403: 7, 413: 8, 500: 13, 503: 14}
"""By HTTP status, the code of google.rpc.Code; none is above 127, which is one byte as protobuf writes it."""


async def observe(service: Service, exchange: Exchange) -> None:
    """`GET /observe/...`: as the observer answers it."""
    check_is_local(exchange, "/observe")
    path = f"/observe/{quote(exchange.path_param('question'), safe='/')}"
    query = exchange.query_string
    await _pass_back(exchange, await service.observer.ask("GET", f"{path}?{query}" if query else path, {}))


async def journal(service: Service, exchange: Exchange) -> None:
    """`GET /observe/journal`: what this gateway has not written down, which the observer cannot know."""
    check_is_local(exchange, "/observe")
    await _tell(exchange, service.metrics.observer.journal()._asdict())


async def alerts(service: Service, exchange: Exchange) -> None:
    """`GET /observe/alerts`: what fires now by the observer's rules, worst first, as `/metrics` has it.

    `alerts` is null where no observer has written lately: then nobody knows.
    """
    check_is_local(exchange, "/observe")
    figures = service.metrics.observer.fresh()
    await _tell(exchange, {"alerts": None if figures is None else [_alert(each) for each in _worst_first(figures)]})


async def traces(service: Service, exchange: Exchange) -> None:
    """`POST /v1/traces`: spans by OTLP over HTTP, as exporters send them."""
    body = await exchange.read_body(service.max_body_bytes)
    headers = {name: value for name in _HANDED_ON if (value := exchange.header(name)) is not None}
    await _pass_back(exchange, await service.observer.ask("POST", TRACES_PATH, headers, body))


def status_of(error: TokenworksError, content_type: str | None) -> tuple[bytes, bytes]:
    """An error as OTLP over HTTP demands it, a google.rpc.Status in the encoding of the request, and its media type.

    Protobuf is written by hand, two fields of two kinds, so that the gateway need not load the library for it.
    """
    code = _RPC_CODES.get(error.status, _UNKNOWN)
    if (content_type or "").partition(";")[0].strip().lower() == _JSON:
        return msgspec.json.encode({"code": code, "message": error.message}), _JSON.encode()
    message = error.message.encode(errors="replace")
    return b"\x08%c\x12%b%b" % (code, _varint(len(message)), message), b"application/x-protobuf"


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow (protobuf.dev, "Encoding")."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _worst_first(figures: Figures) -> list[AlertFigure]:
    """Those that somebody must act on now, before those that can wait; each kind oldest first."""
    return sorted(figures.alerts, key=lambda alert: (alert.severity != _PAGE, alert.since_ns))


def _alert(alert: AlertFigure) -> dict[str, object]:
    told = {name: getattr(alert, name) for name in ("name", "subject", "severity", "summary")}
    return told | {"since_s": alert.since_ns / 1e9}


async def _tell(exchange: Exchange, answer: object) -> None:
    await exchange.respond(msgspec.json.encode(answer), 200, _JSON.encode(), (b"cache-control", b"no-store"))


async def _pass_back(exchange: Exchange, passed: Passed) -> None:
    await exchange.respond(passed.body, passed.status, passed.content_type, (b"cache-control", b"no-store"))
