"""Memory for KV that runs short, and tiers below it that turn slow.

Each system has a store with one lower tier. There is room for a few documents in the worker and in the store's memory,
and below them for all that are usual, so that usual requests fetch what they need from the lower tier.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.diagnosis.dear_model import write_dear_model
from benchmarks.diagnosis.faults import DOCUMENT, STEADY, beside
from benchmarks.diagnosis.place import Fault, Place
from benchmarks.diagnosis.slow_disk import slow_disk
from benchmarks.diagnosis.system import System, running, stopping
from tests.kv.tiers.conftest import RedisServer
from tokenworks.observe.ledger import Window

AT_A_TIME = 2
AT_LEAST = 24
NUM_USUAL = 16
NUM_TOO_MANY = 100
OPTIONS = (*STEADY, "--threads", "1", "--block-tokens", "128", "--kv-bytes", "2MiB", "--kv-host-bytes", "1MiB")
"""2,700 tokens in the worker and half as many in the store's memory; a document has 400."""
TEXT = DOCUMENT * 2


def of_a_document(system: System, number: int, documents: int = NUM_USUAL) -> None:
    """A short question about one of so many, one after the other."""
    system.complete(f"document {number % documents}: {TEXT} question {number}?", max_tokens=8)


def settle(system: System) -> None:
    """Every document has been computed, and has had the time to get to the lower tier."""
    system.traffic(of_a_document, 0.0, AT_A_TIME, at_least=2 * NUM_USUAL)


def usual(system: System) -> Window:
    return system.traffic(of_a_document, 2.0, AT_A_TIME, at_least=2 * NUM_USUAL)


def slow_files(system: System) -> Window:
    """The disk gives ten blocks a second, whoever asks."""
    with slow_disk(system.folder / "kv", seconds_a_file=0.1):
        return system.traffic(of_a_document, 2.0, AT_A_TIME, AT_LEAST)


def slow_server(system: System) -> Window:
    """The server of the remote tier gets the processor a twentieth of its time."""
    with stopping(system.server_pids, stopped_s=0.4, running_s=0.02):
        return system.traffic(of_a_document, 2.0, AT_A_TIME, AT_LEAST)


def many_documents(system: System) -> Window:
    """More documents than all tiers hold, one after the other."""
    return system.traffic(partial(of_a_document, documents=NUM_TOO_MANY), 2.0, AT_A_TIME, AT_LEAST)


def crowd(system: System) -> Window:
    """More long answers at a time than the KV memory holds."""

    def ask(system: System, number: int) -> None:
        system.complete(f"{number} The", max_tokens=300)

    return system.traffic(ask, 2.0, 16, AT_LEAST)


def rare_crowd(system: System) -> Window:
    """Memory is short now and then: some long answers meet, and most requests never do."""
    is_over = threading.Event()

    def ask(system: System, number: int) -> None:
        system.complete(f"{number} The", max_tokens=900)
        is_over.wait(0.5)

    with beside(system, ask, at_a_time=3):
        window = system.traffic(of_a_document, 4.0, AT_A_TIME, at_least=100)
        is_over.set()
    return window


@contextmanager
def with_disk(folder: Path) -> Iterator[System]:
    """A store with a disk tier that holds 40 documents."""
    model = str(write_dear_model(folder / "model"))
    options = ("--kv-disk-path", str(folder / "kv"), "--kv-disk-bytes", "12MiB")
    with running(folder, model, *OPTIONS, *options) as system:
        yield system


@contextmanager
def with_server(folder: Path) -> Iterator[System]:
    """A store with a remote tier: a Redis of its own."""
    model = str(write_dear_model(folder / "model"))
    redis = RedisServer(folder)
    redis.start()
    try:
        with running(folder, model, *OPTIONS, "--kv-remote", redis.url) as system:
            assert redis.process is not None
            system.server_pids = [redis.process.pid]
            yield system
    finally:
        redis.kill()


DISK = Place(
    "a store with a disk",
    with_disk,
    usual,
    (
        Fault("disk_stall", slow_files),
        Fault("cache_evicted", many_documents),
        Fault("preemption_thrashing", crowd),
    ),
    settle,
)
REMOTE = Place(
    "a store with a server",
    with_server,
    usual,
    (Fault("late_by_preemption", rare_crowd), Fault("remote_stall", slow_server)),
    settle,
)
