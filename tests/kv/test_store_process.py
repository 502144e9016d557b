"""A real store process, real clients, real shared memory and files; and what is left when either is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.kv.chain import chain
from tests.kv.peer import PATIENCE_S, Peer, contents
from tests.kv.running_store import FOLDER, HOST_BYTES, RunningStore
from tests.kv.throttle import ThrottledProxy
from tests.kv.tiers.conftest import RedisServer, redis_server
from tokenworks.contract.kv import Tier
from tokenworks.kv.client import StoreGone, StoreLost
from tokenworks.kv.protocol import STORE_PROTOCOL, Find, Granted, Missing, Place, Ready, StoreWireError, encode
from tokenworks.kv.tiers.open import open_remote

__all__ = ["redis_server"]  # a fixture

DIE_HOLDING = """
import sys
from tests.kv.chain import chain
from tests.kv.peer import Peer
with Peer(sys.argv[1], "victim") as peer:
    blocks = chain(8)
    peer.put(blocks[:4])
    peer.get(blocks[:4], is_done=False)
    peer.offer(blocks[4:])
    print("holding", flush=True)
    while True:
        peer.poll()
"""


@pytest.fixture
def store() -> Iterator[RunningStore]:
    with tempfile.TemporaryDirectory(prefix="kv") as folder:  # pytest's own are too long for a socket's name
        store = RunningStore(Path(folder))
        yield store
        store.close()


def test_what_one_process_put_another_gets_and_the_gateway_hears_of_it(store: RunningStore) -> None:
    store.start()
    blocks = chain(20)
    with Peer(store.address, "w0") as writer, Peer(store.address, "w1") as reader:
        writer.put(blocks)
        assert writer.find(blocks) == [Tier.HOST] * 20  # answered behind the commit, which itself has no answer
        assert reader.find([*blocks, *chain(1, seed=1)]) == [Tier.HOST] * 20
        assert reader.get(blocks) == contents(blocks)
        assert reader.get(chain(1, seed=1)) == {chain(1, seed=1)[0].name: "missing"}
        status = store.status()
        while not status.tiers[Tier.HOST].hits:
            status = store.status()
        assert (status.store_id, status.misses) == ("kv0", 2)
        assert status.tiers[Tier.HOST].blocks == 20
        assert reader.client.speeds[Tier.HOST].bytes_per_s > 0


def test_two_who_offer_the_same_block_agree_on_one(store: RunningStore) -> None:
    store.start()
    blocks = chain(5)
    with Peer(store.address, "w0") as one, Peer(store.address, "w1") as other:
        places = one.offer(blocks)
        other.client.offer([block.offered() for block in blocks])
        assert other.find(blocks) == []  # answered in order: nothing was granted before
        assert other.events == []
        one.write(places, blocks)
        one.client.commit([place.name for place in places])
        one.find(blocks)
        assert other.get(blocks) == contents(blocks)


def test_a_store_killed_mid_put_is_lost_and_the_next_one_finds_its_disk(store: RunningStore) -> None:
    store.start()
    safe, torn = chain(10), chain(5, seed=1)
    with Peer(store.address, "w0") as peer:
        peer.put(safe)
        while store.status().tiers[Tier.DISK].blocks < 10:
            pass
        places = peer.offer(torn)
        peer.write(places[:2], torn)
        store.end(signal.SIGKILL)
        peer.next(StoreLost)
        assert not peer.client.is_attached
        assert peer.client.speeds == {}
        with pytest.raises(StoreGone):
            peer.client.memory(places[0])
        peer.client.commit([place.name for place in places])  # dropped, silently
        store.start()
        peer.until_attached()
        peer.find_all(safe, [Tier.DISK] * 10)
        assert peer.find(torn) == []
        assert peer.get(safe) == contents(safe)
        assert peer.find(safe) == [Tier.HOST] * 10
        peer.put(torn)
        assert peer.get(torn) == contents(torn)


def test_what_a_killed_client_held_is_free_after_its_lease(store: RunningStore) -> None:
    store.lease_s = 3.0
    store.host_bytes = 8 * 12288
    store.start()
    command = [sys.executable, "-c", DIE_HOLDING, store.address]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=FOLDER.parent.parent)
    assert victim.stdout is not None
    assert victim.stdout.readline() == b"holding\n"
    with victim.stdout, Peer(store.address, "w1") as peer:
        others = chain(8, seed=1)
        peer.client.offer([block.offered() for block in others])
        assert peer.find(others) == []
        assert peer.events == []  # all memory is the victim's
        victim.kill()
        victim.wait()
        end_s = time.monotonic() + PATIENCE_S
        while not any(isinstance(event, Granted) for event in peer.events):
            assert time.monotonic() < end_s, "its places are still taken"
            peer.until_attached()  # a lease is short here: on a busy machine it may have lost its own
            peer.client.offer([block.offered() for block in others])
            peer.poll()
            time.sleep(0.1)


def test_two_workers_that_never_write_leave_room_for_a_third(store: RunningStore) -> None:
    store.host_bytes = 64 * 12288
    store.start()
    with Peer(store.address, "w0") as one, Peer(store.address, "w1") as other, Peer(store.address, "w2") as third:
        assert len(one.offer(chain(64))) == 32
        assert len(other.offer(chain(64, seed=1))) == 16
        blocks = chain(8, seed=2)
        third.put(blocks)
        assert third.get(blocks) == contents(blocks)
    assert store.until_counted(Tier.HOST, "many_grants") == 32 + 48


def test_a_clean_end_saves_everything(store: RunningStore) -> None:
    store.start()
    blocks = chain(60)
    with Peer(store.address, "w0") as peer:
        for half in (blocks[:30], blocks[30:]):  # a worker has half of the memory to write to at most
            peer.put(half)
        peer.find(blocks)  # answered after the commit
        assert store.end(signal.SIGTERM) == 0
        peer.next(StoreLost)
        store.start()
        peer.until_attached()
        peer.find_all(blocks, [Tier.DISK] * 60)
        assert peer.get(blocks) == contents(blocks)


def test_a_bit_that_flips_in_memory_is_found_by_the_reader_and_healed(store: RunningStore) -> None:
    store.start()
    (block,) = chain(1)
    with Peer(store.address, "w0") as peer:
        (place,) = peer.put([block])
        while not store.status().tiers[Tier.DISK].blocks:
            pass
        peer.client.memory(place)[5000] ^= 1
        assert peer.get([block]) == {block.name: "checksum"}
        peer.client.offer([block.offered()])  # as a worker does that had to compute it
        assert store.until_counted(Tier.HOST, "checksum") == 1
        assert peer.get([block]) == contents([block])  # from disk, where it was whole


@pytest.mark.parametrize("harm", ["flip", "cut", "swap"])
def test_what_is_bad_on_disk_is_found_counted_and_put_again(store: RunningStore, harm: str) -> None:
    store.start()
    blocks = chain(2)
    with Peer(store.address, "w0") as peer:
        peer.put(blocks)
        peer.find(blocks)
        store.end(signal.SIGTERM)
        files = [next(store.disk.rglob(block.name.hex())) for block in blocks]
        if harm == "flip":
            content = bytearray(files[0].read_bytes())
            content[6000] ^= 0x10
            files[0].write_bytes(content)
        elif harm == "cut":
            os.truncate(files[0], 5000)
        else:
            files[0].write_bytes(files[1].read_bytes())
        os.utime(files[0], (0, 0))  # the store measures the disk with the block that was used last: not with this one
        store.start()
        peer.next(StoreLost)
        peer.until_attached()
        peer.find_all(blocks, [Tier.DISK] * 2)
        reason = {"flip": "checksum", "cut": "torn", "swap": "name"}[harm]
        assert peer.get(blocks) == {blocks[0].name: reason, blocks[1].name: blocks[1].content}
        assert store.until_counted(Tier.DISK, reason) == 1
        assert peer.find(blocks) == []
        peer.put(blocks[:1])
        assert peer.get(blocks) == contents(blocks)


def test_garbage_is_counted_and_harms_nobody(store: RunningStore) -> None:
    store.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Peer(store.address, "w0") as peer, context.socket(zmq.DEALER) as stranger:
        stranger.connect(store.address)
        wrong = {"type": "Attach", "protocol": STORE_PROTOCOL, "client_id": "x", "spec": {"fingerprint": 3}}
        nameless = encode(Find("r", [b"short"]))
        nested = b"\x81\xa1x" + b"\x91" * 50_000  # deeper than an interpreter's calls may go
        for frame in (b"", b"\xff" * 100, os.urandom(1000), msgspec.msgpack.encode(wrong), b"\x81", nameless, nested):
            stranger.send(frame)
        stranger.send_multipart([b"two", b"parts"])
        while store.until_counted(Tier.HOST, "bad_frame") < 8:
            pass
        blocks = chain(3)
        peer.put(blocks)
        assert peer.get(blocks) == contents(blocks)
        stranger.close(linger=0)
    context.term()


def test_a_place_that_does_not_exist_is_an_error_and_no_crash(store: RunningStore) -> None:
    store.start()
    with Peer(store.address, "w0") as peer, pytest.raises(StoreWireError, match="does not exist"):
        peer.client.memory(Place(b"x" * 16, HOST_BYTES - 4096, 8192))


def test_blocks_that_were_used_again_go_to_redis_and_serve_another_host(
    store: RunningStore, redis_server: RedisServer
) -> None:
    store.remote = redis_server.url
    store.start()
    blocks = chain(5)
    with tempfile.TemporaryDirectory(prefix="kv") as folder, Peer(store.address, "w0") as peer:
        peer.put(blocks)
        while not store.status().tiers[Tier.REMOTE].read_bytes_per_s:
            pass
        peer.client.touch([block.name for block in blocks])
        while store.status().tiers[Tier.REMOTE].blocks < 5:
            pass
        with closing(RunningStore(Path(folder))) as other_host:
            other_host.remote = redis_server.url
            other_host.start()
            with Peer(other_host.address, "w0") as there:
                there.find_all(blocks, [Tier.REMOTE] * 5)
                assert there.get(blocks) == contents(blocks)
                redis_server.kill()
                assert there.get(blocks) == contents(blocks)  # from its own memory


def test_a_remote_tier_that_dies_mid_get_costs_its_blocks_and_nothing_else(
    store: RunningStore, redis_server: RedisServer
) -> None:
    near, far = chain(3), chain(60, seed=1)  # far more than comes before the server is killed
    tier = open_remote(redis_server.url)
    for block in far:
        tier.put(block.name, memoryview(block.content))
    tier.close()
    with ThrottledProxy(("127.0.0.1", redis_server.port)) as proxy:
        store.remote = f"redis://127.0.0.1:{proxy.port}"
        store.start()
        with Peer(store.address, "w0") as peer:
            peer.put(near)
            peer.find_all(far, [Tier.REMOTE] * 60)
            proxy.bytes_per_s = 50_000.0
            peer.client.get("far", [block.name for block in far])
            first = peer.next(Ready)
            redis_server.kill()
            proxy.cut()
            gone = peer.next(Missing)
            assert gone.reason == "unreachable"
            assert first.places[0].name not in gone.names
            assert peer.get(near) == contents(near)
            assert store.until_counted(Tier.REMOTE, "unreachable") >= 1


def test_an_address_that_cannot_be_listened_at_is_an_error(store: RunningStore) -> None:
    store.address = f"ipc://{store.disk}/no/such/folder/store"
    command = [sys.executable, "-m", "tokenworks", "kvstore", "--id", "kv0", "--gateway", "ipc:///nowhere"]
    done = subprocess.run([*command, "--kv-store-address", store.address], capture_output=True, text=True)
    assert done.returncode == 3
    assert "cannot listen" in done.stderr
