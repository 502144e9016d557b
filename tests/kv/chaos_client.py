"""A worker that does anything at any time, until told to leave: `python -m tests.kv.chaos_client ADDRESS ID SEED`.

It writes slowly enough to be killed in the middle, sometimes keeps a place for ever, and sometimes commits what it has
not written. What it reads it compares byte by byte with what the name stands for: a checksum that agrees is not enough.
Its last line is what it saw, as JSON. Exit status 9: bytes that are another's; 8: something asked was never answered.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import zmq

from tests.kv.chain import FINGERPRINT, ChainBlock, chain, spec_of
from tests.kv.peer import PATIENCE_S
from tokenworks.contract.kv import BlockName
from tokenworks.kv.client import KVClient, StoreEvent, StoreGone, StoreLost
from tokenworks.kv.format import BadBlock, verify
from tokenworks.kv.protocol import Found, Granted, Missing, Place, Ready

CHAINS: Final = 14
LENGTH: Final = 8  # blocks of a chain
PAYLOAD_BYTES: Final = 8192


def world() -> list[list[ChainBlock]]:
    """All blocks that there are."""
    return [chain(LENGTH, PAYLOAD_BYTES, seed) for seed in range(CHAINS)]


class ChaosClient:
    """One of several."""

    def __init__(self, address: str, client_id: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self._chains = world()
        self._content = {block.name: block.content for blocks in self._chains for block in blocks}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._client = KVClient(self._context, address, client_id, spec_of(PAYLOAD_BYTES))
        self._written: list[BlockName] = []  # to be committed
        self._open: dict[str, tuple[set[BlockName], float]] = {}  # asked and not answered: what, and since when
        self._answered: list[str] = []  # and not done with
        self._requests = 0

    def turn(self) -> None:
        """Take in what has come, and do one thing."""
        self._client.socket.poll(self.dice.choice([1, 2, 5]))
        for event in self._client.receive():
            self._handle(event)
        if self._client.is_attached:
            self.dice.choice([self._offer, self._get, self._get, self._find, self._done, self._commit, self._touch])()
        if any(time.monotonic() - since_s > PATIENCE_S for _, since_s in self._open.values()):
            self._die(8, f"never answered: {self._open}")

    def leave(self) -> None:
        """With all that is still granted and pinned."""
        self._client.close()
        self._context.term()

    def _some(self) -> list[ChainBlock]:
        return self.dice.choice(self._chains)[: self.dice.randint(1, LENGTH)]

    def _ask(self, what: str, names: Sequence[BlockName]) -> str:
        self._requests += 1
        request = f"{what} {self._requests}"
        self._open[request] = set(names), time.monotonic()
        return request

    def _offer(self) -> None:
        self._client.offer([block.offered(self.dice.choice([0.01, 1.0])) for block in self._some()])

    def _get(self) -> None:
        names = [block.name for block in self._some()]
        self._client.get(self._ask("get", names), names)

    def _find(self) -> None:
        names = [block.name for block in self._some()]
        self._client.find(self._ask("find", names), names, recompute_s=self.dice.choice([0.05, 10.0]))

    def _done(self) -> None:
        """Mostly what has been answered, sometimes what has not."""
        gets = [request for request in self._open if request.startswith("get")] if self.dice.random() < 0.2 else []
        for request in [*self._answered, *gets][: self.dice.randint(1, 9)]:
            self._client.done(request)
            self._answered = [each for each in self._answered if each != request]
            self._open.pop(request, None)

    def _commit(self) -> None:
        written, self._written = self._written, []
        (self._client.commit if self.dice.random() < 0.9 else self._client.abort)(written)

    def _touch(self) -> None:
        self._client.touch([block.name for block in self._some()])

    def _handle(self, event: StoreEvent) -> None:
        match event:
            case Granted():
                self._guarded(self._write, event.places)
            case Ready():
                self._guarded(self._read, event.places)
                self._answer(event.request, [place.name for place in event.places])
            case Missing():
                self.seen.update({f"missing: {event.reason}": len(event.names)})
                self._answer(event.request, event.names)
            case Found():
                self.seen["finds"] += 1
                self._open.pop(event.request, None)
            case StoreLost():
                self._lost()

    def _guarded(self, do: object, places: Sequence[Place]) -> None:
        try:
            for place in places:
                do(place)  # type: ignore[operator]
        except StoreGone:
            self.seen["gone while reading or writing"] += 1

    def _write(self, place: Place) -> None:
        """In two halves; now and then only one of them, or none and never a word about it."""
        whim = self.dice.random()
        if whim < 0.03:
            return
        memory, content, half = self._client.memory(place), self._content[place.name], place.num_bytes // 2
        memory[:half] = content[:half]
        time.sleep(self.dice.choice([0.0, 0.0, 0.002]))
        if whim > 0.06:
            memory[half:] = content[half:]
        self._written.append(place.name)

    def _read(self, place: Place) -> None:
        copy = bytes(self._client.memory(place))
        try:
            verify(copy, place.name, FINGERPRINT)
        except BadBlock as bad:
            self.seen[f"read: {bad.fault}"] += 1
            return
        if copy != self._content[place.name]:
            self._die(9, f"block {place.name.hex()} at {place.offset} is sound, and another's")
        self.seen[f"right from {place.tier}"] += 1

    def _answer(self, request: str, names: Sequence[BlockName]) -> None:
        if request not in self._open:
            return
        self._open[request][0].difference_update(names)
        if not self._open[request][0]:
            del self._open[request]
            self._answered.append(request)
            self.seen["gets"] += 1

    def _lost(self) -> None:
        """Of what was outstanding nothing will come."""
        self.seen["stores lost"] += 1
        self._open.clear()
        self._answered.clear()
        self._written.clear()

    def _die(self, status: int, why: str) -> None:
        print(why, flush=True)
        sys.exit(status)


def main(address: str, client_id: str, seed: str) -> None:
    """Until SIGTERM."""
    leaving: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: leaving.append(number))
    client = ChaosClient(address, client_id, int(seed))
    print("here", flush=True)
    while not leaving:
        client.turn()
    client.leave()
    print(json.dumps(client.seen), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
