"""OTLP requests as exporters send them, and a real server on a real port that takes them in."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.observe.made import NOON_NS
from tokenworks.contract.errors import LedgerBusy
from tokenworks.observe.chains.span_intake import SpanIntake
from tokenworks.observe.ledger import Span

TRACE_ID = bytes(range(16))
SPAN_ID = bytes(range(8, 16))


def raw_span(**fields: object) -> trace_pb2.Span:
    """A sound span; fields say otherwise."""
    given: dict[str, object] = {
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "name": "search",
        "kind": trace_pb2.Span.SPAN_KIND_CLIENT,
        "start_time_unix_nano": NOON_NS,
        "end_time_unix_nano": NOON_NS + 5_000_000,
    }
    return trace_pb2.Span(**(given | fields))  # type: ignore[arg-type]


def text(key: str, value: str) -> KeyValue:
    """An attribute."""
    return KeyValue(key=key, value=AnyValue(string_value=value))


def export(*spans: trace_pb2.Span, service: str = "shop", zone: str = "zone-a") -> ExportTraceServiceRequest:
    """One service's spans."""
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend([text("service.name", service), text("cloud.availability_zone", zone)])
    of_resource.scope_spans.add().spans.extend(spans)
    return request


class Receiver:
    """What a collector got; it can be told to answer otherwise first."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.is_busy = False
        self.answers: list[Response] = []  # given first, one each
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.intake = SpanIntake(self._take_in)
        self.url = ""

    async def _take_in(self, spans: Sequence[Span]) -> None:
        if self.is_busy:
            raise LedgerBusy("the ledger is locked; try again")
        self.spans += spans

    async def traces(self, request: Request) -> Response:
        """The endpoint under test, behind the answers that were ordered."""
        self.headers.append(dict(request.headers))
        if self.answers:
            self.bodies.append(await request.body())
            return self.answers.pop(0)
        return await self.intake.traces(request)


@contextmanager
def running(endpoint: Callable[[Request], Awaitable[Response]], port: int = 0) -> Iterator[str]:
    """Serve an endpoint at /v1/traces in a thread; its base URL."""
    app = Starlette(routes=[Route("/v1/traces", endpoint, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
