"""A redis-server of the benchmark's own, behind a line of a given speed."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.kv.throttle import ThrottledProxy

START_S = 10.0


@contextmanager
def slow_redis(bytes_per_s: float) -> Iterator[str]:
    """Its URL; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="tokenworks-redis-") as folder:
        path = f"{folder}/redis.sock"
        options = ["--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--maxmemory", "2gb"]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            _wait_for(path)
            with ThrottledProxy(path, bytes_per_s) as proxy:
                yield f"redis://127.0.0.1:{proxy.port}"
        finally:
            server.terminate()
            server.wait(10)


def _wait_for(path: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"redis-server does not answer at {path} after {START_S:g} s")
        time.sleep(0.05)
