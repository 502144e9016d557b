"""Between HTTP requests and workers: submits, routes outputs back, cancels, and sends again what a worker has lost.

Owns the table of sequences in flight. Invariant: every submitted sequence leaves the table exactly once, because it
ended, was cancelled or failed; after that, late outputs for it are ignored, as are those of a worker that it has left.

A sequence may be split: a worker computes and publishes its prompt's blocks, and when that has ended, however it ended,
the plain request goes to another worker, which fetches them, or computes what it does not find. A sequence whose worker
is lost, or refuses it, goes to another one, or waits for one to come (back), see `patience`: as it was where nothing
of it has been seen, and otherwise as a continuation, so that the client misses no token and sees none twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from tokenworks.contract import wire
from tokenworks.contract.errors import TokenworksError, Unavailable, WorkerLost
from tokenworks.contract.request import Request
from tokenworks.contract.wire import EndReason, Role
from tokenworks.gateway.pool.counts import DispatchCounts
from tokenworks.gateway.pool.duties import look_regularly
from tokenworks.gateway.pool.farewells import Farewells
from tokenworks.gateway.pool.flights import RETURNED, Flight, PromptNames, flight_id, refusal
from tokenworks.gateway.pool.legs import LOST, OUTCOMES, Trail
from tokenworks.gateway.pool.members import Members
from tokenworks.gateway.pool.patience import Patience
from tokenworks.gateway.pool.placing import Placing
from tokenworks.gateway.pool.registry import StoreRegistry, Worker, WorkerRegistry
from tokenworks.gateway.pool.samples import Samples
from tokenworks.gateway.pool.streams import Stream
from tokenworks.gateway.pool.worker_socket import WorkerSocket

_log = logging.getLogger(__name__)

CHECKS_PER_LEASE: Final = 4


class Dispatcher:
    """The gateway's side of the wire protocol."""

    def __init__(self, address: str, lease_s: float, samples: Samples) -> None:
        self.counts = DispatchCounts()
        self._samples = samples
        self._members = Members(lease_s, self.counts, samples, self._send, self._resend_waiting, self._on_lost)
        self._farewells = Farewells(lease_s)
        self._patience = Patience(lease_s)
        self._placing = Placing(self.workers, self.stores)
        self._flights: dict[str, Flight] = {}
        self._socket = WorkerSocket(address, self._on_frame)
        duties = (self._members.check_leases, self._end_farewells, self._fail_overdue, self._resend_waiting)
        self._ticker = asyncio.get_running_loop().create_task(look_regularly(duties, lease_s / CHECKS_PER_LEASE))

    @property
    def address(self) -> str:
        """Where workers dial in."""
        return self._socket.address

    @property
    def workers(self) -> WorkerRegistry:
        """The workers that have said hello."""
        return self._members.workers

    @property
    def stores(self) -> StoreRegistry:
        """The KV stores that tell of themselves."""
        return self._members.stores

    @property
    def num_in_flight(self) -> int:
        """Sequences that have not ended."""
        return len(self._flights)

    @property
    def takes_work(self) -> bool:
        """Whether a worker is ready, or one is expected to be back soon."""
        return bool(self.workers.ready()) or self._patience.for_new(time.monotonic(), len(self._waiting())) is not None

    def submit(self, requests: Sequence[Request], trail: Trail) -> Stream:
        """Send each to a worker, noted in `trail`, or keep it until one is back; raises Unavailable, and runs none."""
        stream = Stream((request.id for request in requests), trail)
        prompts: dict[int, PromptNames] = {}  # by identity of the token ids, which the n choices of one prompt share
        may_split = len({id(request.token_ids) for request in requests}) == len(requests)
        try:
            for index, request in enumerate(requests):
                prompt = prompts.setdefault(id(request.token_ids), PromptNames(request))
                self._begin(Flight(request, stream, prompt, index=index, may_split=may_split))
        except TokenworksError:
            self.close(stream)
            raise
        return stream

    def cancel(self, request_id: str, since_ns: int | None = None) -> None:
        """Nobody waits for this sequence any more, since that monotonic time or now; unknown ids are ignored."""
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return
        flight.stream.open_ids.discard(request_id)
        since_ns = time.monotonic_ns() if since_ns is None else since_ns
        worker, sending, wire_id = flight.worker, flight.sending, flight.wire_id
        flight.let_go(since_ns, "cancelled")
        flight.ended(since_ns)
        if worker and sending and self._send(worker.identity, wire.encode(wire.Cancel(wire_id))):
            self._farewells.expect(wire_id, sending, flight.stream.trail)

    def close(self, stream: Stream) -> None:
        """Cancel what a stream still has open."""
        for request_id in list(stream.open_ids):
            self.cancel(request_id)

    def change_role(self, worker: Worker, role: Role) -> None:
        """What a worker is for, from the next request on."""
        self.workers.give_role(worker, role)
        self._samples.role_changed(worker)

    def fail_all(self, error: TokenworksError) -> None:
        """End every open stream."""
        for flight in list(self._flights.values()):
            flight.stream.fail(error)

    async def shut_down(self) -> None:
        """Free the address."""
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        self._socket.close()
        self._farewells.give_up()

    def _begin(self, flight: Flight) -> None:
        """Place a new request, or let it wait; raises Unavailable."""
        flight.sent_s = time.monotonic()
        while (decision := self._placing.first(flight)) is not None:
            first = self.workers.get(decision.prefill_id or decision.worker_id)
            assert first is not None
            flight.prefill_tokens = decision.prefill_tokens
            flight.reason = decision.reason.value
            if self._send_to(first, flight):
                flight.decided(decision)
                self.counts.decided(decision)
                self._flights[flight.id] = flight
                return
        flight.deadline_s = self._patience.for_new(flight.sent_s, len(self._waiting()))
        if flight.deadline_s is None:
            flight.ended(time.monotonic_ns())
            raise Unavailable("no worker is ready; the system is starting or recovering, please retry")
        flight.reason = RETURNED
        self._flights[flight.id] = flight

    def _send_to(self, worker: Worker, flight: Flight) -> bool:
        """Hand a flight to a worker; False where it cannot be reached, which is then lost."""
        now_ns = time.monotonic_ns()  # before it is sent: the worker may begin before this process goes on
        if not self._send(worker.identity, wire.encode(flight.submit(now_ns))):
            self._members.lose(worker.id, "cannot be reached")
            return False
        held_tokens = self._placing.held_tokens(flight, worker)
        worker.took(flight.wire_id, max(1, flight.sent_tokens - held_tokens))
        flight.sent_to(worker, held_tokens, now_ns)
        return True

    def _send_on(self, flight: Flight) -> None:
        """To whoever can take it; where nobody can, it waits for a worker."""
        while (worker := self._placing.next(flight)) is not None:
            if self._send_to(worker, flight):
                return
        if flight.deadline_s is None:
            flight.deadline_s = self._patience.for_lost(time.monotonic())

    def _send(self, identity: bytes, frame: bytes) -> bool:
        return self._socket.send(identity, frame)

    def _on_frame(self, identity: bytes, frame: bytes) -> None:
        try:
            message = wire.decode_to_gateway(frame)
        except wire.WireError as error:
            self.counts.bad_frames += 1
            _log.warning("ignored a frame: %s", error)
            return
        if isinstance(message, wire.StepOutput):
            self._step_output(identity, message)
        else:
            self._members.receive(identity, message)

    def _step_output(self, identity: bytes, message: wire.StepOutput) -> None:
        worker = self.workers.at(identity)
        if worker is None:
            return  # its heartbeat, which names it, is answered with `Rejoin`
        now_ns = time.monotonic_ns()
        worker.last_seen_s = now_ns / 1e9
        for output in message.outputs:
            self._output(worker, output, now_ns)

    def _output(self, worker: Worker, output: wire.SequenceOutput, now_ns: int) -> None:
        flight = self._flights.get(flight_id(output.request_id))
        if flight is None or flight.worker is not worker or flight.wire_id != output.request_id:
            self._farewells.hear(worker, output, now_ns)  # cancelled, or of a worker or a half that was given up
        elif flight.prefill_tokens:
            if output.end is not None:
                self._first_half_ended(flight, worker, now_ns, output)
        elif output.end is not None and output.end.reason is EndReason.REFUSED:
            self._refused(flight, worker, output.end, now_ns)
        else:
            self._deliver(flight, worker, output, now_ns)

    def _deliver(self, flight: Flight, worker: Worker, output: wire.SequenceOutput, now_ns: int) -> None:
        if not flight.has_begun and flight.decision is not None:
            self.counts.first_token(flight.decision, now_ns / 1e9 - flight.sent_s)
        worker.has_begun(flight.wire_id)
        flight.note(output, now_ns)
        if output.end is not None:
            del self._flights[flight.id]
            flight.let_go(now_ns, OUTCOMES[output.end.reason], output.end.report)
            flight.ended(now_ns)
        if flight.computed_tokens:  # once a token: most requests were not split, and need no call
            output = flight.as_client_sees(output)
        flight.stream.deliver(output, now_ns)

    def _first_half_ended(
        self, flight: Flight, worker: Worker, now_ns: int, output: wire.SequenceOutput | None
    ) -> None:
        """Well or badly, or (None) with its worker: the second worker fetches what there is."""
        flight.prefilled(worker.id, now_ns, output)
        self._send_on(flight)

    def _refused(self, flight: Flight, worker: Worker, end: wire.End, now_ns: int) -> None:
        """Somebody else may take it; where nobody is there at all, it waits for one who comes."""
        self.counts.resends["refused"] += 1
        flight.refused_by.add(worker)
        flight.error = refusal(worker, end)
        flight.reason = OUTCOMES[EndReason.REFUSED]
        flight.let_go(now_ns, flight.reason, end.report)
        self._send_on(flight)
        if flight.worker is None and end.param is not None:
            self._fail(flight)  # it is the request that does not fit: waiting will not help
        elif flight.worker is None and self.workers.ready():
            soon_s = self._patience.for_refused(time.monotonic())
            flight.deadline_s = min(soon_s, flight.deadline_s or soon_s)

    def _on_lost(self, worker: Worker) -> None:
        """Send on what a worker had that is no longer registered."""
        now_ns = time.monotonic_ns()
        self._patience.worker_lost(now_ns / 1e9)
        self._farewells.lose(worker)
        for wire_id in list(worker.open_ids):
            flight = self._flights[flight_id(wire_id)]
            if flight.prefill_tokens:
                self._first_half_ended(flight, worker, now_ns, None)
            else:
                self._lost(flight, worker, now_ns)

    def _lost(self, flight: Flight, worker: Worker, now_ns: int) -> None:
        flight.let_go(now_ns, LOST)
        flight.reason = LOST
        flight.num_losses += 1
        flight.deadline_s = None
        flight.error = WorkerLost(
            f"worker {worker.id} died while generating; the request was not completed, please retry"
        )
        if not flight.can_be_resent:
            self._fail(flight)
            return
        self.counts.resends["lost"] += 1
        self.counts.continuations += flight.has_begun
        flight.go_on()
        self._send_on(flight)
        if flight.worker is None and worker.hello.kv is None and flight.has_begun:
            self._fail(flight)  # a foreign server would not take it back, and nobody else is there

    def _fail(self, flight: Flight) -> None:
        del self._flights[flight.id]
        flight.ended(time.monotonic_ns())
        flight.stream.open_ids.discard(flight.id)
        flight.stream.fail(flight.error)

    def _resend_waiting(self) -> None:
        """Who waits for a worker looks again; those that refused may be asked again."""
        for flight in self._waiting():
            flight.refused_by.clear()
            self._send_on(flight)

    def _end_farewells(self) -> None:
        self._farewells.expire(time.monotonic_ns())

    def _fail_overdue(self) -> None:
        now_s = time.monotonic()
        for flight in self._waiting():
            if flight.deadline_s is not None and flight.deadline_s <= now_s:
                self._fail(flight)

    def _waiting(self) -> list[Flight]:
        """Those that no worker has."""
        return [flight for flight in self._flights.values() if flight.worker is None]
