"""A gateway, a worker and an observer that are killed and started again, each a real process with its own log."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

GATEWAY: Final = "gateway"
WORKER: Final = "worker"
OBSERVER: Final = "observer"
EVERYTHING: Final = (GATEWAY, WORKER, OBSERVER)
PATIENCE_S: Final = 180.0  # a bound for a busy machine, not an expectation
_POLL_S: Final = 0.02


class Kill(NamedTuple):
    """One SIGKILL; by the monotonic clock."""

    parts: tuple[str, ...]
    before_s: float
    after_s: float


class Parts:
    """Of one system, below one folder."""

    def __init__(self, folder: Path, database: str = "", more: Sequence[str] = ()) -> None:
        """`database`: of the ledger, where it is not SQLite's; `more`: options of the gateway."""
        self.folder = folder
        self.kills: list[Kill] = []
        self.lives_s: dict[str, float] = {}  # by part, how long all its processes lived together
        self._database = ["--ledger-database", database] if database else []
        self._more = list(more)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s: dict[str, float] = {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self._address = f"ipc://{folder}/workers"

    def start(self, parts: Sequence[str] = EVERYTHING) -> None:
        """Start these, and wait until requests are answered."""
        for part in parts:
            with (self.folder / f"{part}.log").open("ab") as log:
                command = [sys.executable, "-m", "tokenworks", part, *self._options(part)]
                self._started_s[part] = time.monotonic()
                self._processes[part] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.wait_for(self._is_ready, "a system that answers")

    def kill(self, parts: Sequence[str]) -> None:
        """SIGKILL, all of them in a row."""
        before_s = time.monotonic()
        for part in parts:
            self._processes[part].send_signal(signal.SIGKILL)
        self.kills.append(Kill(tuple(parts), before_s, time.monotonic()))
        for part in parts:
            self._end(part)

    def stop(self) -> None:
        """The good way, in the order in which a supervisor does it, once all that was written down is in the ledger.

        An observer has taken in a journal when it deletes it; one that is just starting has no time to.
        """
        for part in (GATEWAY, WORKER):
            self._ask_to_end(part)
        self.wait_for(lambda: not list((self.folder / "state" / "journal").glob("*.journal")), "the journal's end")
        self._ask_to_end(OBSERVER)

    def end(self) -> None:
        """Leave no process behind."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until true; fails after a long while, or where a part has ended by itself."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            gone = [part for part, process in self._processes.items() if process.poll() is not None]
            if gone or time.monotonic() > deadline_s:
                raise RuntimeError(f"waited in vain for {what}; gone: {gone}; logs are in {self.folder}")
            time.sleep(_POLL_S)

    def _ask_to_end(self, part: str) -> None:
        process = self._processes.pop(part)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        self._note_end(part)

    def _end(self, part: str) -> None:
        self._processes[part].wait(PATIENCE_S)
        self._note_end(part)

    def _note_end(self, part: str) -> None:
        lived_s = time.monotonic() - self._started_s[part]
        self.lives_s[part] = self.lives_s.get(part, 0.0) + lived_s

    def _options(self, part: str) -> list[str]:
        ledger = ["--ledger-path", str(self.folder / "state"), *self._database]
        if part == GATEWAY:
            return ["--port", str(self.port), "--worker-address", self._address, *ledger, *self._more]
        if part == WORKER:
            return ["--id", "w0", "--gateway", self._address, "--threads", "1", "--price-per-hour", "3.6"]
        return ledger

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def lower_priority() -> None:
    """For this process and what it starts: a test of durability is in no hurry."""
    os.nice(max(0, 10 - os.nice(0)))
