"""Reading one answer in place: what a server may say, whole and in pieces."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tokenworks.kv.tiers.bulk_reply import read_bulk

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10.0)
    with ours, theirs:
        yield ours, theirs


def answer(pair: Pair, said: bytes, room: int = 8, limit_s: float = 10.0) -> tuple[int | None, bytes]:
    pair[1].sendall(said)
    into = memoryview(bytearray(room))
    num_bytes = read_bulk(pair[0], into, limit_s)
    return num_bytes, bytes(into[: num_bytes or 0])


@pytest.mark.parametrize("value", [b"", b"a", b"\r\n$3\r\n", b"12345678"])
def test_a_value_is_read_to_its_end_and_no_further(pair: Pair, value: bytes) -> None:
    said = b"$%d\r\n%b\r\n" % (len(value), value)
    assert answer(pair, said + b"$1\r\nx\r\n") == (len(value), value)
    assert answer(pair, b"") == (1, b"x")


def test_a_null_is_nothing(pair: Pair) -> None:
    assert answer(pair, b"$-1\r\n") == (0, b"")


@pytest.mark.parametrize(
    "said",
    [b"-ERR no\r\n", b"+OK\r\n", b":3\r\n", b"$9\r\n123456789\r\n", b"$x\r\n", b"$\r\n", b"$-2\r\n", b"$" + b"1" * 99],
)
def test_any_other_answer_is_left_to_others(pair: Pair, said: bytes) -> None:
    assert answer(pair, said) == (None, b"")


@pytest.mark.parametrize("said", [b"", b"$", b"$8\r\n", b"$8\r\n1234", b"$8\r\n12345678", b"$8\r\n12345678\r"])
def test_a_server_that_hangs_up_is_an_error_wherever_it_does(pair: Pair, said: bytes) -> None:
    pair[1].sendall(said)
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(redis.ConnectionError, match="hung up"):
        answer((pair[0], pair[0]), b"")


def test_an_answer_in_pieces_is_one(pair: Pair) -> None:
    def speak() -> None:
        for byte in b"$8\r\n12345678\r\n":
            pair[1].sendall(bytes([byte]))
            time.sleep(0.001)

    speaker = threading.Thread(target=speak)
    speaker.start()
    into = memoryview(bytearray(8))
    assert read_bulk(pair[0], into, 10.0) == 8
    assert into == b"12345678"
    speaker.join()


def test_an_answer_that_trickles_for_ever_is_given_up(pair: Pair) -> None:
    with pytest.raises(TimeoutError, match="does not come to an end"):
        answer(pair, b"$8\r\n1234", limit_s=-1.0)
    pair[0].settimeout(0.01)
    with pytest.raises(TimeoutError):
        answer(pair, b"")
