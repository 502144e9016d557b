"""The gateway as a process: builds the parts, serves until a signal, drains, and leaves.

On SIGTERM or SIGINT new requests are refused (503 `draining`) and open ones finish, for `drain_s` at most; what is
still open then ends with an error event. A second signal ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from tokenworks.contract.auth import check_keys_have_a_place
from tokenworks.contract.config import Settings
from tokenworks.contract.errors import Draining, StartupError
from tokenworks.contract.folders import state_folder
from tokenworks.gateway.http.app import build_app
from tokenworks.gateway.http.observer_client import ObserverClient
from tokenworks.gateway.http.prompts import PromptReader
from tokenworks.gateway.http.service import Service
from tokenworks.gateway.keys.key_file import KeyFile
from tokenworks.gateway.keys.keys import Keys
from tokenworks.gateway.metrics.metrics import Metrics
from tokenworks.gateway.pool.dispatch import Dispatcher
from tokenworks.gateway.pool.samples import Samples
from tokenworks.gateway.records.recorder import Recorder
from tokenworks.gateway.records.scribe import Scribe
from tokenworks.observe.journal.writer import Journal
from tokenworks.text.tokenizer import load_tokenizer

_log = logging.getLogger(__name__)

TOKENIZER_THREADS: Final = 2
UNSENT_BYTES: Final = 1 << 16
"""Of a connection that the system holds before we wait: beyond what is under way to the client, more would only hide
from the waterfall that it reads slowly. Megabytes else, a whole answer or two."""
SWITCH_INTERVAL_S: Final = 0.001  # a thread that renders a template may hold up the event loop's streams for this long
KEEP_ALIVE_S: Final = 75  # longer than common clients and proxies keep a connection, so that they close it, not we
COLLECTED_AT_ONCE: Final = 10_000
"""Objects. Requests under way and records not yet written down are thousands, and walking them every 700 allocations is
a tenth of the gateway's time."""
_POLL_S: Final = 0.05
_SETTLE_S: Final = 2  # two heartbeats
_LAST_WORDS_S: Final = 5  # for the error events of streams that did not finish in time


class _Server(uvicorn.Server):
    """Uvicorn without its signal handling, which would cut streams short."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Gateway:
    """A running gateway; lives inside one event loop."""

    def __init__(
        self,
        service: Service,
        samples: Samples,
        scribe: Scribe,
        listener: socket.socket,
        executor: ThreadPoolExecutor,
        drain_s: float,
    ) -> None:
        self.service = service
        self.dispatcher = service.dispatcher
        self._samples = samples
        self._scribe = scribe
        self._listener = listener
        self._executor = executor
        self._drain_s = drain_s
        self._server = _Server(_uvicorn_config(service))

    async def serve(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Serve until `stop`, then drain until all is done, time is up, or `hurry`."""
        name = self.service.recorder.gateway
        self._samples.happened("gateway_started", name, f"pid {os.getpid()}")
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(hurry)
        finally:
            stopping.cancel()
            self._server.should_exit = True
            await serving
            await self._settle(hurry)
            await self.service.observer.close()
            await self.dispatcher.shut_down()
            self.service.recorder.settle()
            self._samples.happened("gateway_stopped", name)
            self._scribe.close()
            self._executor.shutdown()

    async def _drain(self, hurry: asyncio.Event) -> None:
        self.service.is_draining = True
        _log.info("draining: %d requests open", self.service.num_open)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._idle(hurry)
        if self.service.num_open:
            _log.error("%d requests were still open at the end of the drain", self.service.num_open)
            self.dispatcher.fail_all(Draining("the server shut down before the request was completed; please retry"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._idle(asyncio.Event())

    async def _settle(self, hurry: asyncio.Event) -> None:
        """Wait for the next heartbeat of who worked lately: the bill wants all that the records have."""
        workers = self.dispatcher.workers
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                while not hurry.is_set() and not all(worker.is_accounted for worker in workers):
                    await asyncio.sleep(_POLL_S)
        for worker in workers:
            self._samples.worker_left_behind(worker)

    async def _idle(self, hurry: asyncio.Event) -> None:
        while self.service.num_open and not hurry.is_set():
            await asyncio.sleep(_POLL_S)


def build_gateway(settings: Settings, listener: socket.socket) -> Gateway:
    """Load the tokenizer, listen for workers, put the parts together. Call it on the event loop that will serve."""
    tokenizer = load_tokenizer(settings.model)
    own = settings.gateway
    model_name = own.model_name or Path(settings.model).resolve().name
    name = f"{socket.gethostname()}:{listener.getsockname()[1]}"
    check_keys_have_a_place(own, settings.ledger)
    folder = state_folder(settings.ledger)
    keys = Keys(None if folder is None else KeyFile(folder), own)
    scribe = Scribe(None if folder is None else Journal(folder / "journal", name, settings.ledger.flush_s))
    samples = Samples(scribe.append, settings.ledger.sample_s)
    executor = ThreadPoolExecutor(TOKENIZER_THREADS, "tokenizer")
    dispatcher = Dispatcher(own.worker_address, own.lease_s, samples)
    metrics = Metrics(dispatcher, settings.cost, settings.objectives, folder)
    keepers = [metrics.observe_records, *([scribe.append_all] if scribe.is_writing else [])]
    metrics.observer.journal = lambda: scribe.state
    service = Service(
        model_name=model_name,
        tokenizer=tokenizer,
        reader=PromptReader(tokenizer, executor),
        dispatcher=dispatcher,
        metrics=metrics,
        keys=keys,
        recorder=Recorder(name, model_name, settings.cost, keepers, settings.ledger.flush_s, scribe.flush),
        max_body_bytes=own.max_body_bytes,
        observer=ObserverClient(settings.ledger),
        is_sharing_kv=settings.kv.tenant_sharing,
    )
    return Gateway(service, samples, scribe, listener, executor, settings.fleet.drain_s)


def run_gateway(settings: Settings, on_ready: Callable[[str, int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, drain, return. `on_ready` is told the host and the port in use.

    Needs `settings.model` (a checkpoint directory) and `settings.gateway.worker_address` (where workers dial in).
    Raises StartupError where the port is taken, CheckpointError where the checkpoint's text files cannot be used.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # our threads suffice; its own pool doubles the latency
    listener = bind(settings.gateway.host, settings.gateway.port)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings, listener, on_ready))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises StartupError that says what to do."""
    try:
        listener = socket.create_server((host, port), family=_family(host), backlog=2048)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses the port or choose another with --port "
            "(0 takes a free one)"
        ) from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS; connections have it from their listener
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    return listener


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def _main(settings: Settings, listener: socket.socket, on_ready: Callable[[str, int], None] | None) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    gateway = build_gateway(settings, listener)
    host, port = listener.getsockname()[:2]
    _log.info("gateway listens on http://%s:%d, workers dial in at %s", host, port, gateway.dispatcher.address)
    gc.collect()
    gc.freeze()  # what was loaded stays; the collector need not walk it while requests wait
    gc.set_threshold(COLLECTED_AT_ONCE, *gc.get_threshold()[1:])
    if on_ready is not None:
        on_ready(host, port)
    await gateway.serve(stop, hurry)


def _uvicorn_config(service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(service),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
