"""Our own spans on their way to a collector: OTLP over HTTP, in batches, retried for a while and then dropped.

Whatever becomes of the collector, `offer` takes microseconds and never waits: what finds no room in the queue, and a
batch that was not taken in the end, is counted and gone. Retries follow the specification: 429, 502, 503, 504 and
connections that fail, with a wait that doubles up to its limit, spread by chance, or as `Retry-After` says.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tokenworks.contract.record import Record
from tokenworks.observe.chains.otlp_encode import encoded
from tokenworks.observe.chains.otlp_target import Target
from tokenworks.observe.observer.figures import SpanFigures

MAX_QUEUED: Final = 4096  # records, about 4 KB each
BATCH_RECORDS: Final = 128  # about 1500 spans
MAX_TRIES: Final = 5
FIRST_WAIT_S: Final = 1.0
MAX_WAIT_S: Final = 30.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_MAX_ANSWER_BYTES: Final = 64 << 10
_RETRYABLE: Final = frozenset({429, 502, 503, 504})
GATHER_S: Final = 0.5  # so that a batch is more than one request's

_log = logging.getLogger(__name__)


class SpanExporter:
    """One collector's queue. `offer` from anywhere on the event loop; `run` for as long as it is to be sent."""

    def __init__(
        self,
        target: Target,
        zone: str = "",
        counts: SpanFigures | None = None,
        wait: Callable[[float], float] | None = None,
    ) -> None:
        self.counts = counts or SpanFigures()
        self._target = target
        self._zone = zone
        self._wait = wait or (lambda wait_s: wait_s * random.uniform(0.5, 1.0))  # so that not all come back at once
        self._queue: deque[Record] = deque()
        self._has_some = asyncio.Event()

    def offer(self, records: Iterable[Record]) -> None:
        """Take what carries a trace."""
        for record in records:
            if not record.trace_id or not record.span_id:
                continue
            if len(self._queue) >= MAX_QUEUED:
                self._queue.popleft()  # the newest say more about what is wrong now
                self.counts.dropped_requests += 1
            self._queue.append(record)
        if self._queue:
            self._has_some.set()

    async def run(self) -> None:
        """Send until cancelled."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:
            while True:
                await self._has_some.wait()
                await asyncio.sleep(GATHER_S)
                while self._queue:
                    batch = [self._queue.popleft() for _ in range(min(BATCH_RECORDS, len(self._queue)))]
                    await self._send(session, batch)
                self._has_some.clear()

    async def _send(self, session: aiohttp.ClientSession, batch: list[Record]) -> None:
        body = gzip.compress(encoded(batch, self._zone).SerializeToString(), compresslevel=1)
        for attempt in range(MAX_TRIES):
            complaint, wait_s = await self._post(session, body)
            if not complaint:
                self.counts.exported_requests += len(batch)
                return
            if wait_s is None or attempt + 1 == MAX_TRIES:
                break
            await asyncio.sleep(wait_s or self._wait(min(MAX_WAIT_S, FIRST_WAIT_S * 2**attempt)))
        self.counts.dropped_requests += len(batch)
        _log.warning("spans of %d requests were dropped: %s: %s", len(batch), self._target.url, complaint)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[str, float | None]:
        """What was wrong, empty if nothing; and how long to wait before the next try: 0: as we like, None: no use."""
        headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip", **self._target.headers}
        try:
            async with session.post(self._target.url, data=body, headers=headers) as response:
                answer = await response.content.read(_MAX_ANSWER_BYTES)
                if response.ok:
                    _tell_partial(answer)
                    return "", None
                is_worth_it = response.status in _RETRYABLE
                return f"status {response.status}", _retry_after_s(response) if is_worth_it else None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a header that cannot be sent
            return str(error) or type(error).__name__, 0.0


def _tell_partial(answer: bytes) -> None:
    """Say what a collector took only in part, or has to say about what it took."""
    try:
        told = ExportTraceServiceResponse.FromString(answer).partial_success
    except DecodeError:
        return  # a collector that answers in its own way has taken them all the same
    if told.rejected_spans or told.error_message:
        _log.warning("the collector rejected %d spans: %s", told.rejected_spans, told.error_message[:200])


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Seconds that the collector asks us to wait, within our own limit; 0 where it does not say."""
    said = response.headers.get("retry-after", "")
    return min(MAX_WAIT_S, float(said)) if said.isdigit() else 0.0
