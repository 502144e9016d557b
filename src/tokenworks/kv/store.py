"""The KV store's side of its protocol: messages in, replies and tasks out; who may write, read and keep what, how long.

Pure: no sockets, threads or clock. After any event `take_replies` and `take_tasks` say what is to be sent and done.

Look-ups stand in `finds`, blocks that were asked for in `gets`, places to write to in `grants`.

Invariant: a client that has been silent for the lease, or has attached anew, holds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.contract.kv import NAME_BYTES, BlockName, Tier
from tokenworks.contract.wire import StoreStatus
from tokenworks.kv.finds import Finds
from tokenworks.kv.format import HEADER_BYTES, block_bytes
from tokenworks.kv.gets import Gets
from tokenworks.kv.grants import Grants, Room
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
    Offer,
    Offered,
    Place,
    Refused,
    Speeds,
    StoreMessage,
    ToStore,
    Touch,
    Unknown,
)
from tokenworks.kv.stock import Stock
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


class _Session(msgspec.Struct, eq=False):
    """One attached client."""

    identity: bytes  # of its socket
    client_id: str
    block_bytes: int  # of one of its blocks, header and payload
    last_heard_s: float
    grants: Grants


class Store:
    """One host's store; `lease_s`: seconds of silence after which a client holds nothing any more."""

    def __init__(self, welcome: Welcome, stock: Stock, lease_s: float = LEASE_S) -> None:
        self._welcome = welcome
        self._stock = stock
        self._lease_s = lease_s
        self._room = Room(welcome.arena_bytes)
        self._sessions: dict[bytes, _Session] = {}
        self._finds = Finds(stock, self._reply)
        self._gets = Gets(stock, self._reply)
        self._replies: list[tuple[bytes, StoreMessage]] = []
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
        self._gets.arrived(self._stock.finished(outcome, now_s), now_s)
        if isinstance(outcome.task, Lookup):
            self._finds.end(outcome.task.key, now_s)

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        for session in [each for each in self._sessions.values() if now_s - each.last_heard_s > self._lease_s]:
            self._end(session)
        for session in self._sessions.values():
            self._take_back(session.grants.take_late(now_s))
        self._finds.tick(now_s)
        self._gets.tick(now_s)
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

    def is_up(self, tier: Tier) -> bool:
        """Whether a tier can be used now; memory always can."""
        return tier is Tier.HOST or self._stock.lowers[tier].is_up

    def num_blocks(self, tier: Tier) -> int:
        """How many blocks lie in a tier below memory."""
        return len(self._stock.lowers[tier])

    def status(self, store_id: str, pid: int) -> StoreStatus:
        """For the gateways."""
        return StoreStatus(store_id, pid, self._stock.status(), self._gets.misses + self._finds.misses)

    def take_tasks(self, now_s: float) -> list[Task]:
        """What the I/O threads should start."""
        tasks, arrivals = self._stock.take_tasks(now_s)
        self._gets.arrived(arrivals, now_s)
        return tasks

    def take_replies(self) -> list[tuple[bytes, StoreMessage]]:
        """What is to be sent, and to which socket."""
        replies = [*self._replies, *self._gets.take_ready()]
        self._replies.clear()
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
        self._sessions[client] = _Session(
            client, message.client_id, block_bytes(message.spec), now_s, Grants(self._room)
        )
        speeds = self._stock.speeds(now_s)
        self._reply(client, Attached(told.store_id, told.arena_path, told.arena_bytes, speeds))

    def _refusal(self, message: Attach) -> str:
        if message.protocol != STORE_PROTOCOL:
            return (
                f"the KV store speaks version {STORE_PROTOCOL} of its protocol and {message.client_id} version "
                f"{message.protocol}: run the same release of tokenworks for both"
            )
        spec = message.spec
        try:
            size = block_bytes(spec)
        except KeyError:
            return f"the KV store knows no dtype {spec.dtype!r}: run the same release of tokenworks for both"
        if min(spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.block_tokens) < 1:
            return (
                f"a block of {message.client_id} has no bytes: its layers, heads, head_dim and tokens must be positive"
            )
        if size > self._welcome.arena_bytes:
            return f"one block has {size} bytes, the KV store {self._welcome.arena_bytes}: raise --kv-host-bytes"
        return ""

    def _end(self, session: _Session) -> None:
        """Whatever the client had is free."""
        for block in session.grants.take_all():
            self._stock.host.drop(block)
        self._gets.end_all(session.identity)
        del self._sessions[session.identity]

    def _serve(self, session: _Session, message: ToStore, now_s: float) -> None:
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
                self._gets.begin(session.identity, message, now_s)
            case Done():
                self._gets.end(session.identity, message.request)
            case Touch():
                self._touch(message.names, now_s)
            case Detach():
                self._end(session)

    # Putting

    def _offer(self, session: _Session, blocks: Sequence[Offered], now_s: float) -> None:
        places: list[Place] = []
        for offered in blocks:
            if (block := self._place(session, offered, now_s)) is not None:
                session.grants.add(block, now_s)
                places.append(Place(block.name, block.offset, block.num_bytes))
        if places:
            self._reply(session.identity, Granted(places))

    def _place(self, session: _Session, offered: Offered, now_s: float) -> Block | None:
        if not _makes_sense(offered):
            self.bad_frame()
        elif not self._is_draining:
            if session.grants.has_room(offered.num_bytes) or offered.name in self._stock.host:
                return self._stock.offer(offered, now_s)
            self._stock.host.faults[MANY_GRANTS] += 1
        return None

    def _commit(self, session: _Session, names: Sequence[BlockName], now_s: float) -> None:
        for name in names:
            if block := session.grants.commit(name):
                self._stock.commit(block, now_s)

    def _abort(self, session: _Session, names: Sequence[BlockName]) -> None:
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


def _makes_sense(offered: Offered) -> bool:
    is_name = len(offered.name) == NAME_BYTES and len(offered.parent) == NAME_BYTES
    return is_name and offered.num_bytes > HEADER_BYTES and 0 <= offered.recompute_s < math.inf
