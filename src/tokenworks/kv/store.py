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
from tokenworks.kv.finds import Finds
from tokenworks.kv.format import HEADER_BYTES, BlockFault, block_bytes
from tokenworks.kv.grants import Grants
from tokenworks.kv.health import SpeedNews
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
from tokenworks.kv.stock import Arrival, Stock
from tokenworks.kv.tasks import Lookup, Outcome, Task

BAD_FRAME: Final = "bad_frame"
"""Counted among the host tier's faults: frames and offers that make no sense."""
LATE_GRANT: Final = "late_grant"
"""The same: places taken back from a worker that neither wrote them nor gave them back in time."""
MANY_GRANTS: Final = "many_grants"
"""The same: blocks refused to a worker that has too many places to write already."""


class Welcome(msgspec.Struct, frozen=True):
    """What every client is told when it attaches."""

    store_id: str  # of this start of the store
    arena_path: str
    arena_bytes: int


class Store:
    """One host's store; `lease_s`: seconds of silence after which a client holds nothing any more."""

    def __init__(self, welcome: Welcome, stock: Stock, lease_s: float = LEASE_S) -> None:
        self._welcome = welcome
        self._stock = stock
        self._lease_s = lease_s
        self._sessions: dict[bytes, Session] = {}
        self._waiters = Waiters()
        self._finds = Finds(stock, self._reply)
        self._misses = 0
        self._replies: list[tuple[bytes, StoreMessage]] = []
        self._ready: defaultdict[Waiter, list[Place]] = defaultdict(list)
        self._speed_news = SpeedNews()
        self._is_draining = False

    # Events

    def receive(self, client: bytes, message: ToStore, now_s: float) -> None:
        """A message of the client at this socket."""
        if isinstance(message, Attach):
            self._attach(client, message, now_s)
            return
        session = self._sessions.get(client)
        if session is None:
            self._reply(client, Unknown())
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
            self._finds.end(outcome.task.key)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        for session in [each for each in self._sessions.values() if now_s - each.last_heard_s > self._lease_s]:
            self._end(session)
        for session in self._sessions.values():
            self._take_back(session.grants.take_late(now_s))
        self._finds.tick(now_s)
        speeds = self._stock.speeds(now_s)
        if self._speed_news.is_due(speeds, now_s):
            self._replies += [(client, Speeds(speeds)) for client in self._sessions]

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
        return StoreStatus(store_id, pid, self._stock.status(), self._misses + self._finds.misses)

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

    def _reply(self, client: bytes, message: StoreMessage) -> None:
        self._replies.append((client, message))

    # Clients

    def _attach(self, client: bytes, message: Attach, now_s: float) -> None:
        gone = [
            each for each in self._sessions.values() if client == each.identity or message.client_id == each.client_id
        ]
        for session in gone:
            self._end(session)
        if reason := self._refusal(message):
            self._reply(client, Refused(reason))
            return
        told = self._welcome
        grants = Grants(told.arena_bytes)
        self._sessions[client] = Session(client, message.client_id, block_bytes(message.spec), now_s, grants)
        speeds = self._stock.speeds(now_s)
        self._reply(client, Attached(told.store_id, told.arena_path, told.arena_bytes, speeds))

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
        for block in session.grants.blocks():
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
                self._finds.begin(session.identity, message, session.block_bytes, now_s)
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
            if (block := self._place(session, offered, now_s)) is not None:
                session.grants.add(block, now_s)
                places.append(Place(block.name, block.offset, block.num_bytes))
        if places:
            self._reply(session.identity, Granted(places))

    def _place(self, session: Session, offered: Offered, now_s: float) -> Block | None:
        if not _makes_sense(offered):
            self.bad_frame()
        elif not self._is_draining:
            if session.grants.has_room(offered.num_bytes) or offered.name in self._stock.host:
                return self._stock.offer(offered, now_s)
            self._stock.host.faults[MANY_GRANTS] += 1
        return None

    def _commit(self, session: Session, names: Sequence[BlockName], now_s: float) -> None:
        for name in names:
            if block := session.grants.commit(name):
                self._stock.commit(block, now_s)

    def _abort(self, session: Session, names: Sequence[BlockName]) -> None:
        for name in names:
            if block := session.grants.take(name):
                self._stock.host.drop(block)

    def _take_back(self, late: Sequence[Block]) -> None:
        for block in late:
            self._stock.host.faults[LATE_GRANT] += 1
            self._stock.host.drop(block)

    def _touch(self, names: Sequence[BlockName], now_s: float) -> None:
        for name in names:
            self._stock.used(name, now_s)

    # Getting

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
            self._reply(session.identity, Missing(message.request, missing, BlockFault.MISSING))

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
            self._reply(client, Missing(request_id, names, fault))

    def _give(self, waiter: Waiter, request: Request, block: Block, tier: Tier) -> None:
        request.pinned.append(self._stock.host.pin(block))
        self._ready[waiter].append(Place(block.name, block.offset, block.num_bytes, tier))


def _makes_sense(offered: Offered) -> bool:
    is_name = len(offered.name) == NAME_BYTES and len(offered.parent) == NAME_BYTES
    return is_name and offered.num_bytes > HEADER_BYTES and 0 <= offered.recompute_s < math.inf
