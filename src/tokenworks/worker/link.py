"""A worker's line to one gateway.

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
from tokenworks.kv import dealer

log = logging.getLogger(__name__)

QUEUE_FRAMES: Final = 10_000
LINGER_MS: Final = 300
"""How long a leaving worker waits for its last frames to go out: into the kernel's buffer, which takes them at once
unless the gateway has stopped reading. In full where the gateway has left before, as when a whole system stops."""


class GatewayLink:
    """One gateway, as seen from the thread that owns the socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address
        self.socket = dealer.dial(context, address, max_queued=QUEUE_FRAMES, linger_ms=LINGER_MS, only_connected=False)

    def send(self, message: Message) -> bool:
        """Queue a frame; False where the gateway has stopped reading."""
        return dealer.send(self.socket, encode(message))

    def receive(self) -> Iterator[ToWorker]:
        """Every message that has arrived."""
        for frame in dealer.frames(self.socket):
            try:
                yield decode_to_worker(frame)
            except WireError as error:
                log.warning("ignored a frame from %s: %s", self.address, error)

    def close(self) -> None:
        """Let go of the socket; queued frames still go out."""
        self.socket.close()
