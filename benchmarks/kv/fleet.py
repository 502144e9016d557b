"""A whole system on this machine, started with a `tokenworks.toml` of its own and ended with the benchmark."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 180.0


@dataclass(frozen=True)
class Fleet:
    """A running system."""

    url: str
    pid: int

    def children(self, part: str) -> list[int]:
        """Process ids of the children whose command line has `tokenworks PART`."""
        rows = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        split = [row.split(None, 2) for row in rows.splitlines()[1:]]
        return [int(pid) for pid, ppid, args in split if int(ppid) == self.pid and f"tokenworks {part}" in args]

    def kill(self) -> None:
        """The whole system at once, as a power cut or the OOM killer would; its children die with it."""
        os.kill(self.pid, signal.SIGKILL)

    def ready(self) -> dict[str, Any]:
        """What `/health/ready` says."""
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    def metrics(self) -> str:
        """The Prometheus text."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's lines that have these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            if re.match(rf"{name}(_total)?[ {{]", line) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rpartition(" ")[2])
        return total

    def wait_until(self, workers: int, stores: int = 0) -> None:
        """Until so many are ready."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            ready = self.ready()
            if len(ready.get("workers", [])) >= workers and len(ready.get("stores", [])) >= stores:
                return
            time.sleep(0.1)
        raise TimeoutError(f"{self.ready()} after {START_S:g} s")


@contextmanager
def running(toml: str, log: Path | None = None) -> Iterator[Fleet]:
    """`tokenworks serve` with this configuration, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="tokenworks-bench-") as folder:
        config = Path(folder) / "tokenworks.toml"
        config.write_text(toml)
        command = [sys.executable, "-m", "tokenworks", "serve", "--port", "0", "--config", str(config)]
        with (log or Path(folder) / "log").open("w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield Fleet(_address(process, Path(output.name)), process.pid)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if match := re.search(r"serves .+ at (http://\S+)/v1", log.read_text()):
            return match[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the system did not start:\n{log.read_text()[-3000:]}")
