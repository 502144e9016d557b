"""A real gateway on a real port, and scripted workers over real ZeroMQ whose output can be computed by hand.

A scripted worker answers each prompt with its token ids plus one, over and over, one token a step for all requests at
once, until `max_tokens` or a stop token. A test may give it another answer, pause it, or let it die.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import httpx
import pytest
import tokenizers
import uvloop
import zmq
from msgspec.structs import replace
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import decoders, models, pre_tokenizers, trainers

from tokenworks.contract import wire
from tokenworks.contract.card import Card
from tokenworks.contract.config import (
    CostSettings,
    FleetSettings,
    GatewaySettings,
    KVSettings,
    LedgerSettings,
    Settings,
)
from tokenworks.contract.folders import state_folder
from tokenworks.contract.kv import KVSpec, Tier
from tokenworks.contract.record import Frame, Record, SequenceReport
from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, SequenceOutput, TokenLogprobs
from tokenworks.gateway.process import bind, build_gateway
from tokenworks.observe.journal.reader import JournalReader

WaitUntil: TypeAlias = Callable[[Callable[[], object]], None]
MakeRig: TypeAlias = Callable[..., AbstractContextManager["Rig"]]

PATIENCE_S = 60.0  # a bound for a busy machine, not an expectation
_NEVER = 1 << 30
WINDOW = 256
TEXT = "the quick brown fox jumps over the lazy dog and the dog does not mind at all 你好世界 🙂🙃 "
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' and loop.index > 1 %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _wait_until(condition: Callable[[], object]) -> None:
    """Poll until true; fails the test after a long while."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory without weights."""
    path = tmp_path_factory.mktemp("checkpoints") / "tiny-echo"
    path.mkdir()
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT] * 4, trainer)
    backend.save(str(path / "tokenizer.json"))
    config = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 512, "eos_token_id": 0}
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "top_k": 20}))
    special = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(special))
    return path


@pytest.fixture(scope="session")
def backend(checkpoint: Path) -> tokenizers.Tokenizer:
    """The tokenizer as the library loads it."""
    return tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def echo_plus_one(request: Request) -> Iterator[SequenceOutput]:
    """The default answer."""
    sampling = request.sampling
    for at in range(request.num_generated, sampling.max_tokens):
        token = request.token_ids[at % request.num_prompt] + 1
        end = None
        if token in sampling.stop_token_ids:
            end = End(EndReason.STOP, stop_token_id=token)
        elif at == sampling.max_tokens - 1:
            end = End(EndReason.LENGTH)
        yield SequenceOutput(
            request.id,
            [token],
            logprobs=None if sampling.num_logprobs is None else [_logprobs(token, sampling.num_logprobs)],
            cached_tokens=4 if at == 0 else None,
            end=end,
        )
        if end is not None:
            return


def _logprobs(token: int, num: int) -> TokenLogprobs:
    return TokenLogprobs(-0.5, [token + rank for rank in range(num)], [-0.5 - rank for rank in range(num)])


class ScriptedWorker:
    """A worker process's wire behaviour, in a thread."""

    def __init__(
        self,
        address: str,
        worker_id: str = "w0",
        window: int = WINDOW,
        protocol: int = wire.PROTOCOL,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        self.worker_id = worker_id
        self.submitted: list[Request] = []
        self.published: list[str] = []  # ids of those that were to be published
        self.cancelled: list[str] = []
        self.num_hellos = 0
        self.answer = echo_plus_one
        self.max_steps = max_steps  # steps each request gets before it is paused
        self.is_mute = False
        self.tells_cancelled = True  # what it spent on a request that it was told to drop
        self.report: SequenceReport | None = None  # of every sequence
        self.load: dict[str, Any] = {}  # beyond what it says by itself
        self._hello = _hello(worker_id, window, protocol, **options)
        self._address = address
        self._active: dict[str, Iterator[SequenceOutput]] = {}
        self._steps: dict[str, int] = {}
        self._outbox: list[wire.Message] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def num_active(self) -> int:
        """Requests that have not ended."""
        return len(self._active)

    def send(self, message: wire.Message) -> None:
        """Send anything from the main socket."""
        self._outbox.append(message)

    def die(self) -> None:
        """Stop without a word."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as main, context.socket(zmq.DEALER) as beat:
            for each in (main, beat):
                each.setsockopt(zmq.LINGER, 0)
                each.connect(self._address)
            self._say_hello(main)
            last_beat_s = 0.0
            while not self._stop.is_set():
                if not self.is_mute and time.monotonic() - last_beat_s > 0.05:
                    last_beat_s = time.monotonic()
                    beat.send(wire.encode(wire.Heartbeat(self.worker_id, self._load())))
                while beat.poll(0):
                    self._receive(wire.decode_to_worker(beat.recv()), main)
                while main.poll(0 if self._can_step() else 5):
                    self._receive(wire.decode_to_worker(main.recv()), main)
                while self._outbox:
                    main.send(wire.encode(self._outbox.pop(0)))
                self._step(main)

    def _say_hello(self, main: zmq.Socket[bytes]) -> None:
        self.num_hellos += 1
        main.send(wire.encode(self._hello))

    def _load(self) -> wire.Load:
        return wire.Load(len(self._active), 0, 90, 100, 7, 3, 20, 15, **self.load)

    def _receive(self, message: wire.ToWorker, main: zmq.Socket[bytes]) -> None:
        match message:
            case wire.Submit(request):
                self.published += [request.id] if message.publishes else []
                self._steps[request.id] = 0
                self._active[request.id] = self.answer(request)
                self.submitted.append(request)  # last: who sees it there may look for the rest
            case wire.Cancel(request_id):
                self.cancelled.append(request_id)
                if self._active.pop(request_id, None) is not None and self.tells_cancelled:
                    end = End(EndReason.CANCELLED, report=self.report)
                    self._outbox.append(wire.StepOutput([SequenceOutput(request_id, end=end)]))
            case wire.Rejoin():
                self._active.clear()
                self._say_hello(main)

    def _can_step(self) -> bool:
        return any(self._may_step(request_id) for request_id in list(self._active))

    def _may_step(self, request_id: str) -> bool:
        most = _NEVER if self.max_steps is None else self.max_steps
        return self._steps[request_id] < most

    def _step(self, main: zmq.Socket[bytes]) -> None:
        outputs = []
        for request_id in [each for each in self._active if self._may_step(each)]:
            self._steps[request_id] += 1
            output = next(self._active[request_id], None)
            if output is None:  # the script is over and the request has no end: it waits to be cancelled
                self._steps[request_id] = _NEVER
                continue
            if output.end is not None and self.report is not None:
                output = replace(output, end=replace(output.end, report=self.report))
            outputs.append(output)
            if output.end is not None:
                del self._active[request_id]
        if outputs:
            main.send(wire.encode(wire.StepOutput(outputs)))


def _hello(
    worker_id: str,
    window: int,
    protocol: int,
    *,
    role: wire.Role = wire.Role.BOTH,
    has_store: bool = False,
    prefill_s: float = 0.0,
    is_foreign: bool = False,
    price_per_hour: float | None = None,
) -> wire.Hello:
    """`prefill_s`: what its card says that a token of a prompt takes."""
    card = Card("cpu: scripted", 1, "float32", "float32", 1, 1, "float32", 1, 100, (), (), 0, prefill_s, 0, 0, 0, 0)
    card = replace(card, price_per_hour=price_per_hour)
    spec = None if is_foreign else KVSpec("scripted", 1, 1, 8, 4, "float32")
    return wire.Hello(protocol, worker_id, os.getpid(), "tiny-echo", window, spec, card, role, has_store)


class RunningGateway:
    """The gateway in a thread of its own, with its own event loop."""

    def __init__(self, settings: Settings) -> None:
        self._listener = bind(settings.gateway.host, 0)
        self.url = "http://{}:{}".format(*self._listener.getsockname()[:2])
        self._settings = settings
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    def begin_drain(self) -> None:
        """What SIGTERM does."""
        self.call(self._stop.set)

    def wait(self) -> None:
        """Until it has left."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def hurry(self) -> None:
        """What a second signal does."""
        self.call(self._hurry.set)

    def call(self, function: Callable[[], object]) -> None:
        """Run something on the gateway's event loop; nothing where it has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    @property
    def num_in_flight(self) -> int:
        """Sequences that the gateway waits for."""
        return self.gateway.dispatcher.num_in_flight

    def _run(self) -> None:
        with self._listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.gateway = build_gateway(self._settings, self._listener)
        self.address = self.gateway.dispatcher.address
        self._started.set()
        await self.gateway.serve(self._stop, self._hurry)


class Rig:
    """A gateway, its workers and its clients."""

    def __init__(self, gateway: RunningGateway, state: Path | None) -> None:
        self.gateway = gateway
        self.state = state  # where its ledger is
        self.workers: list[ScriptedWorker] = []
        self.http = httpx.Client(base_url=gateway.url, timeout=PATIENCE_S)
        self.openai = OpenAI(
            base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, http_client=httpx.Client(timeout=PATIENCE_S)
        )

    @property
    def worker(self) -> ScriptedWorker:
        """The latest worker."""
        return self.workers[-1]

    def add_worker(self, worker_id: str = "w0", **options: Any) -> ScriptedWorker:
        """Start a worker and wait until the gateway knows it."""
        worker = ScriptedWorker(self.gateway.address, worker_id, **options)
        self.workers.append(worker)
        registry = self.gateway.gateway.dispatcher.workers
        _wait_until(lambda: (known := registry.get(worker_id)) is not None and known.load is not None)
        return worker

    def report(self, message: wire.Message) -> None:
        """What the supervisor or a store says, over a socket of its own."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as line:
            line.connect(self.gateway.address)
            line.send(wire.encode(message))

    def add_store(self, store_id: str = "kv0", **tiers: wire.TierStatus) -> None:
        """A store tells of itself once; wait until the gateway has heard."""
        told = {Tier(name): status for name, status in tiers.items()}
        self.report(wire.StoreStatus(store_id, os.getpid(), told, misses=9))
        stores = self.gateway.gateway.dispatcher.stores
        _wait_until(lambda: store_id in [store.store_id for store in stores])

    def kill(self, worker: ScriptedWorker) -> None:
        """It dies, and the supervisor says so."""
        worker.die()
        self.report(wire.WorkerExited(worker.worker_id, "killed by signal 9"))

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Every sample by its name and the values of its labels, in the order of their names."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def post(self, path: str, **body: object) -> httpx.Response:
        """POST a JSON body."""
        return self.http.post(path, json=body)

    @contextmanager
    def asking(self, **body: object) -> Iterator[None]:
        """A client that has asked for a completion, and goes away at the end of the block, whatever has come."""
        at, content = urlsplit(self.gateway.url), json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection((at.hostname, at.port), PATIENCE_S) as connection:
            connection.sendall(head.encode() + content)
            yield

    def frames(self) -> list[Frame]:
        """Everything that the gateway has written into its journal so far."""
        assert self.state is not None
        return JournalReader(self.state / "journal").read({}, 1 << 30).frames

    def records(self, num: int) -> list[Record]:
        """The records, of which there are so many sooner or later, and no more."""
        _wait_until(lambda: len(self._records()) >= num)
        found = self._records()
        assert len(found) == num, found
        return found

    def _records(self) -> list[Record]:
        return [frame for frame in self.frames() if isinstance(frame, Record)]

    def close(self) -> None:
        """End everything."""
        self.openai.close()
        self.http.close()
        self.gateway.begin_drain()
        self.gateway.hurry()
        self.gateway.wait()
        for worker in self.workers:
            worker.die()


@contextmanager
def _running_rig(
    checkpoint: Path,
    *,
    lease_s: float = 10.0,
    drain_s: float = 10.0,
    kv: KVSettings | None = None,
    auth: Literal["auto", "required", "off"] = "auto",
    ledger: LedgerSettings | None = None,
    cost: CostSettings | None = None,
) -> Iterator[Rig]:
    """A gateway without workers; `ledger`: none unless it is given."""
    settings = Settings(
        model=str(checkpoint),
        gateway=GatewaySettings(worker_address="tcp://127.0.0.1:*", max_body_bytes=1 << 20, lease_s=lease_s, auth=auth),
        fleet=FleetSettings(drain_s=drain_s),
        kv=kv or KVSettings(),
        ledger=ledger or LedgerSettings(path="off"),
        cost=cost or CostSettings(),
    )
    rig = Rig(RunningGateway(settings), state_folder(settings.ledger))
    try:
        yield rig
    finally:
        rig.close()


@pytest.fixture
def wait_until() -> WaitUntil:
    """Polls until a condition holds."""
    return _wait_until


@pytest.fixture(scope="session")
def running_rig(checkpoint: Path) -> MakeRig:
    """Makes gateways with other settings."""
    return partial(_running_rig, checkpoint)


@pytest.fixture
def recording_rig(checkpoint: Path, tmp_path: Path) -> Iterator[Rig]:
    """A gateway without workers that writes records down, for one test."""
    with _running_rig(checkpoint, ledger=LedgerSettings(path=str(tmp_path), flush_s=0.01)) as rig:
        yield rig


@pytest.fixture
def hasty_rig(checkpoint: Path, tmp_path: Path) -> Iterator[Rig]:
    """The same, for a test that waits for a lease to end."""
    with _running_rig(checkpoint, lease_s=1.0, ledger=LedgerSettings(path=str(tmp_path), flush_s=0.01)) as rig:
        yield rig


@pytest.fixture
def bare_rig(checkpoint: Path) -> Iterator[Rig]:
    """A gateway without workers, for one test."""
    with _running_rig(checkpoint) as rig:
        yield rig


@pytest.fixture(scope="module")
def shared_rig(checkpoint: Path) -> Iterator[Rig]:
    """A gateway with one worker, for the tests of a module that leave it as it was."""
    with _running_rig(checkpoint) as rig:
        rig.add_worker()
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The shared gateway with its worker set back."""
    worker = shared_rig.worker
    worker.submitted.clear()
    worker.cancelled.clear()
    yield shared_rig
    worker.answer = echo_plus_one
    worker.max_steps = None
    _wait_until(lambda: shared_rig.gateway.num_in_flight == 0 and worker.num_active == 0)
