"""The step loop: take in messages, run one step, send what it gave; never wait for anyone while there is work.

With a KV store the turn before and after a step belongs to the exchange of blocks (see `kv_exchange`). While every
sequence waits for blocks no step runs, and the loop sleeps until something comes or somebody's time is up.

The loop tells the meter what its time went to; each sequence's end carries what it took, also where it was cancelled.

Each request belongs to the gateway that submitted it and its outputs go there, one frame per step and gateway. The loop
alone touches the engine. When draining, it says so, finishes what it has and leaves; a request that still comes in is
refused with a reason the gateway can act on.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from queue import Empty
from typing import Final

import zmq

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.record import SequenceReport
from tokenworks.contract.request import Request
from tokenworks.contract.wire import (
    BlocksChanged,
    Cancel,
    End,
    EndReason,
    Goodbye,
    Hello,
    Leaving,
    Message,
    Rejoin,
    SequenceOutput,
    StepOutput,
    Submit,
    ToWorker,
)
from tokenworks.engine.engine import Engine
from tokenworks.worker.heartbeat import HeartbeatThread
from tokenworks.worker.kv_exchange import KVExchange
from tokenworks.worker.link import GatewayLink
from tokenworks.worker.meter import Meter

log = logging.getLogger(__name__)

IDLE_POLL_MS: Final = 100  # how long an idle loop sleeps before it looks at its flags


class StepLoop:
    """Runs until drained."""

    def __init__(
        self,
        engine: Engine,
        hello: Hello,
        links: Sequence[GatewayLink],
        heartbeat: HeartbeatThread,
        meter: Meter,
        exchange: KVExchange | None = None,
    ) -> None:
        self._engine = engine
        self._hello = hello
        self._links = links
        self._heartbeat = heartbeat
        self._meter = meter
        self._exchange = exchange
        self._gateway_of: dict[str, int] = {}
        self._is_draining = False
        self._is_busy = False  # whether another turn would do something at once
        self._poller = zmq.Poller()
        for socket in [*(link.socket for link in links), *([exchange.socket] if exchange else [])]:
            self._poller.register(socket, zmq.POLLIN)

    def drain(self) -> None:
        """Finish what is there, then leave. Safe to call from a signal handler."""
        self._is_draining = True

    def run(self) -> None:
        """Serve until `drain` is called and everything has ended."""
        for index in range(len(self._links)):
            self._introduce(index)
        has_left = False
        while not (self._is_draining and self._is_done):
            self._turn()
            if self._is_draining and not has_left:
                has_left = True
                self._send_all(Leaving(self._hello.worker_id))
        self._take_in()
        self._meter.turned(is_idle=True)
        self._send_all(self._heartbeat.beat())  # the whole of its life: the last second's requests have been told too
        self._send_all(Goodbye(self._hello.worker_id))

    @property
    def _is_done(self) -> bool:
        return not self._engine.has_work and not (self._exchange and self._exchange.is_holding)

    def _turn(self) -> None:
        self._heartbeat.came_round()
        if not self._is_busy:
            self._poller.poll(self._patience_ms())
            self._meter.passed(is_idle=self._is_done)
        self._take_in()
        if self._exchange:
            self._exchange.before_step()
            self._note_exchange(self._exchange)
        has_stepped = self._step()
        self._send_block_changes()
        self._is_busy = has_stepped or (self._exchange is not None and self._exchange.has_backlog)
        self._meter.turned(is_idle=self._is_done and not self._is_busy)

    def _step(self) -> bool:
        """Run one step, if there is one to run, and send what can be told; whether one was run."""
        steps = self._engine.steps
        outputs = self._engine.step()
        has_stepped = self._engine.steps > steps
        if has_stepped and self._engine.last_step is not None:
            self._meter.stepped(self._engine.last_step, outputs)
        if self._exchange:
            outputs = self._exchange.after_step(outputs)
        self._send_outputs(self._meter.with_reports(outputs))
        return has_stepped

    def _note_exchange(self, exchange: KVExchange) -> None:
        self._meter.exchanged(exchange.take_waits(), exchange.take_published())

    def _patience_ms(self) -> int:
        if self._exchange is None:
            return IDLE_POLL_MS
        return math.ceil(1e3 * self._exchange.patience_s(IDLE_POLL_MS / 1e3))

    def _take_in(self) -> None:
        self._answer_rejoins()
        for index, link in enumerate(self._links):
            for message in link.receive():
                self._handle(index, message)
        self._meter.looked()

    def _handle(self, index: int, message: ToWorker) -> None:
        match message:
            case Submit():
                self._submit(index, message)
            case Cancel():
                self._cancel(message.request_id)
            case Rejoin():
                self._rejoin(index)

    def _submit(self, index: int, message: Submit) -> None:
        request = message.request
        came_ns = self._meter.came_ns(index, message.sent_ns)
        try:
            if self._is_draining:
                raise TokenworksError("this worker is leaving and takes no new requests")
            self._engine.add(request)
        except TokenworksError as error:
            self._refuse(index, request, error, came_ns)
        else:
            self._gateway_of[request.id] = index
            self._meter.arrived(request, came_ns, publishes=message.publishes)
            if message.publishes and self._exchange:
                self._exchange.publishes(request)

    def _refuse(self, index: int, request: Request, error: TokenworksError, came_ns: int) -> None:
        reason = EndReason.REFUSED if self._is_draining else EndReason.FAILED
        end = End(reason=reason, error=error.message, report=self._meter.refused(came_ns))
        self._links[index].send(StepOutput([SequenceOutput(request.id, end=end)]))

    def _cancel(self, request_id: str) -> None:
        """Nobody waits for its tokens; what it took is told all the same. Unknown ids have been told their end."""
        index = self._gateway_of.get(request_id)
        if index is not None:
            end = End(reason=EndReason.CANCELLED, report=self._drop(request_id))
            self._links[index].send(StepOutput([SequenceOutput(request_id, end=end)]))

    def _drop(self, request_id: str) -> SequenceReport | None:
        """Forget a request that runs; what it took."""
        if self._exchange:
            self._exchange.forget(request_id)
            self._note_exchange(self._exchange)
        self._engine.cancel(request_id)
        del self._gateway_of[request_id]
        return self._meter.close(request_id)

    def _answer_rejoins(self) -> None:
        while True:
            try:
                self._rejoin(self._heartbeat.rejoins.get_nowait())
            except Empty:
                return

    def _rejoin(self, index: int) -> None:
        """The gateway has lost its memory: nobody waits there for what it had asked."""
        log.info("gateway %s asks to rejoin", self._links[index].address)
        self._drop_requests_of(index)
        self._meter.has_changed(index)
        self._introduce(index)

    def _introduce(self, index: int) -> None:
        self._links[index].send(self._hello)
        self._links[index].send(BlocksChanged(self._hello.worker_id, self._engine.held_blocks(), []))

    def _drop_requests_of(self, index: int) -> None:
        for request_id in [key for key, owner in self._gateway_of.items() if owner == index]:
            self._drop(request_id)

    def _send_outputs(self, outputs: Sequence[SequenceOutput]) -> None:
        by_gateway: dict[int, list[SequenceOutput]] = defaultdict(list)
        for output in outputs:
            by_gateway[self._gateway_of[output.request_id]].append(output)
            if output.end is not None:
                del self._gateway_of[output.request_id]
        for index, batch in by_gateway.items():
            if not self._links[index].send(StepOutput(batch)):
                log.error("gateway %s has stopped reading: its requests are dropped", self._links[index].address)
                self._drop_requests_of(index)

    def _send_block_changes(self) -> None:
        added, removed = self._engine.take_block_changes()
        if added or removed:
            self._send_all(BlocksChanged(self._hello.worker_id, added, removed))

    def _send_all(self, message: Message) -> None:
        for link in self._links:
            link.send(message)
