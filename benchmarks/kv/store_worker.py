"""A worker's end of a running KV store, and the store: what `benchmarks.kv_store` measures.

Blocks are those of Qwen3-0.6B's shape: 32 tokens in bfloat16, 3.5 MiB. The store is a process of its own.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import zmq

from tokenworks.contract.kv import BlockName, KVSpec, child_name, root_name
from tokenworks.kv.client import KVClient, StoreEvent, StoreLost
from tokenworks.kv.format import block_bytes, seal, verify
from tokenworks.kv.protocol import Found, Granted, Missing, Offered, Ready

SPEC = KVSpec("benchmark", 28, 8, 128, 32, "bfloat16")
SIZE = block_bytes(SPEC)
ROOT = root_name(SPEC.fingerprint)
HOST_BYTES = 64 * (SIZE + 4096)
WAIT_S = 120.0
EventT = TypeVar("EventT", bound=StoreEvent)


class Worker:
    """This process's end."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.client = KVClient(self._context, address, "benchmark", SPEC)
        self._num_requests = 0
        self._events: list[StoreEvent] = []

    def until_attached(self) -> None:
        end_s = time.monotonic() + WAIT_S
        while not self.client.is_attached:
            if time.monotonic() > end_s:
                sys.exit("the store does not answer")
            self.client.socket.poll(5)
            self.client.receive()

    def put(self, names: Sequence[BlockName], blocks: Sequence[memoryview]) -> None:
        """Offer, copy, commit, and wait until the last can be found."""
        self.client.offer([Offered(name, ROOT, SIZE, 0.09) for name in names])
        places = self._until(Granted, lambda granted: True).places
        if len(places) != len(names):
            sys.exit(f"the store took {len(places)} of {len(names)} blocks")
        for place, block in zip(places, blocks, strict=True):
            self.client.memory(place)[:] = block
        self.client.commit([place.name for place in places])
        self.find(names)

    def find(self, names: Sequence[BlockName]) -> int:
        """How many of these are held, without a gap."""
        self._num_requests += 1
        request = str(self._num_requests)
        self.client.find(request, list(names))
        return len(self._until(Found, lambda found: found.request == request).tiers)

    def get(self, names: Sequence[BlockName], into: memoryview, is_verified: bool = False) -> None:
        """Copy each out of shared memory, as it comes."""
        self._num_requests += 1
        request = str(self._num_requests)
        self.client.get(request, list(names))
        num_left = len(names)
        while num_left:
            for place in self._until(Ready, lambda ready: ready.request == request).places:
                into[:] = self.client.memory(place)
                if is_verified:
                    verify(into, place.name, SPEC.fingerprint)
                num_left -= 1
        self.client.done(request)

    def close(self) -> None:
        self.client.close()
        self._context.term()

    def _until(self, kind: type[EventT], is_it: Callable[[EventT], bool]) -> EventT:
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            for index, event in enumerate(self._events):
                if isinstance(event, kind) and is_it(event):
                    del self._events[index]
                    return event
                if isinstance(event, Missing | StoreLost):
                    sys.exit(f"the store lost a block: {event.reason}")
            self.client.socket.poll(1000)
            self._events += self.client.receive()
        sys.exit(f"no {kind.__name__} came")


@contextmanager
def running_store(folder: Path, disk: Path | None = None, disk_bytes: int = 64 << 30) -> Iterator[Worker]:
    """A store process and a worker that is attached to it; killed at the end."""
    address = f"ipc://{folder}/store"
    command = [sys.executable, "-m", "tokenworks", "kvstore", "--id", "kv0", "--gateway", f"ipc://{folder}/gateway"]
    command += ["--kv-store-address", address, "--kv-host-bytes", str(HOST_BYTES), "--log-level", "warning"]
    command += ["--kv-disk-path", str(disk), "--kv-disk-bytes", str(disk_bytes)] if disk is not None else []
    process = subprocess.Popen(command)
    worker = Worker(address)
    try:
        worker.until_attached()
        yield worker
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        worker.close()


def sealed(count: int, seed: object) -> tuple[list[BlockName], list[memoryview]]:
    """Blocks of random bytes, each of another name; the bytes after the header are the same."""
    names, blocks = [], []
    content = bytearray(SIZE)
    content[-SPEC.bytes_per_block :] = random.Random(str(seed)).randbytes(SPEC.bytes_per_block)
    for index in range(count):
        name = child_name(ROOT, [random.Random(f"{seed} {index}").getrandbits(32)])
        block = memoryview(bytearray(content))
        seal(block, SPEC, name, ROOT)
        names.append(name)
        blocks.append(block)
    return names, blocks
