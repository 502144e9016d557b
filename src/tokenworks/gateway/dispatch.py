"""Between HTTP requests and workers: submits, routes outputs back, cancels, and decides when a worker is dead.

Owns the table of sequences in flight. Invariant: every submitted sequence leaves the table exactly once, because it
ended, was cancelled, or its worker was lost; after that, late outputs for it are ignored.

A worker is dead when the supervisor says so, when it says hello a second time, or when nothing was heard of it for a
lease. Each stream it was working for then fails with `WorkerLost`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from tokenworks.contract import wire
from tokenworks.contract.errors import TokenworksError, Unavailable, WorkerLost
from tokenworks.contract.kv import BlockName, block_names, root_name
from tokenworks.contract.request import Request
from tokenworks.gateway.registry import Worker, WorkerRegistry
from tokenworks.gateway.streams import Stream
from tokenworks.gateway.worker_socket import WorkerSocket
from tokenworks.policy.placement import pick_worker

_log = logging.getLogger(__name__)

CHECKS_PER_LEASE: Final = 4
HELLO_GRACE_S: Final = 0.5  # how long a worker that is heard may be without its hello


class Dispatcher:
    """The gateway's side of the wire protocol."""

    def __init__(self, address: str, lease_s: float) -> None:
        self.workers = WorkerRegistry()
        self.num_bad_frames = 0
        self.num_lost_workers = 0
        self._lease_s = lease_s
        self._in_flight: dict[str, tuple[Stream, Worker]] = {}
        self._rejoin_due_s: dict[str, float] = {}  # by worker id, of workers that have not said hello
        self._socket = WorkerSocket(address, self._on_frame)
        self._lease_check = asyncio.get_running_loop().create_task(self._check_leases())

    @property
    def address(self) -> str:
        """Where workers dial in."""
        return self._socket.address

    @property
    def num_in_flight(self) -> int:
        """Sequences that have not ended."""
        return len(self._in_flight)

    def submit(self, requests: Sequence[Request]) -> Stream:
        """Send each request to a worker; raises Unavailable, and then none of them runs."""
        stream = Stream(request.id for request in requests)
        names: dict[int, list[BlockName]] = {}  # by identity of the prompt: the n choices of one prompt share its ids
        try:
            for request in requests:
                self._submit_one(request, stream, names)
        except TokenworksError:
            self.close(stream)
            raise
        return stream

    def cancel(self, request_id: str) -> None:
        """Nobody waits for this sequence any more; unknown ids are ignored."""
        entry = self._in_flight.pop(request_id, None)
        if entry is None:
            return
        stream, worker = entry
        stream.open_ids.discard(request_id)
        worker.open_ids.discard(request_id)
        self._socket.send(worker.identity, wire.encode(wire.Cancel(request_id)))

    def close(self, stream: Stream) -> None:
        """Cancel what a stream still has open."""
        for request_id in list(stream.open_ids):
            self.cancel(request_id)

    def fail_all(self, error: TokenworksError) -> None:
        """End every open stream."""
        for stream, _ in list(self._in_flight.values()):
            stream.fail(error)

    async def shut_down(self) -> None:
        """Free the address."""
        self._lease_check.cancel()
        await asyncio.gather(self._lease_check, return_exceptions=True)
        self._socket.close()

    def _submit_one(self, request: Request, stream: Stream, names: dict[int, list[BlockName]]) -> None:
        frame = wire.encode(wire.Submit(request))
        worker = self._pick(request, names)
        while worker is not None and not self._socket.send(worker.identity, frame):
            self._lose(self.workers.remove(worker.id), "cannot be reached")
            worker = self._pick(request, names)
        if worker is None:
            raise Unavailable("no worker is ready; the system is starting or recovering, please retry")
        self._in_flight[request.id] = (stream, worker)
        worker.open_ids.add(request.id)

    def _pick(self, request: Request, names: dict[int, list[BlockName]]) -> Worker | None:
        ready = self.workers.ready()
        if len(ready) < 2:  # nothing to choose: do not hash the prompt
            return ready[0] if ready else None
        prompt = id(request.token_ids)
        if prompt not in names:
            names[prompt] = _prompt_block_names(request, ready)
        chosen = pick_worker([worker.candidate() for worker in ready], names[prompt])
        return None if chosen is None else self.workers.get(chosen)

    def _on_frame(self, identity: bytes, frame: bytes) -> None:
        try:
            message = wire.decode_to_gateway(frame)
        except wire.WireError as error:
            self.num_bad_frames += 1
            _log.warning("ignored a frame: %s", error)
            return
        self._receive(identity, message)

    def _receive(self, identity: bytes, message: wire.ToGateway) -> None:
        match message:
            case wire.StepOutput():
                self._step_output(identity, message)
            case wire.Hello():
                self._hello(identity, message)
            case wire.WorkerExited():
                self._lose(self.workers.remove(message.worker_id), f"exited ({message.reason})")
            case wire.Heartbeat() | wire.BlocksChanged() | wire.Leaving() | wire.Goodbye():
                self._from_known(identity, message)

    def _step_output(self, identity: bytes, message: wire.StepOutput) -> None:
        worker = self.workers.at(identity)
        if worker is None:
            return  # its heartbeat, which names it, is answered with `Rejoin`
        worker.last_seen_s = time.monotonic()
        for output in message.outputs:
            self._deliver(worker, output)

    def _deliver(self, worker: Worker, output: wire.SequenceOutput) -> None:
        entry = self._in_flight.get(output.request_id)
        if entry is None or entry[1] is not worker:
            return  # cancelled, or an answer of a worker that was given up
        if output.end is not None:
            del self._in_flight[output.request_id]
            worker.open_ids.discard(output.request_id)
        entry[0].deliver(output)

    def _hello(self, identity: bytes, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL:
            _log.error(
                "refused worker %s: it speaks protocol %d, this gateway %d; run the same version on both sides",
                hello.worker_id,
                hello.protocol,
                wire.PROTOCOL,
            )
            return
        self._rejoin_due_s.pop(hello.worker_id, None)
        previous = self.workers.add(Worker(identity, hello, time.monotonic()))
        self._lose(previous, "restarted")
        _log.info(
            "worker %s joined (pid %d, %d tokens of context)", hello.worker_id, hello.pid, hello.max_context_tokens
        )

    def _from_known(
        self, identity: bytes, message: wire.Heartbeat | wire.BlocksChanged | wire.Leaving | wire.Goodbye
    ) -> None:
        worker = self.workers.get(message.worker_id)
        if worker is None:
            if not isinstance(message, wire.Goodbye):
                self._ask_to_rejoin(message.worker_id, identity)
            return
        worker.last_seen_s = time.monotonic()
        match message:
            case wire.Heartbeat():
                worker.heartbeat(message.load)
            case wire.BlocksChanged():
                worker.blocks_changed(message)
            case wire.Leaving():
                worker.is_leaving = True
                _log.info("worker %s drains", worker.id)
            case wire.Goodbye():
                _log.info("worker %s left", worker.id)
                self._lose(self.workers.remove(worker.id), "left")

    def _ask_to_rejoin(self, worker_id: str, identity: bytes) -> None:
        """Not at once, since a heartbeat may overtake a hello, and then once a lease: `Rejoin` drops what runs."""
        now_s = time.monotonic()
        if now_s >= self._rejoin_due_s.setdefault(worker_id, now_s + HELLO_GRACE_S):
            self._rejoin_due_s[worker_id] = now_s + self._lease_s
            self._socket.send(identity, wire.encode(wire.Rejoin()))

    def _lose(self, worker: Worker | None, how: str) -> None:
        """End the streams of a worker that is no longer registered."""
        if worker is None:
            return
        if worker.open_ids:
            _log.error("worker %s %s with %d requests open", worker.id, how, len(worker.open_ids))
        self.num_lost_workers += how != "left"
        error = WorkerLost(f"worker {worker.id} died while generating; the request was not completed, please retry")
        for request_id in list(worker.open_ids):
            stream, _ = self._in_flight.pop(request_id)
            stream.open_ids.discard(request_id)
            stream.fail(error)
        worker.open_ids.clear()

    async def _check_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / CHECKS_PER_LEASE)
            now_s = time.monotonic()
            for worker in self.workers.silent_since(now_s - self._lease_s):
                self._lose(self.workers.remove(worker.id), f"was silent for {self._lease_s:g} s")
            self._rejoin_due_s = {
                worker_id: due_s for worker_id, due_s in self._rejoin_due_s.items() if due_s > now_s - self._lease_s
            }


def _prompt_block_names(request: Request, workers: Sequence[Worker]) -> list[BlockName]:
    """Names of the prompt's full blocks, as the first worker that tells of its KV names them; none where none does."""
    for worker in workers:
        if (spec := worker.hello.kv) is not None:
            return block_names(root_name(spec.fingerprint, request.salt), request.token_ids, spec.block_tokens)
    return []
