"""A worker's line to one gateway: a ZeroMQ DEALER that is never waited for.

ZeroMQ's own thread does the I/O; sending and receiving here only touch its queues. A gateway that has stopped reading
fills the queue: `send` then says so, and the worker drops what it runs for that gateway instead of stalling the others.
Frames that cannot be decoded are logged and ignored: a bad peer must not stop a step loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import zmq

from tokenworks.contract.wire import Message, ToWorker, WireError, decode_to_worker, encode

log = logging.getLogger(__name__)

QUEUE_FRAMES: Final = 10_000
LINGER_MS: Final = 300
"""How long a leaving worker waits for its last frames to go out: into the kernel's buffer, which takes them at once
unless the gateway has stopped reading. In full where the gateway has left before, as when a whole system stops."""


class GatewayLink:
    """One gateway, as seen from the thread that owns the socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.SNDHWM, QUEUE_FRAMES)
        self.socket.setsockopt(zmq.LINGER, LINGER_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self.socket.connect(address)

    def send(self, message: Message) -> bool:
        """Queue a frame; False where the gateway has stopped reading."""
        try:
            self.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Iterator[ToWorker]:
        """Every message that has arrived."""
        while True:
            try:
                frame = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield decode_to_worker(frame)
            except WireError as error:
                log.warning("ignored a frame from %s: %s", self.address, error)

    def close(self) -> None:
        """Let go of the socket; queued frames still go out."""
        self.socket.close()
