"""The KV store's side of its protocol: messages in, replies and tasks out; who may write, read and keep what, how long.

Pure: no sockets, threads or clock. After any event `take_replies` and `take_tasks` say what is to be sent and done.

Invariants: every `Find` is answered once; every name of a `Get` comes once in a `Ready` or a `Missing`, unless `Done`
came first; a client that has been silent for the lease, or has attached anew, holds nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.contract.kv import NAME_BYTES, BlockName, Tier
from tokenworks.contract.wire import StoreStatus
from tokenworks.kv.format import HEADER_BYTES, BlockFault, block_bytes
from tokenworks.kv.host import Block
from tokenworks.kv.protocol import (
    LEASE_S,
    STORE_PROTOCOL,
    Abort,
    Attach,
    Attached,
    Commit,
    Detach,
    Done,
    Find,
    Found,
    Get,
    Granted,
    Missing,
    Offer,
    Offered,
    Place,
    Ready,
    Refused,
    Speeds,
    StoreMessage,
    ToStore,
    Touch,
    Unknown,
)
from tokenworks.kv.sessions import Request, Session, Waiter, Waiters
from tokenworks.kv.stock import MAX_LOOKUP_S, Arrival, Stock
from tokenworks.kv.tasks import Lookup, Outcome, Task

SPEEDS_EVERY_S: Final = 2.0
MAX_LOOKUP_NAMES: Final = 512
BAD_FRAME: Final = "bad_frame"
"""Counted among the host tier's faults: frames and offers that make no sense."""


class Welcome(msgspec.Struct, frozen=True):
    """What every client is told when it attaches."""

    store_id: str  # of this start of the store
    arena_path: str
    arena_bytes: int


class _OpenFind(msgspec.Struct, frozen=True):
    """A `Find` that waits for the remote tier."""

    client: bytes
    message: Find
    until_s: float


class Store:
    """One host's store; `lease_s`: seconds of silence after which a client holds nothing any more."""

    def __init__(self, welcome: Welcome, stock: Stock, lease_s: float = LEASE_S) -> None:
        self._welcome = welcome
        self._stock = stock
        self._lease_s = lease_s
        self._sessions: dict[bytes, Session] = {}
        self._waiters = Waiters()
        self._finds: dict[int, _OpenFind] = {}
        self._num_finds = 0
        self._misses = 0
        self._replies: list[tuple[bytes, StoreMessage]] = []
        self._ready: defaultdict[Waiter, list[Place]] = defaultdict(list)
        self._speeds_told_s = -math.inf
        self._is_draining = False

    # Events

    def receive(self, client: bytes, message: ToStore, now_s: float) -> None:
        """A message of the client at this socket."""
        if isinstance(message, Attach):
            self._attach(client, message, now_s)
            return
        session = self._sessions.get(client)
        if session is None:
            self._replies.append((client, Unknown()))
            return
        session.last_heard_s = now_s
        self._serve(session, message, now_s)

    def bad_frame(self) -> None:
        """Something came that is no message."""
        self._stock.host.faults[BAD_FRAME] += 1

    def finished(self, outcome: Outcome, now_s: float) -> None:
        """A task has ended."""
        self._arrived(self._stock.finished(outcome, now_s))
        if isinstance(outcome.task, Lookup):
            self._answer_find(outcome.task.key)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        for session in [each for each in self._sessions.values() if now_s - each.last_heard_s > self._lease_s]:
            self._end(session)
        for key in [key for key, find in self._finds.items() if now_s >= find.until_s]:
            self._answer_find(key)
        if now_s - self._speeds_told_s >= SPEEDS_EVERY_S:
            self._speeds_told_s = now_s
            speeds = Speeds(self._stock.speeds(now_s))
            self._replies += [(client, speeds) for client in self._sessions]

    def drain(self) -> None:
        """Take nothing in any more; what is there can still be read, and is written back."""
        self._is_draining = True

    # Instructions and state

    @property
    def is_saved(self) -> bool:
        """Whether all that was put is in a lower tier, as far as those take it."""
        return self._stock.is_saved

    @property
    def is_hurried(self) -> bool:
        """Whether somebody waits for an answer that time alone will bring."""
        return bool(self._finds)

    def status(self, store_id: str, pid: int) -> StoreStatus:
        """For the gateways."""
        return StoreStatus(store_id, pid, self._stock.status(), self._misses)

    def take_tasks(self, now_s: float) -> list[Task]:
        """What the I/O threads should start."""
        tasks, arrivals = self._stock.take_tasks(now_s)
        self._arrived(arrivals)
        return tasks

    def take_replies(self) -> list[tuple[bytes, StoreMessage]]:
        """What is to be sent, and to which socket."""
        ready = [(client, Ready(request, places)) for (client, request), places in self._ready.items()]
        replies = [*self._replies, *ready]
        self._replies.clear()
        self._ready.clear()
        return replies

    # Clients

    def _attach(self, client: bytes, message: Attach, now_s: float) -> None:
        gone = [
            each for each in self._sessions.values() if client == each.identity or message.client_id == each.client_id
        ]
        for session in gone:
            self._end(session)
        if reason := self._refusal(message):
            self._replies.append((client, Refused(reason)))
            return
        self._sessions[client] = Session(client, message.client_id, block_bytes(message.spec), now_s)
        told = self._welcome
        speeds = self._stock.speeds(now_s)
        self._replies.append((client, Attached(told.store_id, told.arena_path, told.arena_bytes, speeds)))

    def _refusal(self, message: Attach) -> str:
        if message.protocol != STORE_PROTOCOL:
            return (
                f"the KV store speaks version {STORE_PROTOCOL} of its protocol and {message.client_id} version "
                f"{message.protocol}: run the same release of tokenworks for both"
            )
        try:
            size = block_bytes(message.spec)
        except KeyError:
            return f"the KV store knows no dtype {message.spec.dtype!r}: run the same release of tokenworks for both"
        if size > self._welcome.arena_bytes:
            return f"one block has {size} bytes, the KV store {self._welcome.arena_bytes}: raise --kv-host-bytes"
        return ""

    def _end(self, session: Session) -> None:
        """Whatever the client had is free."""
        for block in session.grants.values():
            self._stock.host.drop(block)
        for request in list(session.requests):
            self._done(session, request)
        del self._sessions[session.identity]

    def _serve(self, session: Session, message: ToStore, now_s: float) -> None:
        match message:
            case Offer():
                self._offer(session, message.blocks, now_s)
            case Commit():
                self._commit(session, message.names, now_s)
            case Abort():
                self._abort(session, message.names)
            case Find():
                self._find(session, message, now_s)
            case Get():
                self._get(session, message, now_s)
            case Done():
                self._done(session, message.request)
            case Touch():
                self._touch(message.names, now_s)
            case Detach():
                self._end(session)

    # Putting

    def _offer(self, session: Session, blocks: Sequence[Offered], now_s: float) -> None:
        places: list[Place] = []
        for offered in blocks:
            if not _makes_sense(offered):
                self.bad_frame()
            elif not self._is_draining and (block := self._stock.offer(offered, now_s)):
                session.grants[block.name] = block
                places.append(Place(block.name, block.offset, block.num_bytes))
        if places:
            self._replies.append((session.identity, Granted(places)))

    def _commit(self, session: Session, names: Sequence[BlockName], now_s: float) -> None:
        for name in names:
            if block := session.grants.pop(name, None):
                self._stock.commit(block, now_s)

    def _abort(self, session: Session, names: Sequence[BlockName]) -> None:
        for name in names:
            if block := session.grants.pop(name, None):
                self._stock.host.drop(block)

    def _touch(self, names: Sequence[BlockName], now_s: float) -> None:
        for name in names:
            self._stock.used(name, now_s)

    # Getting

    def _find(self, session: Session, message: Find, now_s: float) -> None:
        rest = message.names[len(self._prefix(message.names)) :][:MAX_LOOKUP_NAMES]
        self._num_finds += 1
        self._finds[self._num_finds] = _OpenFind(session.identity, message, now_s + MAX_LOOKUP_S)
        size, cost_s = session.block_bytes, message.recompute_s
        if not rest or not self._stock.look_up(rest, size, cost_s, self._num_finds, now_s):
            self._answer_find(self._num_finds)

    def _answer_find(self, key: int) -> None:
        find = self._finds.pop(key, None)
        if find is not None:
            tiers = self._prefix(find.message.names)
            self._misses += len(find.message.names) - len(tiers)
            self._replies.append((find.client, Found(find.message.request, tiers)))

    def _prefix(self, names: Sequence[BlockName]) -> list[Tier]:
        tiers: list[Tier] = []
        for name in names:
            tier = self._stock.nearest(name)
            if tier is None:
                break
            tiers.append(tier)
        return tiers

    def _get(self, session: Session, message: Get, now_s: float) -> None:
        request = session.requests.setdefault(message.request, Request())
        waiter = (session.identity, message.request)
        missing: list[BlockName] = []
        for name in message.names:
            self._stock.used(name, now_s)
            if block := self._stock.host.held(name):
                self._stock.host.hits += 1
                self._give(waiter, request, block, Tier.HOST)
            elif self._stock.bring(name) is not None:
                request.waiting.add(name)
                self._waiters.add(name, waiter)
            else:
                missing.append(name)
        if missing:
            self._misses += len(missing)
            self._replies.append((session.identity, Missing(message.request, missing, BlockFault.MISSING)))

    def _done(self, session: Session, request_id: str) -> None:
        request = session.requests.pop(request_id, None)
        if request is None:
            return
        for block in request.pinned:
            self._stock.host.unpin(block)
        for name in request.waiting:
            if self._waiters.remove(name, (session.identity, request_id)):
                self._stock.cancel(name)
        self._ready.pop((session.identity, request_id), None)

    def _arrived(self, arrivals: Sequence[Arrival]) -> None:
        missing: defaultdict[tuple[Waiter, BlockFault], list[BlockName]] = defaultdict(list)
        for arrival in arrivals:
            for waiter in self._waiters.take(arrival.name):
                request = self._sessions[waiter[0]].requests[waiter[1]]
                request.waiting.discard(arrival.name)
                if arrival.block is None:
                    missing[waiter, arrival.fault].append(arrival.name)
                else:
                    self._give(waiter, request, arrival.block, arrival.tier)
        for ((client, request_id), fault), names in missing.items():
            self._replies.append((client, Missing(request_id, names, fault)))

    def _give(self, waiter: Waiter, request: Request, block: Block, tier: Tier) -> None:
        request.pinned.append(self._stock.host.pin(block))
        self._ready[waiter].append(Place(block.name, block.offset, block.num_bytes, tier))


def _makes_sense(offered: Offered) -> bool:
    is_name = len(offered.name) == NAME_BYTES and len(offered.parent) == NAME_BYTES
    return is_name and offered.num_bytes > HEADER_BYTES and 0 <= offered.recompute_s < math.inf
