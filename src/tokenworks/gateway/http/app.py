"""The ASGI application: which path and method leads to which endpoint, and what surrounds every endpoint.

Around each: errors become OpenAI error bodies, the outcome is counted, and one line is logged. An exception that is not
one of ours is a bug: the client gets a 500 with the request id, the log the traceback.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeAlias

from prometheus_client import Counter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tokenworks.contract.errors import Draining, MethodNotAllowed, NotFound, TokenworksError, Unauthorized
from tokenworks.gateway.http import admin, dashboard, endpoints, observer_proxy
from tokenworks.gateway.http.exchange import Exchange, error_body
from tokenworks.gateway.http.service import Service
from tokenworks.gateway.pool.streams import ClientGone

_log = logging.getLogger(__name__)

Answer: TypeAlias = Callable[[Service, Exchange], Awaitable[None]]

_UNLOGGED = ("/health", "/metrics", "/observe")  # asked every few seconds by machines


class Kind(Enum):
    """What surrounds an endpoint beyond that."""

    OPEN = "open"  # nothing: it needs no key
    KEYED = "keyed"  # who asks must be known, where keys are asked for
    GENERATES = "generates"  # and the request ends with a record


class Endpoint:
    """An ASGI application around one endpoint."""

    def __init__(self, service: Service, path: str, answer: Answer, kind: Kind) -> None:
        self._service = service
        self._path = path
        self._answer = answer
        self._kind = kind
        self._counts: dict[str, Counter] = {}  # by outcome: the library takes microseconds to look one up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if self._kind is Kind.GENERATES:
            exchange.begin_recording(self._path)
        self._service.num_open += 1
        outcome = Draining.code  # of a task that is cancelled, which only the end of a drain does
        try:
            outcome = await self._outcome(exchange)
        finally:
            self._service.num_open -= 1
            self._record(exchange, outcome)

    async def _outcome(self, exchange: Exchange) -> str:
        """Answer; what became of it, as a word."""
        try:
            if self._kind is not Kind.OPEN:
                self._service.identify(exchange)
            await self._answer(self._service, exchange)
        except ClientGone as gone:
            return gone.code
        except TokenworksError as error:
            return await self._fail(exchange, error)
        except Exception:
            labels = {"fields": exchange.labels}
            _log.exception("request %s to %s failed: this is a bug", exchange.id, self._path, extra=labels)
            message = f"internal error; the server's log has the details under request id {exchange.id}"
            return await self._fail(exchange, TokenworksError(message))
        return "ok"

    async def _fail(self, exchange: Exchange, error: TokenworksError) -> str:
        if self._kind is Kind.GENERATES:
            exchange.recording.is_understood |= isinstance(error, Unauthorized)
            exchange.recording.writes()
        if self._path == observer_proxy.TRACES_PATH:
            await exchange.refuse(error, *observer_proxy.status_of(error, exchange.header("content-type")))
        else:
            await exchange.fail(error)
        return error.code

    def _record(self, exchange: Exchange, outcome: str) -> None:
        ended_ns = time.monotonic_ns()
        e2e_s = (ended_ns - exchange.started_ns) / 1e9
        if self._kind is Kind.GENERATES:
            self._service.recorder.finish(exchange.recording, outcome, exchange.status, ended_ns)
        self._count(outcome)
        if "output_tokens" in exchange.notes:
            self._service.metrics.e2e.observe(e2e_s)
        if _log.isEnabledFor(logging.INFO) and not self._path.startswith(_UNLOGGED):
            self._write_log(exchange, outcome, e2e_s)

    def _count(self, outcome: str) -> None:
        if outcome not in self._counts:
            self._counts[outcome] = self._service.metrics.requests.labels(self._path, outcome)
        self._counts[outcome].inc()

    def _write_log(self, exchange: Exchange, outcome: str, e2e_s: float) -> None:
        """One line: text for people, the same as fields for machines."""
        notes = {name: value for name, value in exchange.notes.items() if value is not None}
        ended = {"path": self._path, "outcome": outcome, "status": exchange.status, "e2e_s": round(e2e_s, 6)}
        _log.info(
            "%s id=%s trace=%s outcome=%s status=%d e2e_s=%.6f %s",
            self._path,
            exchange.id,
            exchange.trace.trace_id,
            outcome,
            exchange.status,
            e2e_s,
            " ".join(f"{name}={value}" for name, value in notes.items()),
            extra={"fields": {**exchange.labels, **ended, **notes}},
        )


def build_app(service: Service) -> Starlette:
    """The application."""

    def route(path: str, answer: Answer, method: str, kind: Kind = Kind.OPEN) -> Route:
        return Route(path, Endpoint(service, path, answer, kind), methods=[method])

    app = Starlette(
        routes=[
            route("/v1/completions", endpoints.completions, "POST", Kind.GENERATES),
            route("/v1/chat/completions", endpoints.chat_completions, "POST", Kind.GENERATES),
            route("/v1/embeddings", endpoints.embeddings, "POST", Kind.KEYED),
            route("/v1/responses", endpoints.responses, "POST", Kind.KEYED),
            route("/v1/models", endpoints.models, "GET", Kind.KEYED),
            route("/v1/models/{model:path}", endpoints.model, "GET", Kind.KEYED),
            route("/tokenize", endpoints.tokenize, "POST", Kind.KEYED),
            route("/detokenize", endpoints.detokenize, "POST", Kind.KEYED),
            route("/health", endpoints.health_ready, "GET"),
            route("/health/live", endpoints.health_live, "GET"),
            route("/health/ready", endpoints.health_ready, "GET"),
            route("/metrics", endpoints.metrics, "GET"),
            route("/admin/workers", admin.workers, "GET"),
            route("/admin/workers/{worker:path}", admin.change_worker, "PUT"),
            route("/", dashboard.root, "GET"),
            route("/dashboard", dashboard.page, "GET"),
            route("/dashboard/script.js", dashboard.script, "GET"),
            route("/observe/journal", observer_proxy.journal, "GET"),
            route("/observe/alerts", observer_proxy.alerts, "GET"),
            route("/observe/{question:path}", observer_proxy.observe, "GET"),
            route(observer_proxy.TRACES_PATH, observer_proxy.traces, "POST", Kind.KEYED),
        ],
        exception_handlers={HTTPException: _no_such_route},
    )
    app.router.redirect_slashes = False  # a redirected POST loses its body in many clients
    return app


async def _no_such_route(request: HttpRequest, exception: Exception) -> Response:
    """What Starlette's router refuses, in OpenAI's form."""
    assert isinstance(exception, HTTPException)
    error: TokenworksError
    if exception.status_code == MethodNotAllowed.status:
        error = MethodNotAllowed(f"{request.url.path} does not take {request.method}")
    else:
        error = NotFound(f"there is no {request.url.path} here; the API is under /v1")
    return Response(error_body(error), error.status, exception.headers, "application/json")
