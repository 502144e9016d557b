"""Blocks that clients have asked for: which they hold pinned, which they wait for. Pure.

A block in host memory is ready at once; one in a lower tier when that has been read; the rest is missing. A live
client that never says `Done` must not keep the others' room, so what it has pinned is let go of after `PIN_S`, and its
request forgotten. It may still read then: that is why every reader verifies its own copy.

Invariant: every name of a `Get` comes once in a `Ready` or a `Missing`, unless `Done` came first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.format import BlockFault
from tokenworks.kv.host import Block
from tokenworks.kv.protocol import Get, Missing, Place, Ready
from tokenworks.kv.stock import Arrival, Stock

PIN_S: Final = 120.0
"""Since the last block of a `Get` was given. Workers copy within a second, or give up."""
LATE_DONE: Final = "late_done"
"""Counted among the host tier's faults: blocks let go of because their reader did not say that it is done."""

Asker = tuple[bytes, str]
"""A client's socket and its request."""


class _OpenGet(msgspec.Struct):
    """A `Get` that its client has not said `Done` to."""

    pinned: list[Block] = []
    waiting: set[BlockName] = set()
    given_s: float = 0.0  # when the last of them was, or was asked for


class Gets:
    """Of all clients; `answer(client, missing)` sends one. What is ready is collected, until `take_ready`."""

    def __init__(self, stock: Stock, answer: Callable[[bytes, Missing], None]) -> None:
        self.misses = 0  # names that were asked for and are held nowhere
        self._stock = stock
        self._answer = answer
        self._open: defaultdict[bytes, dict[str, _OpenGet]] = defaultdict(dict)  # by client and request
        self._waiters: dict[BlockName, dict[Asker, None]] = {}  # in the order they came
        self._ready: defaultdict[Asker, list[Place]] = defaultdict(list)

    def begin(self, client: bytes, message: Get, now_s: float) -> None:
        """A client asks for blocks; more of them, where the request is known."""
        asker = (client, message.request)
        get = self._open[client].setdefault(message.request, _OpenGet())
        get.given_s = now_s
        missing: list[BlockName] = []
        for name in message.names:
            self._stock.used(name, now_s)
            if block := self._stock.host.held(name):
                self._stock.host.hits += 1
                self._give(asker, get, block, Tier.HOST, now_s)
            elif self._stock.bring(name) is not None:
                get.waiting.add(name)
                self._waiters.setdefault(name, {})[asker] = None
            else:
                missing.append(name)
        if missing:
            self.misses += len(missing)
            self._answer(client, Missing(message.request, missing, BlockFault.MISSING))

    def arrived(self, arrivals: Sequence[Arrival], now_s: float) -> None:
        """Blocks are there, or will not come: whoever waits for them is told."""
        missing: defaultdict[tuple[Asker, BlockFault], list[BlockName]] = defaultdict(list)
        for arrival in arrivals:
            for asker in self._waiters.pop(arrival.name, {}):
                get = self._open[asker[0]][asker[1]]
                get.waiting.discard(arrival.name)
                if arrival.block is None:
                    missing[asker, arrival.fault].append(arrival.name)
                else:
                    self._give(asker, get, arrival.block, arrival.tier, now_s)
        for ((client, request), fault), names in missing.items():
            self._answer(client, Missing(request, names, fault))

    def end(self, client: bytes, request: str) -> None:
        """The client does not need these blocks any more; nothing where it never asked for them."""
        get = self._open[client].pop(request, None)
        if get is None:
            return
        self._unpin(get)
        for name in get.waiting:
            self._wait_no_more(name, (client, request))
        self._ready.pop((client, request), None)

    def end_all(self, client: bytes) -> None:
        """The client has left."""
        for request in list(self._open[client]):
            self.end(client, request)
        del self._open[client]

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        for gets in self._open.values():
            late = [request for request, get in gets.items() if now_s - get.given_s >= PIN_S]
            for request in late:
                self._let_go(gets, request)

    def _let_go(self, gets: dict[str, _OpenGet], request: str) -> None:
        get = gets[request]
        if get.pinned:
            self._stock.host.faults[LATE_DONE] += len(get.pinned)
            self._unpin(get)
        if not get.waiting:
            del gets[request]

    def take_ready(self) -> list[tuple[bytes, Ready]]:
        """What is to be sent, and to which socket: one message for each request."""
        ready = [(client, Ready(request, places)) for (client, request), places in self._ready.items()]
        self._ready.clear()
        return ready

    def _give(self, asker: Asker, get: _OpenGet, block: Block, tier: Tier, now_s: float) -> None:
        get.pinned.append(self._stock.host.pin(block))
        get.given_s = now_s
        self._ready[asker].append(Place(block.name, block.offset, block.num_bytes, tier))

    def _unpin(self, get: _OpenGet) -> None:
        for block in get.pinned:
            self._stock.host.unpin(block)
        get.pinned.clear()

    def _wait_no_more(self, name: BlockName, asker: Asker) -> None:
        waiters = self._waiters.get(name, {})
        waiters.pop(asker, None)
        if not waiters:
            self._waiters.pop(name, None)
            self._stock.cancel(name)
