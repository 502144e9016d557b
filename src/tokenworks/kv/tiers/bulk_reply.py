"""One long answer of a Redis server, straight from the socket into the caller's memory.

redis-py collects an answer in a growing buffer: 3.5 MiB cost it 12.6 ms of processor time, mostly with the interpreter
locked, in which the store can do nothing else. Received in place it is 0.4 ms. So redis-py connects, logs in, sends and
keeps the connections; only this one read is ours.
"""

from __future__ import annotations

import socket
import time
from typing import Final

import redis

_LONGEST_LINE: Final = 32  # a `$` and a length; whatever is longer is no such line


def read_bulk(connection: socket.socket, into: memoryview, limit_s: float) -> int | None:
    """Read a bulk reply (RESP2) to the start of `into`; its length, 0 for a null.

    None where the answer is another one, or longer than `into`: then the connection is of no use any more. Raises
    OSError, and redis.ConnectionError where the server hangs up. `limit_s` bounds the whole, the socket's timeout each
    silence.
    """
    end = time.monotonic() + limit_s
    line = _read_line(connection, end)
    if line == b"$-1":
        return 0
    if not (line.startswith(b"$") and line[1:].isdigit()) or int(line[1:]) > len(into):
        return None
    num_bytes = int(line[1:])
    _read(connection, into[:num_bytes], end)
    _read(connection, memoryview(bytearray(2)), end)  # the line's end after the value
    return num_bytes


def _read_line(connection: socket.socket, end: float) -> bytes:
    """Byte by byte, so that nothing of the value is taken along: it is a dozen of them."""
    line, byte = b"", bytearray(1)
    while not line.endswith(b"\r\n") and len(line) < _LONGEST_LINE:
        _read(connection, memoryview(byte), end)
        line += byte
    return line.rstrip(b"\r\n")


def _read(connection: socket.socket, into: memoryview, end: float) -> None:
    """Fill `into`."""
    while into:
        if time.monotonic() > end:
            raise TimeoutError("the answer does not come to an end")
        num_bytes = connection.recv_into(into)
        if not num_bytes:
            raise redis.ConnectionError("the server has hung up")
        into = into[num_bytes:]
