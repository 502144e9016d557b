"""The ROUTER socket that workers dial in to, read on the event loop without ever blocking it.

A plain ZeroMQ socket watched by its file descriptor: a third of the cost per frame of wrapping every call in a future.
ZeroMQ signals that descriptor once per batch of commands, so every read takes all there is, and every send is followed
by a look at whether it consumed a signal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import zmq

from tokenworks.contract.errors import StartupError

_log = logging.getLogger(__name__)

MAX_FRAMES_PER_TURN: Final = 256
MAX_QUEUED_FRAMES: Final = 100_000  # to one worker; a worker that is so far behind has long lost its lease


class WorkerSocket:
    """Binds an address; `on_frame(identity, frame)` is called on the event loop for every frame."""

    def __init__(self, address: str, on_frame: Callable[[bytes, bytes], None]) -> None:
        self._on_frame = on_frame
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an unknown peer is an error, not a silent loss
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a restarted worker may come back under its old identity
        self._socket.setsockopt(zmq.SNDHWM, MAX_QUEUED_FRAMES)
        self._socket.setsockopt(zmq.RCVHWM, MAX_QUEUED_FRAMES)
        self._loop = asyncio.get_running_loop()
        self._bind(address)
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._read_all)

    @property
    def address(self) -> str:
        """The address in use, with the port that was taken where the wanted one was a wildcard."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send(self, identity: bytes, frame: bytes) -> bool:
        """Queue a frame for a peer; False where the peer is gone or takes nothing any more."""
        try:
            self._socket.send_multipart((identity, frame), zmq.NOBLOCK)
            is_sent = True
        except zmq.ZMQError:
            is_sent = False
        if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._read_all)
        return is_sent

    def close(self) -> None:
        """Stop reading and free the address."""
        self._loop.remove_reader(self._descriptor)
        self._socket.close()
        self._context.term()

    def _bind(self, address: str) -> None:
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._socket.close()
            self._context.term()
            raise StartupError(
                f"cannot listen for workers on {address}: {error.strerror}; choose another gateway.worker_address"
            ) from error

    def _read_all(self) -> None:
        """Take what there is; after a long run let the streams have their turn, then come back."""
        for _ in range(MAX_FRAMES_PER_TURN):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.ZMQError:  # nothing there, or closed
                return
            try:
                self._on_frame(parts[0], parts[-1])
            except Exception:
                _log.exception("a frame could not be handled: this is a bug; the others go on")
        self._loop.call_soon(self._read_all)
