"""A real KV store in a process of its own, and engines that exchange blocks with it as a worker's loop would.

A member is turned by hand, so that a test decides what happens between two steps; and its line to the store can be
meddled with: events held back, changed or made up. Small checkpoints and their oracle come from the engine's tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import tokenworks
from tests.engine.conftest import random_cache, references, tokens_of  # noqa: F401
from tests.worker.kv.asking import PROMPT, publish
from tokenworks.contract.card import Card
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import SequenceOutput
from tokenworks.engine.engine import Engine
from tokenworks.kv.client import KVClient, StoreEvent
from tokenworks.worker.kv_exchange import KVExchange

TURNS_S = 120.0
"""How long a test waits for what must happen: never reached but by a test that fails."""
LOOK_S = 1e-7
"""By which a member's clock moves with every look at it: so thousands of turns fit into the shortest time that it gives
anybody, however long each takes on a busy machine."""


def card(prefill_s_per_token: float) -> Card:
    """A worker that computes prompts at this speed, and of which nothing else is known."""
    return Card("cpu", 1, "float32", "float32", 1, 1, "float32", 1, 1, (), (), 0.0, prefill_s_per_token, 0.0, 0, 0, 0)


class StoreProcess:
    """`tokenworks kvstore`, as the supervisor starts it."""

    def __init__(self, address: str, host_bytes: int, *options: str) -> None:
        gateway = address.replace("store", "gateway")
        self._command = [sys.executable, "-m", "tokenworks", "kvstore", "--id", "kv0", "--gateway", gateway, *options]
        self._command += ["--kv-store-address", address, "--kv-host-bytes", str(host_bytes)]
        self._command += ["--parent", str(os.getpid())]
        self.address = address
        self.start()

    def start(self) -> None:
        """Again, after `kill`."""
        source = str(Path(tokenworks.__file__).parents[1])
        folder = Path(self.address.removeprefix("ipc://")).parent  # without a tokenworks.toml
        self._process = subprocess.Popen(self._command, cwd=folder, env={**os.environ, "PYTHONPATH": source})

    def kill(self) -> None:
        """As a crash would."""
        self._process.kill()
        self._process.wait()


class Meddler:
    """A client whose events pass through `alter`, and whose words are noted."""

    def __init__(self, client: KVClient) -> None:
        self.client = client
        self.alter: Callable[[StoreEvent], list[StoreEvent]] = lambda event: [event]
        self.said: list[tuple[Any, ...]] = []
        self.pending: list[StoreEvent] = []  # to be received next

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        if name not in ("offer", "commit", "abort", "touch", "find", "get", "done"):
            return attribute

        def say(*arguments: Any) -> None:
            self.said.append((name, *arguments))
            attribute(*arguments)

        return say

    def words(self, verb: str) -> list[tuple[Any, ...]]:
        """The arguments of all that was said with this verb."""
        return [arguments for what, *arguments in self.said if what == verb]

    def receive(self) -> list[StoreEvent]:
        """What has come, altered."""
        pending, self.pending = self.pending, []
        return [*pending, *(after for event in self.client.receive() for after in self.alter(event))]


class Member:
    """An engine and its exchange."""

    def __init__(self, engine: Engine, client: Meddler, prefill_s_per_token: float) -> None:
        self.engine = engine
        self.client = client
        self.skipped_s = 0.0  # by which its clock is ahead
        self._looked_s = 0.0
        self.exchange = KVExchange(engine, client, card(prefill_s_per_token), self.now_s)  # type: ignore[arg-type]
        self.outputs: dict[str, list[SequenceOutput]] = {}

    def now_s(self) -> float:
        """Its clock, which moves with every look at it."""
        self._looked_s += LOOK_S
        return self._looked_s + self.skipped_s

    def add(self, name: str, prompt: list[int], sampling: Sampling, *, publishes: bool = False) -> Request:
        """Submit a request."""
        request = Request(name, "model", prompt, sampling)
        self.engine.add(request)
        self.outputs[name] = []
        if publishes:
            self.exchange.publishes(request)
        return request

    def turn(self) -> None:
        """What the step loop does in one turn; where no step could be run, it sleeps a little first the next time."""
        steps = self.engine.steps
        self.exchange.before_step()
        for output in self.exchange.after_step(self.engine.step()):
            self.outputs[output.request_id].append(output)
        if self.engine.steps == steps:
            self.client.socket.poll(5)

    def turn_until(self, is_done: Callable[[], bool]) -> None:
        """Turn until something holds, which must be soon."""
        until_s = time.monotonic() + TURNS_S
        while not is_done():
            assert time.monotonic() < until_s, "it does not happen"
            self.turn()

    def finish(self) -> None:
        """Until every request has ended and its end has been told."""
        self.turn_until(lambda: all(each and each[-1].end for each in self.outputs.values()))

    def run(self, name: str, prompt: list[int], sampling: Sampling, *, publishes: bool = False) -> list[SequenceOutput]:
        """One request, from its submission to its end."""
        self.add(name, prompt, sampling, publishes=publishes)
        self.finish()
        return self.outputs[name]

    @property
    def faults(self) -> dict[str, int]:
        """As the heartbeat tells them."""
        self.exchange.before_step()
        return self.exchange.load.kv.faults


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    process = StoreProcess(f"ipc://{tmp_path}/store", 64 << 20)
    yield process
    process.kill()


@pytest.fixture
def join(store: StoreProcess) -> Iterator[Callable[..., Member]]:
    """Make an engine a member, attached to the store and knowing its speeds; or one that dials a store that is not."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    members: list[Member] = []

    def make(engine: Engine, *, prefill_s_per_token: float = 1e6, is_alone: bool = False) -> Member:
        address = store.address + "-that-is-not" if is_alone else store.address
        client = Meddler(KVClient(context, address, f"member {len(members)}", engine.spec))
        member = Member(engine, client, prefill_s_per_token)
        members.append(member)
        if not is_alone:
            member.turn_until(lambda: bool(client.is_attached and client.speeds))
        return member

    yield make
    for member in members:
        member.exchange.close()
    context.term()


@pytest.fixture
def reference(references: Any) -> Any:  # noqa: F811
    return references("qwen3-tied")


@pytest.fixture
def reader(reference: Any, join: Callable[..., Member]) -> Member:
    """A member that has computed nothing, in a pool where another one has published PROMPT."""
    publish(join(reference.engine()), PROMPT)
    return join(reference.engine())


@pytest.fixture(scope="session", autouse=True)
def _compiled(references: Any) -> None:  # noqa: F811
    """Kernels are compiled with a process's first step: on a busy machine for longer than a store waits for a word."""
    engine = references("qwen3-tied").engine()
    engine.add(Request("first", "model", PROMPT, Sampling(max_tokens=2, temperature=0)))
    while engine.has_work:
        engine.step()
