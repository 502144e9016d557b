"""The slow proxy carries every byte unchanged, both ways, and breaks connections when told."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from tests.free_port import free_port
from tests.kv.throttle import ThrottledProxy


@pytest.fixture
def echo() -> int:
    """The port of a server that sends one connection's bytes back, once that has said everything."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            said = b""
            while piece := connection.recv(1 << 16):
                said += piece
            connection.sendall(said)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(("bytes_per_s", "latency_s"), [(1e12, 0.0), (2e6, 0.01)])
def test_every_byte_comes_through_both_ways(echo: int, bytes_per_s: float, latency_s: float) -> None:
    said = random.Random(0).randbytes(300_001)
    with (
        ThrottledProxy(("127.0.0.1", echo), bytes_per_s, latency_s) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as connection,
    ):
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        heard = b""
        while piece := connection.recv(1 << 16):
            heard += piece
    assert heard == said
    assert proxy.carried_bytes == 2 * len(said)


def test_a_cut_connection_ends(echo: int) -> None:
    with (
        ThrottledProxy(("127.0.0.1", echo)) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as connection,
    ):
        connection.sendall(b"hello")
        while proxy.carried_bytes < 5:
            threading.Event().wait(0.01)
        proxy.cut()
        assert connection.recv(1) == b""


def test_a_target_that_is_not_there_ends_the_connection() -> None:
    with (
        ThrottledProxy(("127.0.0.1", free_port())) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as connection,
    ):
        assert connection.recv(1) == b""
