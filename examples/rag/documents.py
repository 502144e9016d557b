"""The origin: a service of its own, in a zone of its own, that has the passages' texts."""

from __future__ import annotations

from pathlib import Path

import telemetry
from corpus import passages_of
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def build(folder: Path, gateway: str, zone: str) -> Starlette:
    """The application: GET /passages/ID."""
    tracer = telemetry.start("documents", zone, gateway)

    async def passage(request: Request) -> Response:
        wanted = request.path_params["id"]
        context = telemetry.context_of(request.headers)
        with tracer.start_as_current_span("GET /passages", context, SpanKind.SERVER) as span:
            found = passages_of(folder).get(wanted)  # read again each time: pages change
            span.set_attribute("http.request.method", "GET")
            span.set_attribute("http.response.status_code", 200 if found else 404)
            if found is None:
                return JSONResponse({"error": f"there is no passage {wanted}"}, 404)
            return JSONResponse({"id": found.id, "title": found.title, "text": found.text})

    return Starlette(routes=[Route("/passages/{id:path}", passage)])
