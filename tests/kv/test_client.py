"""The worker's end, against a store that the test plays by hand on a real socket, and a clock that it moves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing

import pytest
import zmq

from tests.kv.chain import chain, spec_of
from tokenworks.contract.kv import Tier
from tokenworks.kv.arena import create_arena
from tokenworks.kv.client import DIAL_EVERY_S, REFUSED_FOR_S, SILENCE_S, KVClient, StoreEvent, StoreGone, StoreLost
from tokenworks.kv.protocol import (
    STORE_PROTOCOL,
    Alive,
    Attach,
    Attached,
    Detach,
    Find,
    Found,
    Place,
    Refused,
    Speeds,
    StoreMessage,
    StoreWireError,
    TierSpeed,
    ToStore,
    Unknown,
    decode_to_store,
    encode,
)

ARENA_BYTES = 1 << 16
PATIENCE_MS = 60_000  # a bound for a machine that is busy with other things, not an expectation
QUIET_MS = 50  # long enough for what was sent before to arrive; what comes later is seen by the next test of it
SPEEDS = {Tier.HOST: TierSpeed(0.001, 1e9)}


class Stage:
    """A client, and the store's side of its socket."""

    def __init__(self, address: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.now_s = 100.0
        self.arena = create_arena(ARENA_BYTES, ARENA_BYTES)
        self.socket = context.socket(zmq.ROUTER)
        self.socket.bind(address)
        self.identity = b""
        self.client = KVClient(context, address, "w0", spec_of(8192), clock=lambda: self.now_s)

    def heard(self) -> ToStore:
        """The next message of the client, which is made to send what it has to."""
        for _ in range(PATIENCE_MS // QUIET_MS):
            assert self.client.receive() == []
            if self.socket.poll(QUIET_MS):
                self.identity, frame = self.socket.recv_multipart()
                return decode_to_store(frame)
            if not self.client.is_attached:
                self.now_s += DIAL_EVERY_S  # it may not have been connected yet when it tried
        raise AssertionError("the client says nothing")

    def silent(self) -> bool:
        self.client.receive()
        return not self.socket.poll(QUIET_MS)

    def say(self, *messages: StoreMessage) -> list[StoreEvent]:
        """Send, and what the client makes of it."""
        for message in messages:
            self.socket.send_multipart([self.identity, encode(message)])
        assert self.client.socket.poll(PATIENCE_MS)
        events: list[StoreEvent] = []
        while self.client.socket.poll(QUIET_MS):
            events += self.client.receive()
        return events

    def attach(self, store_id: str = "s1") -> list[StoreEvent]:
        return self.say(Attached(store_id, self.arena.path, ARENA_BYTES, SPEEDS))


@pytest.fixture
def stage() -> Iterator[Stage]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with tempfile.TemporaryDirectory(prefix="kv") as folder:
        stage = Stage(f"ipc://{folder}/store", context)
        yield stage
        stage.client.close()
        stage.socket.close(linger=0)
    context.term()


def test_a_client_asks_every_second_until_there_is_a_store(stage: Stage) -> None:
    wanted = Attach(STORE_PROTOCOL, "w0", spec_of(8192))
    assert stage.heard() == wanted
    assert stage.silent()
    stage.now_s += 1.0
    assert stage.heard() == wanted
    assert not stage.client.is_attached
    assert stage.client.speeds == {}
    assert stage.attach() == []
    assert stage.client.is_attached
    assert stage.client.speeds == SPEEDS


def test_what_is_sent_without_a_store_is_dropped(stage: Stage) -> None:
    stage.heard()
    stage.client.find("r", [])
    stage.client.touch([])
    assert stage.silent()


def test_it_attaches_as_soon_as_there_is_a_line() -> None:
    now_s = 100.0
    with zmq.Context() as context, tempfile.TemporaryDirectory(prefix="kv") as folder:
        address = f"ipc://{folder}/store"
        with (
            closing(KVClient(context, address, "w0", spec_of(8192), clock=lambda: now_s)) as client,
            context.socket(zmq.ROUTER) as store,
        ):
            assert client.receive() == []  # nobody listens yet
            store.bind(address)
            assert client.socket.poll(PATIENCE_MS, zmq.POLLOUT)
            now_s += DIAL_EVERY_S
            assert client.receive() == []
            assert store.poll(PATIENCE_MS)
            assert isinstance(decode_to_store(store.recv_multipart()[1]), Attach)


def test_an_attached_client_says_every_second_that_it_is_there(stage: Stage) -> None:
    stage.heard()
    stage.attach()
    assert stage.silent()
    stage.now_s += 1.0
    assert isinstance(stage.heard(), Alive)
    assert stage.silent()
    stage.now_s += 1.0
    assert isinstance(stage.heard(), Alive)
    stage.client.close()
    assert isinstance(decode_to_store(stage.socket.recv_multipart()[1]), Detach)


def test_a_store_that_falls_silent_is_lost_and_one_that_speaks_is_not(stage: Stage) -> None:
    stage.heard()
    stage.attach()
    for _ in range(5):
        stage.now_s += SILENCE_S - 1
        assert stage.say(Speeds({})) == []
    stage.now_s += SILENCE_S + 1
    (lost,) = stage.client.receive()
    assert isinstance(lost, StoreLost)
    assert "silent" in lost.reason
    assert not stage.client.is_attached
    assert stage.client.receive() == []


def test_what_waited_in_the_queue_during_a_long_step_counts_as_heard(stage: Stage) -> None:
    stage.heard()
    stage.attach()
    stage.now_s += 3 * SILENCE_S
    assert stage.say(Found("r", [])) == [Found("r", [])]
    assert stage.client.is_attached


def test_who_is_not_known_any_more_loses_what_was_outstanding_and_attaches_again(stage: Stage) -> None:
    stage.heard()
    stage.attach()
    (lost,) = stage.say(Unknown())
    assert isinstance(lost, StoreLost)
    while not isinstance(stage.heard(), Attach):
        pass
    assert stage.attach() == []
    assert stage.client.is_attached


def test_another_store_at_the_same_address_means_that_the_first_is_lost(stage: Stage) -> None:
    stage.heard()
    stage.attach("s1")
    assert stage.attach("s1") == []  # asked twice, answered twice
    (lost,) = stage.attach("s2")
    assert isinstance(lost, StoreLost)
    assert stage.client.is_attached


def test_a_refused_client_waits_before_it_asks_again(stage: Stage) -> None:
    stage.heard()
    assert stage.say(Refused("another release")) == []
    assert not stage.client.is_attached
    stage.now_s += REFUSED_FOR_S - 1
    assert stage.silent()
    stage.now_s += 2
    assert isinstance(stage.heard(), Attach)


def test_memory_that_cannot_be_opened_is_like_a_refusal(stage: Stage) -> None:
    stage.heard()
    assert stage.say(Attached("s1", "/proc/1/fd/none", ARENA_BYTES, SPEEDS)) == []
    assert not stage.client.is_attached
    assert stage.client.speeds == {}


def test_answers_to_what_was_given_up_are_ignored(stage: Stage) -> None:
    stage.heard()
    assert stage.say(Found("old", [Tier.HOST]), Speeds(SPEEDS)) == []
    assert stage.client.speeds == {}


def test_garbage_from_the_store_is_ignored(stage: Stage) -> None:
    stage.heard()
    stage.attach()
    for frame in (b"", b"\xff\xff", encode(Find("r", []))):
        stage.socket.send_multipart([stage.identity, frame])
    assert stage.say(Found("r", [])) == [Found("r", [])]


def test_places_are_memory_that_both_see(stage: Stage) -> None:
    (block,) = chain(1)
    place = Place(block.name, 4096, len(block.content))
    with pytest.raises(StoreGone):
        stage.client.memory(place)
    stage.heard()
    stage.attach()
    stage.client.memory(place)[:] = block.content
    assert stage.arena.view(place.offset, place.num_bytes) == block.content
    with pytest.raises(StoreWireError):
        stage.client.memory(Place(block.name, ARENA_BYTES, 1))


def test_a_store_that_is_gone_is_noticed_when_something_is_sent(stage: Stage) -> None:
    stage.heard()
    stage.attach()
    stage.socket.close(linger=0)
    while stage.client.is_attached:
        stage.client.touch([])
    (lost,) = stage.client.receive()
    assert lost == StoreLost("the KV store is gone")
