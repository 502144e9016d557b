"""Two step loops over real sockets: a gateway, here the test, has one prefill what the other continues."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from tests.worker.kv.conftest import card
from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.contract.kv import Tier
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import (
    PROTOCOL,
    Cancel,
    Hello,
    Message,
    Role,
    SequenceOutput,
    StepOutput,
    Submit,
    decode_to_gateway,
    encode,
)
from tokenworks.engine.engine import Engine
from tokenworks.worker.heartbeat import HeartbeatThread
from tokenworks.worker.link import GatewayLink
from tokenworks.worker.loop import StepLoop
from tokenworks.worker.machine import Machine
from tokenworks.worker.meter import Meter
from tokenworks.worker.process import open_exchange, role_of

if TYPE_CHECKING:
    from tests.worker.kv.conftest import StoreProcess

PROMPT = [random.Random(9).randrange(512) for _ in range(67)]
SOON_S = 30.0  # never reached but by a test that fails


class Worker(threading.Thread):
    """A step loop with its links, as the worker's process has them."""

    def __init__(self, name: str, engine: Engine, gateway: str, store: str) -> None:
        super().__init__(name=name, daemon=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._hello = Hello(PROTOCOL, name, 1, "model", engine.limits.max_context_tokens, engine.spec, card(1e6))
        self._link = GatewayLink(self._context, gateway)
        self.exchange = open_exchange(self._context, engine, self._hello, store)
        heartbeat = HeartbeatThread(name, [gateway], lambda: self.exchange.load)
        self.meter = Meter(engine, self._hello.card, Machine(1))
        self.loop = StepLoop(engine, self._hello, [self._link], heartbeat, self.meter, self.exchange)

    def run(self) -> None:
        self.loop.run()
        self.exchange.close()
        self._link.close()
        self._context.term()


class Gateway:
    """The other end of the workers' links."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)
        self.identities: dict[str, bytes] = {}
        self.outputs: list[SequenceOutput] = []

    def take_until(self, is_done: Callable[[], bool]) -> None:
        until_s = time.monotonic() + SOON_S
        while not is_done():
            assert time.monotonic() < until_s, "it does not happen"
            if self._socket.poll(50):
                identity, frame = self._socket.recv_multipart()
                message = decode_to_gateway(frame)
                if isinstance(message, Hello):
                    self.identities[message.worker_id] = identity
                elif isinstance(message, StepOutput):
                    self.outputs += message.outputs

    def send(self, worker: str, message: Message) -> None:
        self._socket.send_multipart([self.identities[worker], encode(message)])

    def has_ended(self, request_id: str) -> bool:
        return any(output.request_id == request_id and output.end for output in self.outputs)

    def of(self, request_id: str) -> list[SequenceOutput]:
        return [output for output in self.outputs if output.request_id == request_id]

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(f"ipc://{tmp_path}/workers")
    yield made
    made.close()


@pytest.fixture
def start(gateway: Gateway, store: StoreProcess, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def make(name: str, engine: Engine) -> Worker:
        worker = Worker(name, engine, f"ipc://{tmp_path}/workers", store.address)
        workers.append(worker)
        worker.start()
        gateway.take_until(lambda: name in gateway.identities and worker.exchange.load.kv.is_attached)
        return worker

    yield make
    for worker in workers:
        worker.loop.drain()
    for worker in workers:
        worker.join(SOON_S)
        assert not worker.is_alive(), "a worker does not leave"


def test_a_prefill_for_somebody_else(start: Callable[..., Worker], gateway: Gateway, references: Any) -> None:
    reference = references("qwen3-tied")
    first, second = start("first", reference.engine()), start("second", reference.engine())
    prefill = Request("request.prefill", "model", PROMPT[:64], Sampling(max_tokens=1, temperature=0))
    gateway.send("first", Submit(prefill, publishes=True))
    gateway.take_until(lambda: gateway.has_ended("request.prefill"))
    gateway.send("second", Submit(Request("request", "model", PROMPT, Sampling(max_tokens=9, temperature=0))))
    gateway.take_until(lambda: gateway.has_ended("request"))
    outputs = gateway.of("request")
    assert [token for output in outputs for token in output.token_ids] == reference.greedy(PROMPT, 9)
    assert (outputs[0].cached_tokens, outputs[0].fetched_tokens) == (64, {Tier.HOST: 64})
    gateway.take_until(lambda: second.exchange.load.kv.fetched != {})
    assert first.exchange.load.kv.published_blocks == 8
    assert second.exchange.load.kv.fetched[Tier.HOST].blocks == 8


def test_a_cancelled_prefill_is_not_told(start: Callable[..., Worker], gateway: Gateway, references: Any) -> None:
    worker = start("first", references("qwen3-tied").engine())
    long = Request("long", "model", PROMPT[:64], Sampling(max_tokens=400, temperature=0))
    gateway.send("first", Submit(long, publishes=True))
    gateway.send("first", Cancel("long"))
    gateway.send("first", Submit(Request("short", "model", PROMPT[:5], Sampling(max_tokens=2, temperature=0))))
    gateway.take_until(lambda: gateway.has_ended("short"))
    assert not gateway.has_ended("long")
    assert not worker.exchange.is_holding


def test_the_role_is_that_of_the_workers_own_group() -> None:
    assert role_of(Settings()) is Role.BOTH
    assert role_of(Settings(workers=(WorkerGroup(role="decode"),))) is Role.DECODE
