"""Workers that die, and records that are lost, in a system of one worker and no KV store.

With one worker a loss is all there is: what ran waits for the restart, as does what comes meanwhile, and the cache is
gone. One kill is the fault of three rules therefore.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.diagnosis.faults import DOCUMENT, beside
from benchmarks.diagnosis.meanwhile import meanwhile
from benchmarks.diagnosis.system import System
from tokenworks.observe.ledger import Window

AT_A_TIME = 4
NUM_PAGES = 24
"""So many that a round through all of them is what a cache is for: each page is asked about again and again."""
PAGE = DOCUMENT[: len(DOCUMENT) // 2]
LIVES = 3
DAMAGE_BYTES = 64


def of_a_page(system: System, number: int, max_tokens: int = 24) -> int:
    """A short question about one of the pages; the answer's status."""
    return system.complete(f"page {number % NUM_PAGES}: {PAGE} question {number}?", max_tokens)


def damaged_journal(system: System) -> Window:
    """Some bytes of the journal turn bad on the disk before they are read."""
    start_ns = time.time_ns()
    [observer] = system.pids("observer")
    with stopped(observer):
        before_bytes = max(journal.stat().st_size for journal in _journals(system))
        with beside(system, of_a_page, AT_A_TIME):
            system.wait_for(lambda: _grown(system, before_bytes), "records in the journal")
        journal = max(_journals(system), key=lambda path: path.stat().st_size)
        with journal.open("r+b") as file:
            file.seek((before_bytes + journal.stat().st_size) // 2)
            file.write(os.urandom(DAMAGE_BYTES))
    system.wait_for(lambda: _has_gap(system, start_ns), "the reader to come past it")
    return system.window_of(start_ns, 1)


def killed_worker(system: System) -> Window:
    """The only worker dies once, at work; when it is back all pages are cold."""
    start_ns = time.time_ns()
    with beside(system, of_a_page, AT_A_TIME):
        time.sleep(0.2)
        kill_worker(system)
        system.wait_for(lambda: not system.workers(), "its death to be known")
        system.wait_for(system.workers, "the worker to be back")
    system.traffic(of_a_page, 0.0, AT_A_TIME, at_least=NUM_PAGES)
    return system.window_of(start_ns, 1)


def deadly_requests(system: System) -> Window:
    """Whoever computes these requests dies of them, as of too little memory, until they fail."""
    system.wait_for(system.workers, "a worker to die")
    with kept_from_living(system):
        return system.traffic(_long, 0.0, at_a_time=24, at_least=24)


def _long(system: System, number: int) -> None:
    system.complete(f"{number} The", max_tokens=1500)


@contextmanager
def kept_from_living(system: System) -> Iterator[None]:
    """As long as the block lasts, the worker is killed whenever it is ready and at work."""

    def watch(is_over: threading.Event) -> None:
        while not is_over.wait(0.3):
            if system.workers():
                is_over.wait(0.3)  # it has taken what waited for it
                kill_worker(system)
                system.wait_for(lambda: not system.workers() or is_over.is_set(), "its death to be known")

    with meanwhile(watch):
        yield


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def kill_worker(system: System) -> None:
    """At once, whatever it does."""
    for pid in system.pids("worker"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _journals(system: System) -> list[Path]:
    return list((system.folder / "state" / "journal").glob("*.journal"))


def _grown(system: System, before_bytes: int) -> bool:
    return max(journal.stat().st_size for journal in _journals(system)) > before_bytes + 20_000


def _has_gap(system: System, since_ns: int) -> bool:
    with system.ledger() as ledger:
        return bool(ledger.gaps(Window(since_ns, time.time_ns())))
