"""A worker as the store sees it: a real KVClient, and waits that have a bound."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

import zmq

from tests.kv.chain import ChainBlock, spec_of
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.client import KVClient, StoreEvent, StoreLost
from tokenworks.kv.format import BadBlock, verify
from tokenworks.kv.protocol import Found, Granted, Missing, Place, Ready

PATIENCE_S = 60.0  # a bound for a machine that is busy with other things, not an expectation
EventT = TypeVar("EventT", bound=StoreEvent)


class Lost(Exception):
    """The store was lost, so that an answer will never come."""


class Peer:
    """Use as a context manager."""

    def __init__(self, address: str, client_id: str, payload_bytes: int = 8192) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.client = KVClient(self._context, address, client_id, spec_of(payload_bytes))
        self.events: list[StoreEvent] = []
        self._requests = 0

    def __enter__(self) -> Peer:
        self.until_attached()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._context.term()

    def poll(self) -> None:
        self.client.socket.poll(20)
        self.events += self.client.receive()

    def until_attached(self) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not self.client.is_attached:
            assert time.monotonic() < end_s, "not attached"
            self.poll()

    def next(self, kind: type[EventT]) -> EventT:
        """The next event of this kind; those of others before it stay."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind):
                    del self.events[index]
                    return event
            assert time.monotonic() < end_s, f"no {kind.__name__}, but {self.events}"
            self.poll()

    def offer(self, blocks: Sequence[ChainBlock], recompute_s: float = 0.5) -> list[Place]:
        self.client.offer([block.offered(recompute_s) for block in blocks])
        return self.next(Granted).places

    def granted(self) -> list[Place]:
        """Places that have been granted by now and not been looked at."""
        grants = [event for event in self.events if isinstance(event, Granted)]
        self.events = [event for event in self.events if event not in grants]
        return [place for grant in grants for place in grant.places]

    def write(self, places: Sequence[Place], blocks: Sequence[ChainBlock]) -> None:
        content = {block.name: block.content for block in blocks}
        for place in places:
            self.client.memory(place)[:] = content[place.name]

    def put(self, blocks: Sequence[ChainBlock]) -> list[Place]:
        """All of them, which there must be room for."""
        places = self.offer(blocks)
        assert [place.name for place in places] == [block.name for block in blocks]
        self.write(places, blocks)
        self.client.commit([place.name for place in places])
        return places

    def find(self, blocks: Sequence[ChainBlock]) -> list[Tier]:
        self._requests += 1
        self.client.find(f"find {self._requests}", [block.name for block in blocks])
        return self.next(Found).tiers

    def find_all(self, blocks: Sequence[ChainBlock], wanted: list[Tier]) -> None:
        """Ask again until all are where they should be."""
        end_s = time.monotonic() + PATIENCE_S
        while (tiers := self.find(blocks)) != wanted:
            assert time.monotonic() < end_s, f"{tiers}, not {wanted}"
            time.sleep(0.02)

    def get(self, blocks: Sequence[ChainBlock], is_done: bool = True) -> dict[BlockName, bytes | str]:
        """Verified copies by name, or why there is none; raises Lost."""
        self._requests += 1
        request = f"get {self._requests}"
        self.client.get(request, [block.name for block in blocks])
        got: dict[BlockName, bytes | str] = {}
        end_s = time.monotonic() + PATIENCE_S
        while len(got) < len(blocks):
            assert time.monotonic() < end_s, f"{len(got)} of {len(blocks)} blocks, and no word of the others"
            self.poll()
            if any(isinstance(event, StoreLost) for event in self.events):
                raise Lost
            mine = [each for each in self.events if isinstance(each, Ready | Missing) and each.request == request]
            self.events = [event for event in self.events if event not in mine]
            for event in mine:
                got |= self._taken(event)
        if is_done:
            self.client.done(request)
        return got

    def done_with_all(self) -> None:
        """Nothing that was got is pinned any more."""
        for number in range(1, self._requests + 1):
            self.client.done(f"get {number}")

    def _taken(self, event: Ready | Missing) -> dict[BlockName, bytes | str]:
        if isinstance(event, Missing):
            return dict.fromkeys(event.names, event.reason)
        return {place.name: self._copy(place) for place in event.places}

    def _copy(self, place: Place) -> bytes | str:
        copy = bytes(self.client.memory(place))
        try:
            verify(copy, place.name, spec_of(8192).fingerprint)
        except BadBlock as bad:
            return bad.fault
        return copy


def contents(blocks: Sequence[ChainBlock]) -> dict[BlockName, bytes | str]:
    """What `get` should give."""
    return {block.name: block.content for block in blocks}
