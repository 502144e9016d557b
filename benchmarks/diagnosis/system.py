"""A `tokenworks serve` with a ledger of its own: traffic to it, its processes, and what is found in its ledger."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from benchmarks.diagnosis.meanwhile import meanwhile
from tests.kv.throttle import ThrottledProxy
from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.errors import LedgerError
from tokenworks.observe.diagnose.diagnosis import diagnosis
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import SqlLedger, open_ledger

PATIENCE_S = 120.0  # a bound for a busy machine, not an expectation
ANSWER_S = 3 * PATIENCE_S
"""An answer's: what dies three times waits for three starts, each of which takes half a minute on a busy machine."""
POLL_S = 0.05
LAST_WORDS_NS = 60 * 10**9
SAMPLED = ("--ledger-sample-s", "1")
"""So that a window of two seconds has a sample of each worker and store in it."""
Body = dict[str, Any]
Ask = Callable[["System", int], None]


@dataclass
class System:
    """One that runs."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    numbers: Iterator[int] = field(default_factory=count)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # One for all: a new one takes 30 ms of processor.
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=ANSWER_S))
    link: ThrottledProxy | None = None  # to what is elsewhere, and may become slow
    server_pids: list[int] = field(default_factory=list)  # of the remote tier's server

    def complete(self, prompt: str, max_tokens: int = 24, key: str = "none", **more: Any) -> int:
        """The status of one completion that is exactly as long as wanted."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        headers = {"authorization": f"Bearer {key}"}
        return self.client.post(f"{self.url}/v1/completions", json=body | more, headers=headers).status_code

    def traffic(self, ask: Ask, seconds: float, at_a_time: int, at_least: int = 40) -> Window:
        """`ask` again and again, so many at a time, for so long and so often; what ended is in the ledger after it."""
        start_ns = time.time_ns()
        deadline = time.monotonic() + seconds
        asked: list[int] = []

        def client() -> None:
            while time.monotonic() < deadline or len(asked) < at_least:
                asked.append(next(self.numbers))
                ask(self, asked[-1])

        with ThreadPoolExecutor(at_a_time) as pool:
            for future in [pool.submit(client) for _ in range(at_a_time)]:
                future.result()
        return self.window_of(start_ns, len(asked))

    def window_of(self, start_ns: int, num_requests: int) -> Window:
        """From `start_ns` to the last of so many requests, all in the ledger; that a client has left shows late."""
        end_ns = time.time_ns()
        everything = Window(start_ns, end_ns + LAST_WORDS_NS)
        self.wait_for(lambda: self.num_records(everything) >= num_requests, f"{num_requests} records")
        with self.ledger() as ledger:
            extent = ledger.extent()
        return Window(start_ns, max(end_ns, extent.end_ns if extent else 0) + 1)

    @contextmanager
    def ledger(self) -> Iterator[SqlLedger]:
        """Its ledger, for reading; raises LedgerError while there is none."""
        with closing(open_ledger(self._ledger_settings)) as ledger:
            yield ledger

    def num_records(self, window: Window) -> int:
        """Requests that the ledger has of a window; 0 while there is no ledger yet."""
        try:
            with self.ledger() as ledger:
                return sum(cell.requests for cell in ledger.cells(window).values())
        except LedgerError:
            return 0

    def diagnose(self, window: Window, baseline: Window | None, *options: str) -> list[dict[str, Any]]:
        """The findings, as `tokenworks diagnose --json` tells them; with options the command itself is asked."""
        if options:
            return self.diagnose_by_command(window, baseline, *options)
        with self.ledger() as ledger:
            told = diagnosis(ledger, window, Settings(ledger=self._ledger_settings), None, baseline)
        return list(msgspec.to_builtins(told.findings))

    def diagnose_by_command(self, window: Window, baseline: Window | None, *options: str) -> list[dict[str, Any]]:
        """The same from a process of its own."""
        compared = () if baseline is None else ("--baseline", f"{_seconds(baseline[0])}..{_seconds(baseline[1])}")
        told = self.run("diagnose", *_between(window), *compared, "--json", *options)
        return list(json.loads(told)["findings"])

    @property
    def _ledger_settings(self) -> LedgerSettings:
        return LedgerSettings(path=str(self.folder / "state"))

    def run(self, *arguments: str) -> str:
        """The output of a command that reads this system's ledger."""
        command = [sys.executable, "-m", "tokenworks", *arguments]
        done = subprocess.run(command, env=_environment(self.folder), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pids(self, part: str) -> list[int]:
        """The processes of a part, "worker" or "gateway", by their start."""
        own = psutil.Process(self.process.pid).children()
        return sorted(child.pid for child in own if re.search(rf"-m tokenworks {part}\b", _command_line(child)))

    def join(self, name: str, address: str, *options: str) -> None:
        """Start one more worker by hand and wait until it is ready; it ends with the system."""
        command = [sys.executable, "-m", "tokenworks", "worker", "--id", name, "--gateway", address, *options]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(self.folder))
        self.others.append(process)
        self.wait_for(lambda: name in self.workers(), f"worker {name}")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Poll until true; fails after a long while."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"waited in vain for: {what}\n{self.log()}"
            time.sleep(POLL_S)

    def workers(self) -> list[str]:
        """Names of those that are ready."""
        try:
            return list(self.client.get(f"{self.url}/health/ready").json()["workers"])
        except (httpx.TransportError, KeyError):
            return []

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "serve.log").read_text(errors="replace")

    def stop(self) -> None:
        """Drain and end it."""
        for process in self.others:
            process.terminate()
            process.wait(PATIENCE_S)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.client.close()


def begin(folder: Path, *options: str, workers: int = 1) -> System:
    """Start one and wait until all its workers are ready; its ledger and its log are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenworks", "serve", "--port", "0", *SAMPLED, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(folder),
        )
    system = System(process, "", folder)
    address = re.compile(r"at (http://\S+)/v1")
    system.wait_for(lambda: address.search(system.log()), "the address")
    found = address.search(system.log())
    assert found is not None
    system.url = found[1]
    system.wait_for(lambda: len(system.workers()) >= workers, f"{workers} workers")
    return system


@contextmanager
def running(folder: Path, *options: str, workers: int = 1) -> Iterator[System]:
    """One that ends with the block."""
    system = begin(folder, *options, workers=workers)
    try:
        yield system
    finally:
        system.stop()


@contextmanager
def stopping(pids: Sequence[int], stopped_s: float, running_s: float) -> Iterator[None]:
    """Processes that get the processor only now and then, as beside a greedy neighbour."""

    def turns(is_over: threading.Event) -> None:
        while not is_over.is_set():
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            is_over.wait(stopped_s)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            is_over.wait(running_s)

    with meanwhile(turns):
        yield


def _command_line(process: psutil.Process) -> str:
    """Empty for one that ends at this moment."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TOKENWORKS_LEDGER_PATH": str(folder / "state")}


def _between(window: Window) -> tuple[str, ...]:
    return "--since", _seconds(window.start_ns), "--until", _seconds(window.end_ns)


def _seconds(at_ns: int) -> str:
    return f"{at_ns / 1e9:.6f}"
