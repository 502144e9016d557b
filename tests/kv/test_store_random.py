"""The store under random clients, tiers and failures: its promises are checked after every step."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.kv.chain import ChainBlock, chain
from tests.kv.lru import LeastRecentlyUsed
from tests.kv.rig import LEASE_S, PLACE_BYTES, Rig
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.extents import aligned
from tokenworks.kv.format import BlockFault
from tokenworks.kv.grants import GRANT_S
from tokenworks.kv.host import State
from tokenworks.kv.protocol import (
    Abort,
    Alive,
    Commit,
    Detach,
    Done,
    Find,
    Found,
    Get,
    Granted,
    Missing,
    Offer,
    Ready,
    Touch,
)
from tokenworks.kv.tasks import Lookup, Move, Probe, Read, Scan, Task
from tokenworks.policy.tiering import TierPolicy

CLIENTS = (b"a", b"b", b"c")
STEPS = 600


class Play:
    """Three clients that do anything at any time, and threads that end their tasks in any order, well or badly."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        tiers = self.dice.choice([(), (Tier.DISK,), (Tier.REMOTE,), (Tier.DISK, Tier.REMOTE)])
        places, disk_blocks = self.dice.choice([2, 5, 12]), self.dice.choice([1, 4, 20])
        make_policy = self.dice.choice([LeastRecentlyUsed, TierPolicy])
        self.rig = Rig(places, *tiers, disk_blocks=disk_blocks, make_policy=make_policy)
        self.blocks = [block for number in range(4) for block in chain(6, seed=number)]
        self.blocks += chain(4, payload_bytes=4096, seed=7) + chain(3, payload_bytes=20480, seed=8)
        self.granted: dict[bytes, dict[BlockName, float]] = {client: {} for client in CLIENTS}  # and since when
        self.asked: dict[tuple[bytes, str], Counter[BlockName]] = {}
        self.num_requests = 0
        for client in CLIENTS:
            self.rig.attach(client)

    def step(self) -> None:
        client = self.dice.choice(CLIENTS)
        action = self.dice.choice(
            [self.offer, self.settle, self.get, self.get, self.done, self.find, self.touch, self.end_a_task]
        )
        if self.dice.random() < 0.03:
            action = self.dice.choice([self.come_anew, self.fall_silent, self.leave])
        action(client)
        self.hear()
        self.check()

    def some(self) -> list[ChainBlock]:
        return self.dice.sample(self.blocks, self.dice.randint(1, 6))

    def offer(self, client: bytes) -> None:
        self.rig.tell(client, Offer([block.offered(self.dice.random()) for block in self.some()]))

    def settle(self, client: bytes) -> None:
        names = self.granted[client]
        chosen = [name for name in names if self.dice.random() < 0.7]
        self.granted[client] = {name: since_s for name, since_s in names.items() if name not in chosen}
        self.rig.tell(client, Commit(chosen) if self.dice.random() < 0.8 else Abort(chosen))

    def get(self, client: bytes) -> None:
        self.num_requests += 1
        names = [block.name for block in self.some()]
        self.asked[client, str(self.num_requests)] = Counter(names)
        self.rig.tell(client, Get(str(self.num_requests), names))

    def find(self, client: bytes) -> None:
        self.rig.tell(client, Find("f", [block.name for block in self.some()]))
        self.rig.wait(0.06)
        assert len(self.rig.take(client, Found)) == 1

    def touch(self, client: bytes) -> None:
        self.rig.tell(client, Touch([block.name for block in self.some()]))

    def done(self, client: bytes) -> None:
        mine = [key for key in self.asked if key[0] == client]
        if mine:
            key = self.dice.choice(mine)
            del self.asked[key]
            self.rig.tell(client, Done(key[1]))

    def end_a_task(self, client: bytes) -> None:
        if not self.rig.pending:
            self.rig.wait(self.dice.choice([0.1, 1.0, 20.0]))
            for each in CLIENTS:
                self.rig.tell(each, Alive())
            return
        task = self.dice.choice(self.rig.pending)
        if isinstance(task, Probe) and self.dice.random() < 0.8:
            self.rig.measure(task.tier)
        elif self.dice.random() < 0.1:
            self.rig.end(task, error="gone")
        elif self.dice.random() < 0.1 and not isinstance(task, Scan | Lookup):
            self.rig.end(task, fault=BlockFault.CHECKSUM)
        else:
            self.end_well(task)

    def end_well(self, task: Task) -> None:
        known: dict[str, object] = {}
        if isinstance(task, Read):
            known = {"parent": next(block.parent for block in self.blocks if block.name == task.name)}
        if isinstance(task, Lookup):
            known = {
                "found": tuple(
                    (block.name, len(block.content))
                    for block in self.blocks
                    if block.name in task.names and self.dice.random() < 0.5
                )
            }
        self.rig.end(task, num_bytes=task.num_bytes if isinstance(task, Read | Move) else 0, **known)

    def come_anew(self, client: bytes) -> None:
        self.rig.attach(client)
        self.forget(client)

    def leave(self, client: bytes) -> None:
        self.rig.tell(client, Detach())
        self.come_anew(client)

    def fall_silent(self, client: bytes) -> None:
        for _ in range(3):
            self.rig.wait(LEASE_S / 2)
            for other in CLIENTS:
                if other != client:
                    self.rig.tell(other, Alive())
        self.come_anew(client)

    def forget(self, client: bytes) -> None:
        self.granted[client] = {}
        self.asked = {key: left for key, left in self.asked.items() if key[0] != client}
        for kind in (Ready, Missing, Granted):
            self.rig.take(client, kind)

    def hear(self) -> None:
        for client in CLIENTS:
            for granted in self.rig.take(client, Granted):
                self.granted[client] |= {place.name: self.rig.now_s for place in granted.places}
            for ready in self.rig.take(client, Ready):
                self.answered(client, ready.request, [place.name for place in ready.places])
            for missing in self.rig.take(client, Missing):
                self.answered(client, missing.request, missing.names)

    def answered(self, client: bytes, request: str, names: list[BlockName]) -> None:
        left = self.asked[client, request]
        left.subtract(names)
        assert min(left.values()) >= 0, "answered twice"

    def check(self) -> None:
        host = self.rig.stock.host
        blocks = list(host._blocks.values())
        places = sorted((block.offset, block.offset + host._extents.size(block.offset)) for block in blocks)
        assert all(one[1] <= other[0] for one, other in zip(places, places[1:], strict=False)), "places overlap"
        assert all(block.pins >= 0 for block in blocks)
        self.check_grants({block.name for block in blocks if block.state is State.WRITING})
        for lower in self.rig.stock.lowers.values():
            status = lower.status()
            limit = lower.limit_bytes
            assert status.used_bytes <= limit or not lower.writes.is_busy, "more than the tier may hold"
            held_bytes = sum(entry.num_bytes for entry in [*lower._held.values(), *lower.writes._under_way.values()])
            assert status.used_bytes == held_bytes, "what is counted is what is there"
            assert len(self.rig.tasks(Read)) <= 4

    def check_grants(self, written_to: set[BlockName]) -> None:
        """Places are a client's until it is done with them, or they have run out."""
        assert written_to <= {name for names in self.granted.values() for name in names}
        free_bytes = self.rig.store._room.arena_bytes
        for session in self.rig.store._sessions.values():
            granted_bytes = sum(aligned(block.num_bytes) for block, _ in session.grants._held.values())
            assert session.grants._held_bytes == granted_bytes
            free_bytes -= granted_bytes
        assert self.rig.store._room.free_bytes == free_bytes
        for names in self.granted.values():
            for name in names.keys() - written_to:
                assert self.rig.now_s - names.pop(name) >= GRANT_S

    def finish(self) -> None:
        """Let everything that is under way end: every name has been answered, and nothing is pinned any more."""
        while any(not isinstance(task, Probe) for task in self.rig.pending):
            self.end_well(next(task for task in self.rig.pending if not isinstance(task, Probe)))
            self.hear()
        assert [key for key, left in self.asked.items() if any(left.values())] == []
        for client, request in list(self.asked):
            self.rig.tell(client, Done(request))
        for client in CLIENTS:
            self.rig.tell(client, Detach())
        while any(not isinstance(task, Probe) for task in self.rig.pending):
            self.end_well(next(task for task in self.rig.pending if not isinstance(task, Probe)))
        self.check_nothing_left()
        host = self.rig.stock.host
        assert all(block.pins == 0 and block.state is State.HELD for block in host._blocks.values())
        assert host._extents.used_bytes == sum(host._extents.size(block.offset) for block in host._blocks.values())
        assert host._extents.used_bytes <= host.limit_bytes
        assert host.limit_bytes % PLACE_BYTES == 0

    def check_nothing_left(self) -> None:
        """Of clients that have left, and of tasks that are over."""
        store, stock = self.rig.store, self.rig.stock
        assert store._room.free_bytes == store._room.arena_bytes, "grants of nobody"
        assert not store._gets._open
        assert not store._gets._waiters
        assert not store._gets._ready
        assert not store._finds
        assert not stock._coming
        assert not stock._checking
        assert not any(lower.reads.is_busy or lower.reads._waiting for lower in stock.lowers.values())
        assert not stock._write_back._writing


@pytest.mark.parametrize("seed", range(30))
def test_every_promise_holds_whatever_happens(seed: int) -> None:
    play = Play(seed)
    for _ in range(STEPS):
        play.step()
    play.finish()
