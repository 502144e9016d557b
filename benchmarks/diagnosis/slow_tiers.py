"""Tiers of the KV store that turn slow.

Each system has a store with one lower tier. There is room for a few documents in the worker and in the store's memory,
and for all that are usual below them: so it is the lower tier that usual requests fetch from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.diagnosis.dear_model import write_dear_model
from benchmarks.diagnosis.faults import DOCUMENT, STEADY, usual_anew
from benchmarks.diagnosis.place import Fault, Place
from benchmarks.diagnosis.slow_disk import slow_disk
from benchmarks.diagnosis.system import System, running, stopping
from tests.kv.tiers.conftest import RedisServer
from tokenworks.contract.kv import Tier
from tokenworks.observe.ledger import Window

AT_A_TIME = 1
AT_LEAST = 24
NUM_TOGETHER = 6
NUM_DOCUMENTS = 12
TEXT = 3 * DOCUMENT
PATIENCE_S = 90.0
"""Until documents are fetched: seconds, even after a fault; more is for a machine that is busy."""
FETCHED_SHARE = 0.3
OPTIONS = (*STEADY, "--threads", "2", "--block-tokens", "64", "--kv-bytes", "2MiB", "--kv-host-bytes", "1MiB")
"""42 blocks in the worker and 21 in the memory of the store; a document has 9 that are full. They are so small that the
store writes them through the page cache: the disk of the machine takes no part."""


def of_a_document(system: System, number: int) -> None:
    """A short question about one of them, one after the other."""
    system.complete(f"document {number % NUM_DOCUMENTS}: {TEXT} question {number}?", max_tokens=4)


def settle(system: System) -> None:
    """Every document has been computed, is in the lower tier, and is fetched from there."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        window = system.traffic(of_a_document, 0.0, AT_A_TIME, NUM_DOCUMENTS)
        if fetched_share(system, window) > FETCHED_SHARE:
            return


def fetched_share(system: System, window: Window) -> float:
    """The part of the prompts that was found in a lower tier."""
    with system.ledger() as ledger:
        [cell] = ledger.cells(window).values()
    return (cell.cached_tokens.get(Tier.DISK, 0) + cell.cached_tokens.get(Tier.REMOTE, 0)) / cell.prompt_tokens


def usual(system: System) -> Window:
    return system.traffic(of_a_document, 1.5, AT_A_TIME, AT_LEAST)


def slow_files(system: System) -> Window:
    """The disk gives ten blocks a second, whoever asks."""
    with slow_disk(system.folder / "kv", seconds_a_file=0.1):
        return usual(system)


def slow_server(system: System) -> Window:
    """The server of the remote tier gets the processor a twentieth of its time."""
    with stopping(system.server_pids, stopped_s=0.4, running_s=0.02):
        return usual(system)


def many_at_a_time(system: System) -> Window:
    """Short questions that share their steps."""
    system.traffic(usual_anew, 0.5, NUM_TOGETHER)
    return system.traffic(usual_anew, 1.5, NUM_TOGETHER)


def one_at_a_time(system: System) -> Window:
    """The same when everybody has gone to lunch but one."""
    return system.traffic(usual_anew, 1.5, AT_A_TIME, AT_LEAST)


@contextmanager
def with_disk(folder: Path) -> Iterator[System]:
    """Its lower tier is a folder."""
    model = str(write_dear_model(folder / "model"))
    with running(folder, model, *OPTIONS, "--kv-disk-path", str(folder / "kv"), "--kv-disk-bytes", "64MiB") as system:
        yield system


@contextmanager
def with_server(folder: Path) -> Iterator[System]:
    """Its lower tier is a Redis of its own."""
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
        Fault("disk_stall", slow_files, frozenset({"cost_by_cache"})),
        Fault("cost_by_batch", one_at_a_time, usual=many_at_a_time),
    ),
    settle,
)
SERVER = Place(
    "a store with a server",
    with_server,
    usual,
    (Fault("remote_stall", slow_server, frozenset({"cost_by_cache"})),),
    settle,
)
