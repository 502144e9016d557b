"""A tier that hangs holds up its own blocks and nobody else's. It hangs until it is let go: no timing here."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pytest
import zmq

from tests.kv.chain import chain
from tests.kv.peer import Peer, contents
from tokenworks.contract.config import KVSettings
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv import process
from tokenworks.kv.arena import create_arena
from tokenworks.kv.build import BuiltStore, assemble
from tokenworks.kv.process import StoreLoop, Wake, close_tiers, listen
from tokenworks.kv.protocol import Ready
from tokenworks.kv.tiers.tier import BlockTier

HOST_BYTES = 1 << 20


class HangingTier(BlockTier):
    """Holds blocks in a dictionary; `gate` stops every call while it is not set."""

    def __init__(self, blocks: dict[BlockName, bytes]) -> None:
        self.blocks = blocks
        self.gate = threading.Event()
        self.gate.set()

    def put(self, name: BlockName, block: memoryview) -> None:
        self.gate.wait()
        self.blocks[name] = bytes(block)

    def get(self, name: BlockName, into: memoryview) -> int:
        self.gate.wait()
        block = self.blocks.get(name, b"")
        into[: len(block)] = block
        return len(block)

    def delete(self, names: Iterable[BlockName]) -> None:
        for name in names:
            self.blocks.pop(name, None)

    def names(self) -> Iterable[tuple[BlockName, int]]:
        return [(name, len(block)) for name, block in self.blocks.items()]

    def held(self, names: Sequence[BlockName]) -> dict[BlockName, int]:
        return {name: len(self.blocks[name]) for name in names if name in self.blocks}

    def close(self) -> None:
        self.gate.wait()


@pytest.fixture
def tier() -> HangingTier:
    return HangingTier({block.name: block.content for block in chain(3, seed=1)})


class Running(NamedTuple):
    """A store in a thread."""

    loop: StoreLoop
    address: str
    built: BuiltStore
    thread: threading.Thread


@pytest.fixture
def running(tier: HangingTier) -> Iterator[Running]:
    """A store with `tier` for a disk."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wake = Wake()
    with tempfile.TemporaryDirectory(prefix="kv") as folder:
        socket = listen(context, f"ipc://{folder}/store")
        built = assemble(
            create_arena(HOST_BYTES, HOST_BYTES), {Tier.DISK: tier}, KVSettings(disk_bytes=1 << 20), "kv0", wake
        )
        loop = StoreLoop(built, socket, [], wake, "kv0")
        thread = threading.Thread(target=loop.run)
        thread.start()
        yield Running(loop, f"ipc://{folder}/store", built, thread)
        tier.gate.set()
        loop.drain()
        thread.join()
        socket.close(linger=0)
    context.term()


@pytest.fixture
def address(running: Running) -> str:
    return running.address


def test_host_hits_pass_a_tier_that_hangs(address: str, tier: HangingTier) -> None:
    near, far = chain(3), chain(3, seed=1)
    with Peer(address, "w0") as peer, Peer(address, "w1") as other:
        peer.put(near)
        peer.find_all(far, [Tier.DISK] * 3)
        tier.gate.clear()
        peer.client.get("far", [block.name for block in far])
        assert peer.get(near) == contents(near)
        assert other.get(near) == contents(near)
        more = chain(3, seed=2)
        other.put(more)
        peer.find_all(more, [Tier.HOST] * 3)  # two clients' messages may pass each other
        assert peer.get(more) == contents(more)
        assert not [event for event in peer.events if isinstance(event, Ready)]
        tier.gate.set()
        assert peer.next(Ready).places[0].tier is Tier.DISK


def test_done_to_a_get_that_hangs_leaves_the_block_for_the_next_one(address: str, tier: HangingTier) -> None:
    far = chain(3, seed=1)
    with Peer(address, "w0") as peer:
        peer.find_all(far, [Tier.DISK] * 3)
        tier.gate.clear()
        peer.client.get("far", [block.name for block in far])
        peer.client.done("far")
        peer.find(far)  # answered in order: the store has heard both
        tier.gate.set()
        assert peer.get(far) == contents(far)
        assert peer.events == []


def test_a_tier_that_hangs_does_not_hold_up_the_end_and_is_told_of(
    running: Running, tier: HangingTier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "FLUSH_S", 0.1)
    monkeypatch.setattr(process, "CLOSE_S", 0.1)
    tier.gate.clear()
    with Peer(running.address, "w0") as peer:
        blocks = chain(3)
        peer.put(blocks)
        assert peer.get(blocks) == contents(blocks)  # so the store has heard that they are there
        running.loop.drain()
        running.thread.join()
    close_tiers(running.built)
    assert "not all blocks were written back in 0.1 s" in caplog.text
    assert "the tiers could not be closed in 0.1 s" in caplog.text
