"""The observer's HTTP API: what the ledger answers, on a private socket; gateways pass it on, dashboards draw it.

The ledger is read in threads of their own, so that neither taking in the journal nor the event loop waits for a
question about a long window. Every error has the OpenAI error body that the gateway's clients know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import MethodNotAllowed, NotFound, TokenworksError
from tokenworks.observe.chains.span_tasks import traces_route
from tokenworks.observe.diagnose.explain import explain
from tokenworks.observe.ledger import Ledger, OpenLedger
from tokenworks.observe.observer import answers
from tokenworks.observe.observer.address import listen
from tokenworks.observe.observer.answers import Answer
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.ledger_reader import LedgerReader
from tokenworks.observe.observer.question import read_question

_log = logging.getLogger(__name__)

ANSWERS: Final[dict[str, Answer]] = {
    "status": answers.status,
    "table": answers.table,
    "series": answers.series,
    "requests": answers.requests,
    "workers": answers.workers,
    "tiers": answers.tiers,
    "cost": answers.cost,
}
THOROUGH: Final[dict[str, Answer]] = {
    "diagnose": answers.diagnosis,
    "drift": answers.drifted,
    "chains": answers.chains,
}
"""Those that walk through single requests: they have a thread of their own, so that the others need not wait."""


class ObserverApi:
    """The endpoints around one ledger; lives on one event loop."""

    def __init__(self, settings: Settings, open_ledger: Callable[[], OpenLedger]) -> None:
        self._settings = settings
        self._quick = LedgerReader(open_ledger, "answers")
        self._thorough = LedgerReader(open_ledger, "thorough-answers")

    def app(self, *more: BaseRoute) -> Starlette:
        """The application; `more` are the routes of others."""
        routes: list[BaseRoute] = [
            Route(f"/observe/{name}", self._endpoint(answer, reader))
            for found, reader in ((ANSWERS, self._quick), (THOROUGH, self._thorough))
            for name, answer in found.items()
        ]
        explaining = Route("/observe/explain/{id:path}", self._explain)
        handlers = {TokenworksError: _on_error, HTTPException: _on_no_route, Exception: _on_bug}
        return Starlette(routes=[*routes, explaining, *more], exception_handlers=handlers)

    def close(self) -> None:
        """Let go of the ledger, once what is being computed is done."""
        self._quick.close()
        self._thorough.close()

    def _endpoint(self, answer: Answer, reader: LedgerReader) -> Callable[[HttpRequest], Any]:
        async def respond(request: HttpRequest) -> Response:
            parameters = request.query_params.multi_items()
            read_question(parameters, time.time_ns())  # what is wrong with it costs no thread's time
            return await _answered(request, reader, lambda ledger: self._compute(answer, ledger, parameters))

        return respond

    def _compute(self, answer: Answer, ledger: Ledger, parameters: list[tuple[str, str]]) -> Any:
        return answer(ledger, read_question(parameters, time.time_ns()), self._settings)

    async def _explain(self, request: HttpRequest) -> Response:
        request_id = request.path_params["id"]
        return await _answered(request, self._quick, lambda ledger: explain(ledger, request_id))


async def _answered(request: HttpRequest, reader: LedgerReader, compute: Callable[[Ledger], Any]) -> Response:
    body = await reader.ask(f"{request.url.path}?{request.url.query}", compute)
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


async def answer_questions(context: ObserverContext) -> None:
    """The task of the observer's process: answer until it ends."""
    settings = context.settings
    api = ObserverApi(settings, context.open_ledger)
    try:
        await serve_on(listen(settings.ledger), api.app(traces_route(context)))
    finally:
        api.close()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handling: the process around it has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_on(listener: socket.socket, app: Starlette) -> None:
    """Answer until cancelled."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, log_level="warning", access_log=False, ws="none")
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def _on_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, TokenworksError)
    detail = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return Response(msgspec.json.encode({"error": detail}), error.status, media_type="application/json")


async def _on_no_route(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == MethodNotAllowed.status:
        return await _on_error(request, MethodNotAllowed(f"{request.url.path} does not take {request.method}"))
    names = ", ".join(f"/observe/{name}" for name in [*ANSWERS, *THOROUGH, "explain/REQUEST_ID"])
    return await _on_error(request, NotFound(f"there is no {request.url.path} here; there are {names}"))


async def _on_bug(request: HttpRequest, error: Exception) -> Response:
    _log.error("the question %s failed: this is a bug", request.url.path, exc_info=error)
    return await _on_error(request, TokenworksError("internal error; the observer's log has the details"))
