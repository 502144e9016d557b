"""A worker's end of the store's protocol. One thread; nothing here ever waits.

Sending only touches ZeroMQ's queue, and only while the store is known to listen; `receive` returns what has come and
does the housekeeping: it attaches, says `Alive`, notices a store that is gone and attaches to the next one. Everything
that was outstanding then is void (`StoreLost`), and what is sent while not attached is dropped: to a worker a missing
store means computing, never waiting.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import zmq

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, KVSpec, Tier
from tokenworks.contract.setting import bytes_text
from tokenworks.kv import dealer
from tokenworks.kv.arena import Arena, ArenaError, open_arena
from tokenworks.kv.protocol import (
    STORE_PROTOCOL,
    Abort,
    Alive,
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
    StoreWireError,
    TierSpeed,
    ToClient,
    Touch,
    Unknown,
    decode_to_client,
    encode,
)

log = logging.getLogger(__name__)

QUEUE_FRAMES: Final = 10_000
LINGER_MS: Final = 200
ATTACH_EVERY_S: Final = 1.0
DIAL_EVERY_S: Final = 0.05
"""Between two looks whether the line to the store is up: as ZeroMQ takes to dial again."""
REFUSED_FOR_S: Final = 10.0
ALIVE_EVERY_S: Final = 1.0
SILENCE_S: Final = 5.0
"""Without a word for so long the store is lost: it tells its speeds every two seconds."""


class StoreGone(TokenworksError):
    """There is no store now, so its memory cannot be used."""

    code = "kv_store_gone"


class StoreLost(msgspec.Struct, frozen=True):
    """Grants, finds and gets that were outstanding will never be answered."""

    reason: str


StoreEvent = Granted | Found | Ready | Missing | StoreLost


class KVClient:
    """One worker's line to its host's store. `socket` may be put into a poller; call `receive` once a second at least.

    `speeds`: of the tiers, as last told; empty while not attached.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        client_id: str,
        spec: KVSpec,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.speeds: dict[Tier, TierSpeed] = {}
        self.socket = dealer.dial(context, address, max_queued=QUEUE_FRAMES, linger_ms=LINGER_MS, only_connected=True)
        self._attach = Attach(STORE_PROTOCOL, client_id, spec)
        self._clock = clock
        self._arena: Arena | None = None  # None: not attached
        self._loss: StoreLost | None = None  # to be told with the next `receive`
        self._last_heard_s = 0.0
        self._next_word_s = 0.0  # when to say Attach or Alive
        self._store_id = ""
        self._refusal = ""

    @property
    def is_attached(self) -> bool:
        """Whether there is a store that answers."""
        return self._arena is not None

    def offer(self, blocks: Sequence[Offered]) -> None:
        """These blocks can be put; `Granted` says which."""
        self._tell(Offer(list(blocks)))

    def commit(self, names: Sequence[BlockName]) -> None:
        """These granted places have been written."""
        self._tell(Commit(list(names)))

    def abort(self, names: Sequence[BlockName]) -> None:
        """These granted places will not be written."""
        self._tell(Abort(list(names)))

    def touch(self, names: Sequence[BlockName]) -> None:
        """These blocks were used again, out of the worker's own memory."""
        self._tell(Touch(list(names)))

    def find(self, request: str, names: Sequence[BlockName], recompute_s: float = math.inf) -> None:
        """Ask how much of this chain is held; `Found` says it. `recompute_s`: what computing one block takes."""
        self._tell(Find(request, list(names), recompute_s))

    def get(self, request: str, names: Sequence[BlockName]) -> None:
        """Have these blocks brought into memory; each comes in a `Ready` or a `Missing`."""
        self._tell(Get(request, list(names)))

    def done(self, request: str) -> None:
        """The blocks of a `get` are not needed any more."""
        self._tell(Done(request))

    def memory(self, place: Place) -> memoryview:
        """Writable memory of a place; raises StoreGone, and StoreWireError for a place that does not exist."""
        if self._arena is None:
            raise StoreGone("the KV store is gone")
        try:
            return self._arena.view(place.offset, place.num_bytes)
        except ArenaError as error:
            raise StoreWireError(f"the KV store named a place that does not exist: {error}") from error

    def receive(self) -> list[StoreEvent]:
        """Everything that has come."""
        events: list[StoreEvent] = []
        for message in self._messages():
            self._last_heard_s = self._clock()
            self._take_loss(events)
            self._heard(message, events)
        self._keep_house()
        self._take_loss(events)
        return events

    def close(self) -> None:
        """Leave."""
        self._tell(Detach())
        self._arena = None
        self.socket.close()

    def _messages(self) -> Iterator[ToClient]:
        for frame in dealer.frames(self.socket):
            try:
                yield decode_to_client(frame)
            except StoreWireError as error:
                log.warning("ignored: %s", error)

    def _heard(self, message: ToClient, events: list[StoreEvent]) -> None:
        match message:
            case Attached():
                self._attached(message, events)
            case Refused():
                self._refused(message.reason)
            case Unknown():
                self._lose("the KV store does not know this worker any more")
            case Speeds():
                self.speeds = message.speeds if self.is_attached else {}
            case Granted() | Found() | Ready() | Missing():
                if self.is_attached:  # if not, it answers something that has been given up
                    events.append(message)

    def _attached(self, message: Attached, events: list[StoreEvent]) -> None:
        if self.is_attached and message.store_id == self._store_id:
            return  # it was asked twice, being slow to answer the first time
        self._lose("another KV store has taken the place of the one before")
        self._take_loss(events)
        try:
            self._arena = open_arena(message.arena_path, message.arena_bytes)
        except ArenaError as error:
            self._refused(error.message)
            return
        self._arena.page_in()
        log.info("attached to KV store %s (%s of memory)", message.store_id, bytes_text(message.arena_bytes))
        self._store_id, self.speeds, self._refusal = message.store_id, message.speeds, ""

    def _refused(self, reason: str) -> None:
        if reason != self._refusal:
            log.warning("no KV store: %s", reason)
        self._refusal = reason
        self._next_word_s = self._clock() + REFUSED_FOR_S

    def _keep_house(self) -> None:
        now_s = self._clock()
        if self.is_attached and now_s - self._last_heard_s > SILENCE_S:
            self._lose(f"the KV store has been silent for {SILENCE_S:.0f} s")
        if now_s < self._next_word_s:
            return
        if self.is_attached:
            self._next_word_s = now_s + ALIVE_EVERY_S
            self._tell(Alive())
        else:
            is_sent = dealer.send(self.socket, encode(self._attach))
            self._next_word_s = now_s + (ATTACH_EVERY_S if is_sent else DIAL_EVERY_S)

    def _tell(self, message: StoreMessage) -> None:
        """Send where there is a store. One that takes nothing is gone."""
        if self.is_attached and not dealer.send(self.socket, encode(message)):
            self._lose("the KV store is gone")

    def _lose(self, reason: str) -> None:
        if self.is_attached:
            log.warning("%s: what was asked of it is given up", reason)
            self._arena = None
            self.speeds = {}
            self._loss = StoreLost(reason)
            self._next_word_s = 0.0

    def _take_loss(self, events: list[StoreEvent]) -> None:
        if self._loss is not None:
            events.append(self._loss)
            self._loss = None
