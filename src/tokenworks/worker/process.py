"""The worker process: load the model, measure the card, dial in, serve until told to drain.

Anything that keeps it from serving is a StartupError before the hello, so that whoever started it learns why from the
exit message. SIGTERM and SIGINT drain.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
import zmq
from msgspec.structs import replace

from tokenworks.contract.config import EngineSettings, Settings
from tokenworks.contract.folders import peaks_file
from tokenworks.contract.wire import PROTOCOL, Hello, Load, Role
from tokenworks.contract.worker_groups import groups_of
from tokenworks.engine.engine import Engine
from tokenworks.engine.kernels.threads import set_threads
from tokenworks.kv.client import KVClient
from tokenworks.worker.heartbeat import HeartbeatThread
from tokenworks.worker.kv_exchange import KVExchange
from tokenworks.worker.link import GatewayLink
from tokenworks.worker.loop import StepLoop
from tokenworks.worker.machine import Machine
from tokenworks.worker.measure import measure_card
from tokenworks.worker.meter import Meter
from tokenworks.worker.peak_book import with_best_peaks

log = logging.getLogger(__name__)


def run_worker(settings: Settings, worker_id: str, gateways: Sequence[str]) -> None:
    """Serve the model at `settings.model` for the gateways at these ZeroMQ addresses, until drained."""
    directory = Path(settings.model)
    threads = choose_threads(settings.engine)
    set_threads(threads)
    engine = load_engine(directory, settings)
    started = time.monotonic()
    log.info("measuring how fast it is: some seconds, and longer the first time, when the last kernels are compiled")
    card = with_best_peaks(measure_card(engine, settings.engine, threads, library_of(settings)), peaks_file())
    log.info(
        "card measured in %.1f s: a step takes %.1f ms for 1 sequence, %.1f ms for 8, %.0f ms for %d prompt tokens",
        time.monotonic() - started,
        card.decode_s(1, 256) * 1e3,
        card.decode_s(8, 256) * 1e3,
        card.prefill_s(settings.engine.max_step_tokens, 0) * 1e3,
        settings.engine.max_step_tokens,
    )
    log.info("peaks: %.0f GFLOP/s, %.1f GB/s", card.peak_flops / 1e9, card.peak_bytes_per_s / 1e9)
    hello = Hello(
        protocol=PROTOCOL,
        worker_id=worker_id,
        pid=os.getpid(),
        model=settings.gateway.model_name or directory.name,
        max_context_tokens=engine.limits.max_context_tokens,
        kv=engine.spec,
        card=card,
        role=role_of(settings),
        has_store=bool(settings.kv.store_address),
    )
    serve(engine, hello, gateways, settings.kv.store_address)


def role_of(settings: Settings) -> Role:
    """As the group of this worker says, which is the only one in the settings that a worker is given."""
    return Role(settings.workers[0].role) if settings.workers else Role.BOTH


def library_of(settings: Settings) -> str:
    """What computes for this worker, where tables must tell it from our own engine on the same machine."""
    [group] = groups_of(settings)
    return f"OpenVINO {group.device}" if group.runs == "openvino" else ""


def load_engine(directory: Path, settings: Settings) -> Engine:
    """Build the engine, logging how far it is."""
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done == total or done % max(1, total // 4) == 0:
            log.info("packed layer %d of %d after %.1f s", done, total, time.monotonic() - started)

    with torch.inference_mode():
        engine = _build(directory, settings, progress)
    gc.collect()
    gc.freeze()  # what was loaded stays; the collector need not walk it between steps
    return_free_memory()
    return engine


def _build(directory: Path, settings: Settings, progress: Callable[[int, int], None]) -> Engine:
    """Each engine is imported when it is asked for: not everybody has OpenVINO. Raises StartupError."""
    [group] = groups_of(settings)
    num_workers = settings.fleet.workers
    if group.runs == "openvino":
        from tokenworks.engine.openvino.build import build_openvino_engine

        return build_openvino_engine(directory, settings.engine, settings.kv, group.device, num_workers, progress)
    from tokenworks.engine.build import build_engine

    return build_engine(directory, settings.engine, num_workers, progress, settings.kv)


def return_free_memory() -> None:
    """Give the system back what loading has freed; only glibc keeps it, so elsewhere there is nothing to do."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def serve(engine: Engine, hello: Hello, gateways: Sequence[str], store_address: str) -> None:
    """Dial in and run the step loop; returns when drained. Without a store the address is empty."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    links = [GatewayLink(context, address) for address in gateways]
    exchange = open_exchange(context, engine, hello, store_address) if store_address else None
    meter = Meter(engine, hello.card, Machine(hello.card.threads))
    heartbeat = HeartbeatThread(hello.worker_id, gateways, load_of(engine, exchange, meter))
    loop = StepLoop(engine, hello, links, heartbeat, meter, exchange)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.drain())
    heartbeat.start()
    loop.run()
    heartbeat.stop()
    if exchange:
        exchange.close()
    for link in links:
        link.close()
    context.term()


def load_of(engine: Engine, exchange: KVExchange | None, meter: Meter) -> Callable[[], Load]:
    """What the heartbeat tells, to be called in its thread."""
    return lambda: replace((exchange or engine).load, use=meter.use)


def open_exchange(context: zmq.Context[zmq.Socket[bytes]], engine: Engine, hello: Hello, address: str) -> KVExchange:
    """The exchange with the host's KV store; the store may come later, or never."""
    client = KVClient(context, address, f"{hello.worker_id}-{hello.pid}", engine.spec)
    exchange = KVExchange(engine, client, hello.card)
    exchange.wait_for_store()
    return exchange


def choose_threads(settings: EngineSettings) -> int:
    """As set, or one for each core that this process may run on."""
    return settings.threads or len(os.sched_getaffinity(0))
