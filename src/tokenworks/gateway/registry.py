"""The gateway's view of its workers: who said hello, how loaded each is, what it holds, when it was last heard.

State only: no sockets and no clock (times come in as arguments). A worker is known from its `Hello` until it says
`Goodbye`, is reported dead, or is silent for a lease; a worker that says hello again is a new one under an old id.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenworks.contract.kv import BlockName
from tokenworks.contract.wire import BlocksChanged, Hello, Load
from tokenworks.policy.placement import Candidate


class Worker:
    """One worker that has said hello."""

    def __init__(self, identity: bytes, hello: Hello, now_s: float) -> None:
        self.id = hello.worker_id
        self.identity = identity
        self.hello = hello
        self.load: Load | None = None
        self.is_leaving = False
        self.last_seen_s = now_s
        self.held_blocks: set[BlockName] = set()
        self.open_ids: set[str] = set()  # requests sent to it and not ended
        self._open_at_heartbeat = 0

    def heartbeat(self, load: Load) -> None:
        """Note what the worker says of itself."""
        self.load = load
        self._open_at_heartbeat = len(self.open_ids)

    def blocks_changed(self, change: BlocksChanged) -> None:
        """Follow the worker's prefix cache."""
        self.held_blocks.update(change.added)
        self.held_blocks.difference_update(change.removed)

    def candidate(self) -> Candidate:
        """The worker as placement sees it."""
        running = self.load.running if self.load else 0
        waiting = self.load.waiting if self.load else 0
        since = len(self.open_ids) - self._open_at_heartbeat
        unseen = len(self.open_ids) - running - waiting  # a heartbeat may have left before a request arrived
        return Candidate(
            worker_id=self.id,
            is_ready=not self.is_leaving,
            running=running,
            waiting=waiting,
            in_flight=max(since, unseen),
            held_blocks=self.held_blocks,
        )


class WorkerRegistry:
    """All known workers, by id and by the ZeroMQ identity of their main socket."""

    def __init__(self) -> None:
        self._by_id: dict[str, Worker] = {}
        self._by_identity: dict[bytes, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, worker: Worker) -> Worker | None:
        """Register a worker; returns the one that had its id before, if any."""
        previous = self.remove(worker.id)
        self._by_id[worker.id] = worker
        self._by_identity[worker.identity] = worker
        return previous

    def remove(self, worker_id: str) -> Worker | None:
        """Forget a worker; returns it, if it was known."""
        worker = self._by_id.pop(worker_id, None)
        if worker is not None:
            self._by_identity.pop(worker.identity, None)
        return worker

    def get(self, worker_id: str) -> Worker | None:
        """The worker of that id."""
        return self._by_id.get(worker_id)

    def at(self, identity: bytes) -> Worker | None:
        """The worker whose main socket has that identity."""
        return self._by_identity.get(identity)

    def ready(self) -> list[Worker]:
        """The workers that take new requests."""
        return [worker for worker in self if not worker.is_leaving]

    def silent_since(self, before_s: float) -> list[Worker]:
        """The workers not heard of since that time."""
        return [worker for worker in self if worker.last_seen_s < before_s]
