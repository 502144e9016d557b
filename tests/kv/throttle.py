"""A TCP proxy that is as slow as it is told: for tests, and for measuring against a slow remote tier.

    with ThrottledProxy(("127.0.0.1", 6379), bytes_per_s=1_000_000, latency_s=0.02) as proxy:
        ...  # connect to 127.0.0.1:proxy.port; change proxy.bytes_per_s and proxy.latency_s at any time

Each direction is one link that all connections share: what they send goes through one after the other, in pieces, at
`bytes_per_s`, and each piece arrives `latency_s` later. From a shell: `python tests/kv/throttle.py --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

PIECE_BYTES = 16 << 10
SOCKET_BYTES = 64 << 10
"""Of the proxy's own sockets: with the system's megabytes, a sender would believe that everything has arrived."""


Pieces = asyncio.Queue[tuple[float, bytes]]
"""On their way: when each arrives (monotonic), and its bytes; none at the end."""


class Link:
    """One direction: says when a piece that comes now has gone through."""

    def __init__(self, bytes_per_s: Callable[[], float]) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def carry(self, num_bytes: int) -> None:
        start = max(time.monotonic(), self._free_at)
        self._free_at = start + num_bytes / self._bytes_per_s()
        await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))


class ThrottledProxy:
    """A proxy in a thread of its own, to `target`: (host, port), or the path of a unix socket."""

    def __init__(self, target: tuple[str, int] | str, bytes_per_s: float = 1e12, latency_s: float = 0.0) -> None:
        self.target = target
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.carried_bytes = 0  # both ways
        self._listener = _small(socket.create_server(("127.0.0.1", 0)))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="throttle")
        self._there, self._back = Link(lambda: self.bytes_per_s), Link(lambda: self.bytes_per_s)
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """Break every connection, mid-byte; new ones are taken."""
        done = asyncio.run_coroutine_threadsafe(self._cut(), self._loop)
        done.result()

    def _run(self) -> None:
        self._loop.create_task(self._accept())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(_ended(asyncio.all_tasks(self._loop)))
        self._listener.close()
        self._loop.close()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await _ended(connections)

    async def _accept(self) -> None:
        self._listener.setblocking(False)
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(client))
            self._connections.add(task)
            task.add_done_callback(partial(self._served, client))

    def _served(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        client.close()  # a task that is cancelled before it begins has closed nothing

    async def _serve(self, client: socket.socket) -> None:
        with client, self._dial() as server:
            try:
                client.setblocking(False)
                await self._loop.sock_connect(server, self.target)
                async with asyncio.TaskGroup() as tasks:  # when one end breaks, so does the other
                    self._pump(tasks, client, server, self._there)
                    self._pump(tasks, server, client, self._back)
            except* OSError:
                pass

    def _dial(self) -> socket.socket:
        server = _small(socket.socket(socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET))
        server.setblocking(False)
        return server

    def _pump(self, tasks: asyncio.TaskGroup, source: socket.socket, sink: socket.socket, link: Link) -> None:
        """Carry bytes until `source` closes. Two tasks, so that pieces follow each other during the latency."""
        pieces: Pieces = asyncio.Queue(64)
        tasks.create_task(self._take(source, link, pieces))
        tasks.create_task(self._deliver(pieces, sink))

    async def _take(self, source: socket.socket, link: Link, pieces: Pieces) -> None:
        piece = b"first"
        while piece:
            piece = await self._loop.sock_recv(source, PIECE_BYTES)
            await link.carry(len(piece))
            self.carried_bytes += len(piece)
            await pieces.put((time.monotonic() + self.latency_s, piece))

    async def _deliver(self, pieces: Pieces, sink: socket.socket) -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, piece)


def _small(end: socket.socket) -> socket.socket:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    return end


async def _ended(tasks: list[asyncio.Task[None]] | set[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """A proxy until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A slow TCP proxy on a free port of 127.0.0.1.")
    parser.add_argument("target", help="HOST:PORT, or the path of a unix socket")
    parser.add_argument("--bytes-per-s", type=float, default=1e6)
    parser.add_argument("--latency-s", type=float, default=0.0)
    chosen = parser.parse_args()
    host, _, port = chosen.target.rpartition(":")
    target = (host, int(port)) if host else chosen.target
    with ThrottledProxy(target, chosen.bytes_per_s, chosen.latency_s) as proxy, suppress(KeyboardInterrupt):
        print(f"127.0.0.1:{proxy.port}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
