"""Passages by id, from a cache in front of their origin: a service that may be far away."""

from __future__ import annotations

import time
from collections import OrderedDict
from urllib.parse import quote

import httpx
import telemetry
from opentelemetry.trace import SpanKind, Tracer

MAX_PASSAGES = 64
KEPT_S = 300.0


class Pages:
    """The least recently used go first; what is older than `KEPT_S` is fetched again."""

    def __init__(self, tracer: Tracer, client: httpx.AsyncClient) -> None:
        self._tracer = tracer
        self._client = client
        self._kept: OrderedDict[str, tuple[float, str]] = OrderedDict()

    async def text(self, passage_id: str) -> str:
        """The passage's text; raises httpx.HTTPError where the origin does not give it."""
        with self._tracer.start_as_current_span("passage cache") as span:
            fetched_s, text = self._kept.get(passage_id, (-KEPT_S, ""))
            is_hit = time.monotonic() - fetched_s < KEPT_S
            span.set_attribute("tokenworks.cache.hit", is_hit)
            if not is_hit:
                text = await self._fetch(passage_id)
                self._kept[passage_id] = (time.monotonic(), text)
            self._kept.move_to_end(passage_id)
            while len(self._kept) > MAX_PASSAGES:
                self._kept.popitem(last=False)
            return text

    async def _fetch(self, passage_id: str) -> str:
        """From the origin. The span is a child of the cache's: that is how it is known as an origin fetch."""
        with self._tracer.start_as_current_span("GET", kind=SpanKind.CLIENT) as span:
            span.set_attribute("server.address", self._client.base_url.host)
            response = await self._client.get(f"/passages/{quote(passage_id)}", headers=telemetry.headers())
            span.set_attribute("http.response.status_code", response.status_code)
            response.raise_for_status()
            return str(response.json()["text"])
