"""Who is there: workers and stores come, tell of themselves, fall silent and leave.

A worker is dead when the supervisor says so, when it says hello a second time, or when nothing was heard of it for a
lease; what that means for the sequences it had is the dispatcher's, which is told. A store that is silent for a lease
is simply not there any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from tokenworks.contract import wire
from tokenworks.gateway.pool.counts import DispatchCounts
from tokenworks.gateway.pool.registry import StoreRegistry, Worker, WorkerRegistry
from tokenworks.gateway.pool.samples import Samples

_log = logging.getLogger(__name__)

HELLO_GRACE_S: Final = 0.5  # how long a worker that is heard may be without its hello
FromKnown = wire.Heartbeat | wire.BlocksChanged | wire.Leaving | wire.Goodbye
News = FromKnown | wire.Hello | wire.WorkerExited | wire.StoreStatus


class Members:
    """The registries, kept up to date by frames. `on_lost` is told of a worker that is no longer registered."""

    def __init__(
        self,
        lease_s: float,
        counts: DispatchCounts,
        samples: Samples,
        send: Callable[[bytes, bytes], bool],
        on_joined: Callable[[], None],
        on_lost: Callable[[Worker], None],
    ) -> None:
        self.workers = WorkerRegistry()
        self.stores = StoreRegistry()
        self._lease_s = lease_s
        self._counts = counts
        self._samples = samples
        self._send = send
        self._on_joined = on_joined
        self._on_lost = on_lost
        self._looked_s = time.monotonic()
        self._rejoin_due_s: dict[str, float] = {}  # by worker id, of workers that have not said hello

    def receive(self, identity: bytes, message: News) -> None:
        """Take in a message that is not about sequences."""
        match message:
            case wire.Hello():
                self._hello(identity, message)
            case wire.WorkerExited():
                if not message.was_ready and self.workers.get(message.worker_id) is None:
                    self._not_started(message)
                self.lose(message.worker_id, f"exited ({message.reason})")
            case wire.StoreStatus():
                self._store_heard(message)
            case wire.Heartbeat() | wire.BlocksChanged() | wire.Leaving() | wire.Goodbye():
                self._from_known(identity, message)

    def _store_heard(self, status: wire.StoreStatus) -> None:
        before = self.stores.tell(status, time.monotonic())
        has_restarted = before is not None and before.started_ns != status.started_ns
        if has_restarted:  # within its lease, so that nobody has missed it yet
            self._samples.store_lost(status.store_id, "restarted")
        is_new = before is None or has_restarted
        if is_new:
            _log.info("store %s is there (pid %d)", status.store_id, status.pid)
        self._samples.store_heard(status, is_new=is_new)

    def lose(self, worker_id: str, how: str) -> None:
        """A worker is gone; unknown ids are ignored."""
        self._lost(self.workers.remove(worker_id), how)

    def check_leases(self) -> None:
        """Give up who was silent for a lease; to be called several times in one.

        Where the last look is long ago, it is this process that did not run (a machine that was suspended, or has too
        much to do): what the others said meanwhile lies unread, so that their time is longer by that.
        """
        now_s = time.monotonic()
        asleep_s = max(0.0, now_s - self._looked_s - self._lease_s / 2)
        before_s = now_s - self._lease_s - asleep_s
        self._looked_s = now_s
        for worker in self.workers.silent_since(before_s):
            self.lose(worker.id, f"was silent for {self._lease_s:g} s")
        for store_id in self.stores.forget_silent_since(before_s):
            _log.warning("store %s was silent for %g s", store_id, self._lease_s)
            self._samples.store_lost(store_id, f"was silent for {self._lease_s:g} s")
        self._rejoin_due_s = {name: due_s for name, due_s in self._rejoin_due_s.items() if due_s > before_s}

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
        worker = Worker(identity, hello, time.monotonic())
        previous = self.workers.add(worker)
        _log.info(
            "worker %s joined (pid %d, %s, %d tokens of context)",
            worker.id,
            hello.pid,
            worker.role,
            hello.max_context_tokens,
        )
        self._lost(previous, "restarted")
        self._samples.worker_joined(worker)
        self._on_joined()

    def _from_known(self, identity: bytes, message: FromKnown) -> None:
        worker = self.workers.get(message.worker_id)
        if worker is None:
            if not isinstance(message, wire.Goodbye):
                self._ask_to_rejoin(message.worker_id, identity)
            return
        worker.last_seen_s = time.monotonic()
        match message:
            case wire.Heartbeat():
                worker.heartbeat(message.load)
                self._samples.worker_heard(worker)
            case wire.BlocksChanged():
                worker.blocks_changed(message)
            case wire.Leaving():
                worker.is_leaving = True
                _log.info("worker %s drains", worker.id)
            case wire.Goodbye():
                _log.info("worker %s left", worker.id)
                self.lose(worker.id, "left")

    def _ask_to_rejoin(self, worker_id: str, identity: bytes) -> None:
        """Not at once, since a heartbeat may overtake a hello, and then once a lease: `Rejoin` drops what runs."""
        now_s = time.monotonic()
        if now_s >= self._rejoin_due_s.setdefault(worker_id, now_s + HELLO_GRACE_S):
            self._rejoin_due_s[worker_id] = now_s + self._lease_s
            self._send(identity, wire.encode(wire.Rejoin()))

    def _not_started(self, told: wire.WorkerExited) -> None:
        _log.error("worker %s could not start: it %s", told.worker_id, told.reason)
        self._counts.failed_starts += 1
        self._samples.worker_not_started(told.worker_id, told.reason)

    def _lost(self, worker: Worker | None, how: str) -> None:
        if worker is None:
            return
        if worker.open_ids:
            _log.error("worker %s %s with %d requests open", worker.id, how, len(worker.open_ids))
        self._counts.lost_workers += how != "left"
        self._samples.worker_gone(worker, how)
        self._on_lost(worker)
