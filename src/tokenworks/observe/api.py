"""The observer's HTTP API: what the ledger answers, on a private socket; gateways pass it on, dashboards draw it.

One thread reads the ledger, through a connection of its own, so that neither taking in the journal nor other answers
wait for a question about a long window. Every error has the OpenAI error body that the gateway's clients know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import LedgerError, MethodNotAllowed, NotFound, TokenworksError
from tokenworks.observe import answers
from tokenworks.observe.address import listen
from tokenworks.observe.answers import Answer
from tokenworks.observe.explain import explain
from tokenworks.observe.fresh import FreshAnswers
from tokenworks.observe.ledger import Ledger, OpenLedger
from tokenworks.observe.question import read_question
from tokenworks.observe.span_tasks import traces_route

if TYPE_CHECKING:
    from tokenworks.observe.tasks import ObserverContext

_log = logging.getLogger(__name__)

REOPENED_S: Final = 10.0
ANSWERS: Final[dict[str, Answer]] = {
    "status": answers.status,
    "table": answers.table,
    "series": answers.series,
    "requests": answers.requests,
    "workers": answers.workers,
    "tiers": answers.tiers,
    "cost": answers.cost,
    "diagnose": answers.diagnosis,
    "drift": answers.drifted,
}


class ObserverApi:
    """The endpoints around one ledger; lives on one event loop."""

    def __init__(self, settings: Settings, open_ledger: Callable[[], OpenLedger]) -> None:
        self._settings = settings
        self._open_ledger = open_ledger
        self._ledger: OpenLedger | None = None
        self._opened_s = 0.0
        self._executor = ThreadPoolExecutor(1, "answers")
        self._fresh: FreshAnswers[bytes] = FreshAnswers(self._executor)

    def app(self, *more: BaseRoute) -> Starlette:
        """The application; `more` are the routes of others."""
        routes = [Route(f"/observe/{name}", self._endpoint(answer)) for name, answer in ANSWERS.items()]
        explaining = Route("/observe/explain/{id:path}", self._explain)
        handlers = {TokenworksError: _on_error, HTTPException: _on_no_route, Exception: _on_bug}
        return Starlette(routes=[*routes, explaining, *more], exception_handlers=handlers)

    def close(self) -> None:
        """Let go of the ledger, once what is being computed is done."""
        self._executor.submit(self._let_go)
        self._executor.shutdown()

    def _endpoint(self, answer: Answer) -> Callable[[HttpRequest], Any]:
        async def respond(request: HttpRequest) -> Response:
            parameters = request.query_params.multi_items()
            read_question(parameters, time.time_ns())  # what is wrong with it costs no thread's time
            return await self._answered(request, lambda ledger: self._compute(answer, ledger, parameters))

        return respond

    def _compute(self, answer: Answer, ledger: Ledger, parameters: list[tuple[str, str]]) -> Any:
        return answer(ledger, read_question(parameters, time.time_ns()), self._settings)

    async def _explain(self, request: HttpRequest) -> Response:
        request_id = request.path_params["id"]
        return await self._answered(request, lambda ledger: explain(ledger, request_id))

    async def _answered(self, request: HttpRequest, compute: Callable[[Ledger], Any]) -> Response:
        words = f"{request.url.path}?{request.url.query}"
        body = await self._fresh.get(words, lambda: self._encoded(compute))
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    def _encoded(self, compute: Callable[[Ledger], Any]) -> bytes:
        try:
            return msgspec.json.encode(compute(self._reader()))
        except LedgerError:
            self._let_go()
            raise

    def _reader(self) -> Ledger:
        """The ledger, in the thread that reads it; opened again now and then, since a damaged one is put aside."""
        now_s = time.monotonic()
        if now_s - self._opened_s > REOPENED_S:
            self._let_go()
        if self._ledger is None:
            self._ledger, self._opened_s = self._open_ledger(), now_s
        return self._ledger

    def _let_go(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()


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
    names = ", ".join(f"/observe/{name}" for name in [*ANSWERS, "explain/REQUEST_ID"])
    return await _on_error(request, NotFound(f"there is no {request.url.path} here; there are {names}"))


async def _on_bug(request: HttpRequest, error: Exception) -> Response:
    _log.error("the question %s failed: this is a bug", request.url.path, exc_info=error)
    return await _on_error(request, TokenworksError("internal error; the observer's log has the details"))
