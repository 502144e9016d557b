"""Two step loops over real sockets: a gateway, here the test, has one prefill what the other continues."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from tests.worker.gateway_end import SOON_S, Gateway
from tests.worker.kv.conftest import card
from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.contract.kv import KVSpec, Tier
from tokenworks.contract.record import Stage
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import (
    PROTOCOL,
    Cancel,
    EndReason,
    Hello,
    Role,
    Submit,
)
from tokenworks.engine.engine import Engine
from tokenworks.kv.format import block_bytes
from tokenworks.worker.heartbeat import HeartbeatThread
from tokenworks.worker.link import GatewayLink
from tokenworks.worker.loop import StepLoop
from tokenworks.worker.machine import Machine
from tokenworks.worker.meter import Meter
from tokenworks.worker.process import library_of, open_exchange, role_of

if TYPE_CHECKING:
    from tests.worker.kv.conftest import StoreProcess

PROMPT = [random.Random(9).randrange(512) for _ in range(67)]


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
    check_reports(gateway, reference.engine().spec)
    assert second.exchange.load.kv.fetched[Tier.HOST].blocks == 8


def check_reports(gateway: Gateway, spec: KVSpec) -> None:
    """The first half was published by who computed it; the second was held back for it, and got it from the store."""
    first, second = gateway.report("request.prefill"), gateway.report("request")
    assert (first.published_bytes, first.fetched_bytes) == (8 * block_bytes(spec), {})
    assert second.fetched_bytes == {Tier.HOST: 8 * block_bytes(spec)}
    assert second.published_bytes in (0, block_bytes(spec))  # the one that it filled, if the store had room in time
    assert first.stages_ns[Stage.PUBLISH] > 0
    assert second.stages_ns[Stage.FETCH_HOST] > 0
    assert (first.computed_tokens, second.computed_tokens) == (64, 3 + 8)
    assert second.kv_byte_s > 0


def test_a_cancelled_prefill_is_told_as_cancelled_and_is_not_held(
    start: Callable[..., Worker], gateway: Gateway, references: Any
) -> None:
    worker = start("first", references("qwen3-tied").engine())
    long = Request("long", "model", PROMPT[:64], Sampling(max_tokens=400, temperature=0))
    gateway.send("first", Submit(long, publishes=True))
    gateway.send("first", Cancel("long"))
    gateway.send("first", Submit(Request("short", "model", PROMPT[:5], Sampling(max_tokens=2, temperature=0))))
    gateway.take_until(lambda: gateway.has_ended("short"))
    end = gateway.of("long")[-1].end
    assert end is not None
    assert end.reason is EndReason.CANCELLED
    assert not worker.exchange.is_holding


def test_the_role_is_that_of_the_workers_own_group() -> None:
    assert role_of(Settings()) is Role.BOTH
    assert role_of(Settings(workers=(WorkerGroup(role="decode"),))) is Role.DECODE


def test_tables_can_tell_openvino_from_our_own_engine_on_the_same_machine() -> None:
    assert library_of(Settings()) == ""
    assert library_of(Settings(workers=(WorkerGroup(runs="openvino"),))) == "OpenVINO CPU"
