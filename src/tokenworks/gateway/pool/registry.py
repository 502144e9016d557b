"""The gateway's view of its workers and stores: who said hello, how loaded each is, what it holds, when it was heard.

State only: no sockets and no clock (times come in as arguments). A worker is known from its `Hello` until it says
`Goodbye`, is reported dead, or is silent for a lease; a worker that says hello again is a new one under an old id, but
keeps the role that it was given at run time. A store is known while it tells of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tokenworks.contract.kv import BlockName
from tokenworks.contract.wire import BlocksChanged, Hello, Load, Role, StoreStatus
from tokenworks.policy.placement import Candidate

VERSION_CHARS: Final = 12  # of a fingerprint, in tables and records


class Worker:
    """One worker that has said hello."""

    def __init__(self, identity: bytes, hello: Hello, now_s: float) -> None:
        self.id = hello.worker_id
        self.identity = identity
        self.hello = hello
        # Which weights it serves, in short; empty where it does not say.
        self.version = "" if hello.kv is None else hello.kv.fingerprint[:VERSION_CHARS]
        self.role = hello.role
        self.load: Load | None = None
        self.is_leaving = False
        self.last_seen_s = now_s
        self.held_blocks: set[BlockName] = set()
        self.open_ids: set[str] = set()  # sequences sent to it and not ended, by their ids on the wire
        self._queued_tokens: dict[str, int] = {}  # of those that have given no token yet: tokens to compute
        self._open_at_heartbeat = 0
        self.is_accounted = True  # whether it has told what it did since a sequence ended there

    def heartbeat(self, load: Load) -> None:
        """Note what the worker says of itself."""
        self.load = load
        self.is_accounted = True
        self._open_at_heartbeat = len(self.open_ids)

    def blocks_changed(self, change: BlocksChanged) -> None:
        """Follow the worker's prefix cache."""
        self.held_blocks.update(change.added)
        self.held_blocks.difference_update(change.removed)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that it was sent by this gateway and has not, as far as is known, computed."""
        return sum(self._queued_tokens.values())

    @property
    def num_decoding(self) -> int:
        """Its sequences that have given a token, as far as is known."""
        return max(0, self.candidate().load - len(self._queued_tokens))

    def took(self, wire_id: str, new_tokens: int) -> None:
        """Note a sequence that was sent, and how many of its tokens are to be computed."""
        self.open_ids.add(wire_id)
        self._queued_tokens[wire_id] = new_tokens

    def has_begun(self, wire_id: str) -> None:
        """Note that a sequence gave a token."""
        self._queued_tokens.pop(wire_id, None)

    def ended(self, wire_id: str) -> None:
        """Forget a sequence."""
        self.is_accounted = False
        self.open_ids.discard(wire_id)
        self._queued_tokens.pop(wire_id, None)

    def candidate(self, held_tokens: int = 0) -> Candidate:
        """The worker as placement sees it, which holds so many tokens of a prompt."""
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
            held_tokens=held_tokens,
            role=self.role,
        )


class WorkerRegistry:
    """All known workers, by id and by the ZeroMQ identity of their main socket."""

    def __init__(self) -> None:
        self._by_id: dict[str, Worker] = {}
        self._by_identity: dict[bytes, Worker] = {}
        self._given_roles: dict[str, Role] = {}  # by worker id, at run time

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, worker: Worker) -> Worker | None:
        """Register a worker; returns the one that had its id before, if any."""
        previous = self.remove(worker.id)
        worker.role = self._given_roles.get(worker.id, worker.role)
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

    def give_role(self, worker: Worker, role: Role) -> None:
        """Change what a worker is for, from now on and for those that will come back under its id."""
        self._given_roles[worker.id] = worker.role = role

    def ready(self) -> list[Worker]:
        """The workers that take new requests."""
        return [worker for worker in self if not worker.is_leaving]

    def silent_since(self, before_s: float) -> list[Worker]:
        """The workers not heard of since that time."""
        return [worker for worker in self if worker.last_seen_s < before_s]


class StoreRegistry:
    """The hosts' KV stores that are alive, as each last told of itself."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[StoreStatus, float]] = {}

    def __iter__(self) -> Iterator[StoreStatus]:
        return iter([status for status, _ in self._by_id.values()])

    def __len__(self) -> int:
        return len(self._by_id)

    def tell(self, status: StoreStatus, now_s: float) -> StoreStatus | None:
        """Note what a store says of itself; what it said last, if it was known."""
        before = self._by_id.get(status.store_id)
        self._by_id[status.store_id] = (status, now_s)
        return None if before is None else before[0]

    def forget_silent_since(self, before_s: float) -> list[str]:
        """Forget the stores not heard of since that time; their ids."""
        silent = [store_id for store_id, (_, seen_s) in self._by_id.items() if seen_s < before_s]
        for store_id in silent:
            del self._by_id[store_id]
        return silent
