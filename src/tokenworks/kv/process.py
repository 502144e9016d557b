"""The store's process: sockets, the wake-up of the I/O threads, signals, and a loop that never waits for a tier.

SIGTERM and SIGINT drain: nothing new is taken in, what was put and is not on disk yet is written, for `FLUSH_S` at
most. Only monotonic time is read, so that a clock that jumps changes nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import zmq
from msgspec.structs import replace

from tokenworks.contract import wire
from tokenworks.contract.config import KVSettings, Settings
from tokenworks.contract.errors import ConfigError, StartupError, TokenworksError
from tokenworks.contract.setting import bytes_text
from tokenworks.kv import dealer
from tokenworks.kv.build import BuiltStore, build_store
from tokenworks.kv.protocol import LEASE_S, StoreWireError, decode_to_store, encode
from tokenworks.kv.tasks import Outcome, Scan
from tokenworks.kv.tier_news import TierNews
from tokenworks.kv.tiers.address import shown

log = logging.getLogger(__name__)

STATUS_EVERY_S: Final = 1.0
FLUSH_S: Final = 20.0
CLOSE_S: Final = 8.0  # beside it: together less than the supervisor allows, which kills who takes longer
IDLE_POLL_MS: Final = 200
HURRIED_POLL_MS: Final = 10
MAX_FRAMES: Final = 1000  # taken in before answers go out
MAX_FRAME_BYTES: Final = 16 << 20
LOGGED_EVERY: Final = 1000
LINGER_MS: Final = 200
MAX_NEWS: Final = 10  # frames that wait for a gateway: old news is no news


class Wake:
    """Ends a poll from any thread or signal handler. `descriptor` may be put into a poller."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __call__(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """It has been heard."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)


class StoreLoop:
    """Runs a store until drained."""

    def __init__(
        self,
        built: BuiltStore,
        socket: zmq.Socket[bytes],
        gateways: Sequence[zmq.Socket[bytes]],
        wake: Wake,
        store_id: str,
    ) -> None:
        self._store = built.store
        self._threads = built.threads
        self._socket = socket
        self._gateways = gateways
        self._wake = wake
        self._store_id = store_id
        self._started_ns, self._began_ns = time.time_ns(), time.monotonic_ns()  # the former is a name
        self._next_status_s = 0.0
        self._is_asked_to_drain = False
        self._num_bad_frames = 0
        self._news = TierNews()
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(wake.descriptor, zmq.POLLIN)

    def drain(self) -> None:
        """Write back what is there, then leave. Safe to call from a signal handler."""
        self._is_asked_to_drain = True
        self._wake()

    def run(self) -> None:
        """Serve until `drain` is called, then until all is written back or `FLUSH_S` are over."""
        while not self._is_asked_to_drain:
            self._turn()
        self._store.drain()
        until_s = time.monotonic() + FLUSH_S
        while not self._store.is_saved and time.monotonic() < until_s:
            self._turn()
        if not self._store.is_saved:
            log.warning("not all blocks were written back in %g s: those that were not are computed again", FLUSH_S)

    def _turn(self) -> None:
        self._poller.poll(HURRIED_POLL_MS if self._store.is_hurried else IDLE_POLL_MS)
        self._wake.clear()
        for client, frame in self._frames():
            self._take(client, frame)
        now_s = time.monotonic()
        for outcome in self._threads.outcomes():
            self._store.finished(outcome, now_s)
            self._log(outcome, now_s)
        self._store.tick(now_s)
        for task in self._store.take_tasks(now_s):
            self._threads.start(task)
        for client, message in self._store.take_replies():
            self._reply(client, encode(message))
        self._tell_gateways(now_s)

    def _log(self, outcome: Outcome, now_s: float) -> None:
        tier, error = outcome.task.tier, outcome.error or outcome.write_error
        if news := self._news.heard(tier, error, self._store.is_up(tier), now_s):
            log.log(logging.WARNING if error else logging.INFO, "%s", news)
        if isinstance(outcome.task, Scan) and outcome.is_last and not error:
            log.info("the %s tier holds %d blocks from before", tier.value, self._store.num_blocks(tier))

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        for _ in range(MAX_FRAMES):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) == 2:
                yield parts[0], parts[1]
            else:
                self._bad_frame(f"{len(parts)} parts")
        self._wake()  # there may be more: do not sleep on it

    def _take(self, client: bytes, frame: bytes) -> None:
        try:
            message = decode_to_store(frame)
        except StoreWireError as error:
            self._bad_frame(error.message)
            return
        self._store.receive(client, message, time.monotonic())

    def _bad_frame(self, what: str) -> None:
        self._store.bad_frame()
        if self._num_bad_frames % LOGGED_EVERY == 0:
            log.warning("ignored a frame, %d so far: %s", self._num_bad_frames + 1, what)
        self._num_bad_frames += 1

    def _reply(self, client: bytes, frame: bytes) -> None:
        with suppress(zmq.Again):  # it has stopped reading, and will find that it has lost its store
            self._socket.send_multipart([client, frame], zmq.NOBLOCK)

    def _tell_gateways(self, now_s: float) -> None:
        if now_s < self._next_status_s:
            return
        self._next_status_s = now_s + STATUS_EVERY_S
        status = self._store.status(self._store_id, os.getpid())
        alive_ns = time.monotonic_ns() - self._began_ns
        frame = wire.encode(replace(status, started_ns=self._started_ns, alive_ns=alive_ns))
        for gateway in self._gateways:
            dealer.send(gateway, frame)


def run_store(settings: Settings, store_id: str, gateways: Sequence[str], lease_s: float = LEASE_S) -> None:
    """Keep KV blocks for the workers that dial `settings.kv.store_address`, until drained.

    Raises ConfigError without an address, and StartupError where there is no memory, no tier or no such address.
    """
    if not settings.kv.store_address:
        raise ConfigError(
            "give the address where workers reach the store, such as --kv-store-address tcp://127.0.0.1:7100"
        )
    wake = Wake()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = listen(context, settings.kv.store_address)
    built = build_store(settings.kv, store_id, wake, lease_s)
    lines = [
        dealer.dial(context, address, max_queued=MAX_NEWS, linger_ms=LINGER_MS, only_connected=True)
        for address in gateways
    ]
    loop = StoreLoop(built, socket, lines, wake, store_id)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.drain())
    log.info("KV store %s listens at %s: %s", store_id, settings.kv.store_address, described(settings.kv))
    loop.run()
    close_tiers(built)
    for each in (socket, *lines):
        each.close(linger=LINGER_MS)
    context.term()


def described(kv: KVSettings) -> str:
    """The tiers, as a person asked for them; no passwords."""
    tiers = [f"{bytes_text(kv.memory_bytes)} of memory"]
    if kv.disk_path:
        tiers.append(f"{bytes_text(kv.disk_bytes)} in {kv.disk_path}")
    if kv.remote:
        tiers.append(shown(kv.remote))
    return ", ".join(tiers)


def listen(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """The socket that workers dial; raises StartupError."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.SNDHWM, 10_000)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise StartupError(f"the KV store cannot listen at {address} ({error}): change --kv-store-address") from error
    return socket


def close_tiers(built: BuiltStore) -> None:
    """Flush and let go of each tier; who hangs is given up after `CLOSE_S`."""

    def close() -> None:
        for name, tier in built.tiers.items():
            try:
                tier.close()
            except TokenworksError as error:
                log.warning("closing the %s tier: %s", name, error.message)

    thread = threading.Thread(target=close, name="kv-close", daemon=True)
    thread.start()
    thread.join(CLOSE_S)
    if thread.is_alive():
        log.warning("the tiers could not be closed in %g s: a power cut now could lose their last blocks", CLOSE_S)
