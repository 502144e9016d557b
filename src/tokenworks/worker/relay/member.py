"""A foreign server as a member of the pool: takes what the gateways send, runs it there, sends back what comes.

Each request belongs to the gateway that submitted it and is one task, which ends with exactly one end, unless it was
cancelled. Until the first output every failure is a refusal (nothing has been shown, somebody else may run it); later
ones are failures.

The server is *up* from the moment it has been learnt and measured until it is seen to be gone: nobody listens, or it
has neither answered a look nor sent a byte for `PATIENCE_S`. The worker then says `Goodbye`, so that the gateways send
on what it had, and lives on outside the pool; it says `Hello` again, with a fresh card, when the server is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from msgspec.structs import replace

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.record import SequenceReport
from tokenworks.contract.request import Request
from tokenworks.contract.wire import (
    BlocksChanged,
    Cancel,
    End,
    EndReason,
    Goodbye,
    Heartbeat,
    Leaving,
    Load,
    Rejoin,
    SequenceOutput,
    Submit,
    ToWorker,
)
from tokenworks.text.tokenizer import Tokenizer
from tokenworks.worker.heartbeat import INTERVAL_S as BEAT_S
from tokenworks.worker.machine import Machine
from tokenworks.worker.relay.answer import AnswerReader
from tokenworks.worker.relay.dialect import Dialect, completion_body
from tokenworks.worker.relay.introduction import Introduction
from tokenworks.worker.relay.links import GatewayLinks
from tokenworks.worker.relay.meter import RelayMeter
from tokenworks.worker.relay.prompt import upstream_prompt
from tokenworks.worker.relay.upstream import Upstream, UpstreamBusy, UpstreamDown, UpstreamError, UpstreamRefusal

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
PATIENCE_S: Final = 15.0  # without a sign of life; a busy server may be slow to answer a look


class _Running:
    """One request on its way."""

    def __init__(self, gateway: int, task: asyncio.Task[None]) -> None:
        self.gateway = gateway
        self.task = task
        self.has_output = False


class Member:
    """The worker. `learn` asks the server who it is; it is called again when the server has come back."""

    def __init__(
        self,
        worker_id: str,
        upstream: Upstream,
        tokenizer: Tokenizer,
        known: Introduction,
        learn: Callable[[], Awaitable[Introduction]],
    ) -> None:
        self._worker_id = worker_id
        self._upstream = upstream
        self._tokenizer = tokenizer
        self._known: Introduction | None = known  # None: the server is down
        self._learn = learn
        self._running: dict[str, _Running] = {}
        self._num_outputs = 0
        self._is_draining = False
        self._why_down = ""  # as it was last logged
        self._meter = RelayMeter(time.time_ns(), time.perf_counter_ns())
        self._machine = Machine(0)
        self._links: GatewayLinks

    async def serve(self, gateways: Sequence[str], stop: asyncio.Event) -> None:
        """Dial in and serve until `stop`, then finish what there is and leave."""
        self._links = GatewayLinks(gateways, self._on_message, self._drop_requests_of)
        self._introduce_to_all()
        duties = [asyncio.create_task(_kept_up(duty)) for duty in (self._beat, self._watch)]
        await stop.wait()
        self._is_draining = True
        self._links.send_all(Leaving(self._worker_id))
        while self._running:
            await asyncio.wait([running.task for running in self._running.values()])
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
        self._links.send_all(Heartbeat(self._worker_id, self._load()))  # the whole of its life
        self._links.send_all(Goodbye(self._worker_id))
        self._links.close()

    def _on_message(self, gateway: int, message: ToWorker) -> None:
        match message:
            case Submit():
                self._submit(gateway, message)
            case Cancel():
                self._cancel(message.request_id)
            case Rejoin():
                self._drop_requests_of(gateway)
                self._introduce(gateway)

    def _submit(self, gateway: int, message: Submit) -> None:
        request = message.request
        why = self._why_not(message)
        if why is not None:
            self._tell(gateway, refused(request.id, why))
            return
        assert self._known is not None
        self._meter.begin(request.id, time.perf_counter_ns())
        task = asyncio.create_task(self._run(request, self._known.dialect))
        self._running[request.id] = _Running(gateway, task)
        task.add_done_callback(partial(self._forget, request.id))

    def _forget(self, request_id: str, task: asyncio.Task[None]) -> None:
        running = self._running.get(request_id)
        if running is not None and running.task is task:  # a request that was sent again has a new task
            del self._running[request_id]

    def _why_not(self, message: Submit) -> TokenworksError | None:
        if self._is_draining:
            return UpstreamBusy("this worker is leaving and takes no new requests")
        if self._known is None:
            return UpstreamDown(f"the server at {self._upstream.url} is down")
        if message.publishes:
            return UpstreamRefusal("a foreign server cannot publish KV")
        return None

    async def _run(self, request: Request, dialect: Dialect) -> None:
        reader = AnswerReader(request.id, request.sampling.stop_token_ids, request.sampling.num_logprobs)
        try:
            body = completion_body(request, upstream_prompt(request, dialect, self._tokenizer), dialect)
            async with aclosing(self._upstream.stream(body)) as chunks:
                async for chunk in chunks:
                    self._give(request.id, reader.feed(chunk))
                    if reader.is_over:
                        return
            self._give(request.id, reader.close())
        except UpstreamError as error:
            await self._end_badly(request.id, error)
        except Exception:
            log.exception("request %s failed: this is a bug; the others go on", request.id)
            await self._end_badly(request.id, UpstreamError("internal error; the worker's log has the details"))

    def _give(self, request_id: str, outputs: Iterable[SequenceOutput]) -> None:
        running = self._running[request_id]
        for output in outputs:
            if not running.has_output:
                self._meter.first_output(request_id, time.perf_counter_ns())
            running.has_output = True
            self._num_outputs += 1
            self._tell(running.gateway, output)

    def _tell(self, gateway: int, output: SequenceOutput) -> None:
        """To the gateway; an end with what the request took."""
        if output.end is not None:
            report = self._meter.end(output.request_id, time.perf_counter_ns()) or SequenceReport()
            output = replace(output, end=replace(output.end, report=report))
        self._links.give(gateway, output)

    async def _end_badly(self, request_id: str, error: UpstreamError) -> None:
        """Tell the gateway, unless the server turns out to be down: then it has been told of all requests at once."""
        if isinstance(error, UpstreamDown):
            self._go_down(error.message)
        elif not isinstance(error, (UpstreamBusy, UpstreamRefusal)):
            log.warning("request %s: %s", request_id, error)
            await self._look()
        running = self._running.get(request_id)
        if running is not None:
            end = failed(request_id, error) if running.has_output else refused(request_id, error)
            self._tell(running.gateway, end)

    def _cancel(self, request_id: str) -> None:
        """Nobody waits for its text; what it took is told all the same. Unknown ids have been told their end."""
        running = self._running.get(request_id)
        report = self._drop(request_id)
        if running is not None and report is not None:
            end = End(EndReason.CANCELLED, report=report)
            self._links.give(running.gateway, SequenceOutput(request_id, end=end))

    def _drop(self, request_id: str) -> SequenceReport | None:
        """Forget a request, and what it took. Cancelling the task closes its connection, by which the server knows."""
        running = self._running.pop(request_id, None)
        if running is not None:
            running.task.cancel()
        return self._meter.end(request_id, time.perf_counter_ns())

    def _drop_requests_of(self, gateway: int) -> None:
        for request_id in [key for key, running in self._running.items() if running.gateway == gateway]:
            self._drop(request_id)

    def _introduce_to_all(self) -> None:
        for gateway in range(len(self._links)):
            self._introduce(gateway)

    def _introduce(self, gateway: int) -> None:
        """Nothing while the server is down: its return will be told to all."""
        if self._known is not None:
            self._links.send(gateway, self._known.hello)
            self._links.send(gateway, BlocksChanged(self._worker_id, [], []))
            if self._is_draining:
                self._links.send(gateway, Leaving(self._worker_id))

    async def _beat(self) -> None:
        while True:
            if self._known is not None:
                self._links.send_all(Heartbeat(self._worker_id, self._load()))
            await asyncio.sleep(BEAT_S)

    def _load(self) -> Load:
        """Waiting are those without an output: what the server does with them cannot be seen."""
        running = sum(each.has_output for each in self._running.values())
        use = replace(self._meter.use(time.perf_counter_ns()), **self._machine.use()._asdict())
        return Load(
            running=running,
            waiting=len(self._running) - running,
            free_blocks=0,
            total_blocks=0,
            steps=self._num_outputs,
            preemptions=0,
            draft_tokens=0,
            accepted_tokens=0,
            use=use,
        )

    async def _watch(self) -> None:
        """Look at the server every now and then."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await (self._come_back() if self._known is None else self._look())

    async def _look(self) -> None:
        try:
            await self._upstream.models()
        except UpstreamDown as error:
            self._go_down(error.message)
        except UpstreamError as error:
            silent_s = time.monotonic() - self._upstream.last_heard_s
            if silent_s > PATIENCE_S:
                self._go_down(f"no sign of life for {silent_s:.0f} s: {error.message}")

    def _go_down(self, reason: str) -> None:
        """Leave the pool; the gateways have somebody else go on with what runs."""
        if self._known is None:
            return
        log.error("the server at %s is down: %s", self._upstream.url, reason)
        self._known = None
        for request_id in list(self._running):
            self._drop(request_id)
        self._links.send_all(Heartbeat(self._worker_id, self._load()))
        self._links.send_all(Goodbye(self._worker_id))

    async def _come_back(self) -> None:
        try:
            self._known = await self._learn()
        except TokenworksError as error:
            if error.message != self._why_down:
                log.info("the server at %s cannot be used yet: %s", self._upstream.url, error)
            self._why_down = error.message
            return
        log.info("the server at %s is back", self._upstream.url)
        self._introduce_to_all()


async def _kept_up(duty: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled: without beats the worker would be lost, without looks a server that is down would stay so."""
    while True:
        try:
            await duty()
        except Exception:
            log.exception("%s failed: this is a bug; it begins again", duty.__name__)
        await asyncio.sleep(BEAT_S)


def failed(request_id: str, error: TokenworksError) -> SequenceOutput:
    """The end of a request that had begun."""
    return SequenceOutput(request_id, end=End(EndReason.FAILED, error=error.message))


def refused(request_id: str, error: TokenworksError) -> SequenceOutput:
    """The end of a request that was not run; it says whether the request is at fault."""
    is_request = isinstance(error, UpstreamRefusal)
    end = End(EndReason.REFUSED, error=error.message, param=error.param or "prompt" if is_request else None)
    return SequenceOutput(request_id, end=end)
