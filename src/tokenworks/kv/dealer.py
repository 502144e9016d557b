"""A ZeroMQ DEALER that is never waited for, for all who dial: workers and stores to gateways, workers to their store.

It reconnects by itself, from 50 ms to a second after the line broke. Sending and receiving only touch its queues.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import zmq

FIRST_RETRY_MS: Final = 50
LAST_RETRY_MS: Final = 1000


def dial(
    context: zmq.Context[zmq.Socket[bytes]], address: str, *, max_queued: int, linger_ms: int, only_connected: bool
) -> zmq.Socket[bytes]:
    """A socket. `max_queued` frames wait for a peer at most; none for one that is away, where `only_connected`.

    `linger_ms`: how long a process that leaves waits for its last frames to go out.
    """
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IMMEDIATE, int(only_connected))
    socket.setsockopt(zmq.SNDHWM, max_queued)
    socket.setsockopt(zmq.LINGER, linger_ms)
    socket.setsockopt(zmq.RECONNECT_IVL, FIRST_RETRY_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, LAST_RETRY_MS)
    socket.connect(address)
    return socket


def send(socket: zmq.Socket[bytes], frame: bytes) -> bool:
    """Queue a frame; False where there is no room, or nobody."""
    try:
        socket.send(frame, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def frames(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    """Every frame that has come."""
    while True:
        try:
            frame = socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return
        yield frame
