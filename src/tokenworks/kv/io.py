"""The store's I/O threads: each task is done through its tier's own threads and reported when it is over.

A tier that hangs holds up its own threads and nobody else's; they are daemons, so that it does not hold up the end of
the process either. What comes from a tier is verified here, once, before anybody is told of it: the store itself never
hashes on its loop. Of what goes to the disk only the header is: the publisher has just summed the payload, whoever
reads it does so again, and once more took as long as writing it. What others read too is verified whole.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Final

from tokenworks.contract.kv import NAME_BYTES, BlockName, KVSpec, Tier
from tokenworks.kv.arena import Arena
from tokenworks.kv.format import BadBlock, BlockFault, Header, block_bytes, check_payload, read_header, seal
from tokenworks.kv.tasks import Check, Lookup, Move, Outcome, Probe, Read, Scan, Task, Write
from tokenworks.kv.tiers.tier import BlockTier, TierError

log = logging.getLogger(__name__)

THREADS: Final = 7
"""A tier: four reads, a scan, a probe and a look-up may be under way together."""
BACKGROUND_THREADS: Final = 3
"""A tier: a write and two moves, which nobody waits for."""
BACKGROUND_NICE: Final = 10
"""Of those: the same cores compute, and a step waits for its slowest thread."""
ROUND_TRIPS: Final = 3
"""The first may have to connect; the fastest is the tier's latency."""
SCAN_PART: Final = 1000
"""Names told at a time, so that what has been found can be served before the whole folder has been seen."""
_PROBE_SPEC: Final = KVSpec("tokenworks probe", 1, 1, 64, 512, "float32")  # 256 KiB
_ABSENT: Final = blake2b(b"tokenworks: no block has this name", digest_size=NAME_BYTES).digest()


class TierThreads:
    """Threads for `tiers`, and one for the arena alone. `wake` is called, from them, after each outcome."""

    def __init__(self, arena: Arena, tiers: Mapping[Tier, BlockTier], wake: Callable[[], None]) -> None:
        self._arena = arena
        self._tiers = tiers
        self._wake = wake
        self._outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self._queues = {tier: self._serve(f"kv-{tier}", THREADS) for tier in tiers}
        self._background = {tier: self._serve(f"kv-{tier}-back", BACKGROUND_THREADS, is_nice=True) for tier in tiers}
        self._queues[Tier.HOST] = self._serve("kv-host", 1)

    def _serve(self, name: str, num_threads: int, *, is_nice: bool = False) -> SimpleQueue[Task]:
        """A queue that so many threads work off."""
        queue: SimpleQueue[Task] = SimpleQueue()
        for number in range(num_threads):
            arguments = {"queue": queue, "is_nice": is_nice}
            threading.Thread(target=self._run, kwargs=arguments, name=f"{name}-{number}", daemon=True).start()
        return queue

    def start(self, task: Task) -> None:
        """Have it done."""
        queues = self._background if isinstance(task, Write | Move) else self._queues
        queues[task.tier].put(task)

    def outcomes(self) -> list[Outcome]:
        """What has ended since the last call."""
        found: list[Outcome] = []
        while True:
            try:
                found.append(self._outcomes.get_nowait())
            except Empty:
                return found

    def _run(self, queue: SimpleQueue[Task], is_nice: bool) -> None:
        if is_nice:
            with suppress(OSError, AttributeError):  # a thread has a niceness of its own on Linux only
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICE)
        while True:
            task = queue.get()
            start_s = time.monotonic()
            try:
                outcome = self._do(task, start_s)
            except (TierError, OSError) as error:
                outcome = Outcome(task, start_s, time.monotonic(), error=str(error) or type(error).__name__)
            except BadBlock as bad:
                outcome = Outcome(task, start_s, time.monotonic(), fault=bad.fault)
            except Exception as error:  # a tier's library, say: who waits is told, and the thread lives for the next
                log.exception("%s of the %s tier failed: this is a bug", type(task).__name__, task.tier)
                outcome = Outcome(task, start_s, time.monotonic(), error=f"{type(error).__name__}: {error}")
            self._report(outcome)

    def _report(self, outcome: Outcome) -> None:
        self._outcomes.put(outcome)
        self._wake()

    def _do(self, task: Task, start_s: float) -> Outcome:
        match task:
            case Read():
                return self._read(task, start_s)
            case Write():
                return self._write(task, start_s)
            case Move():
                return self._move(task, start_s)
            case Check():
                verified(self._arena.view(task.offset, task.num_bytes), task.name)
                return Outcome(task, start_s, time.monotonic())
            case Probe():
                return probe(self._tiers[task.tier], task)
            case Lookup():
                return self._look_up(task, start_s)
            case Scan():
                return self._scan(task, start_s)
        raise AssertionError(f"no task: {task}")

    def _read(self, task: Read, start_s: float) -> Outcome:
        into = self._arena.view(task.offset, task.num_bytes)
        num_bytes, header = read_verified(self._tiers[task.tier], task.name, into)
        return Outcome(task, start_s, time.monotonic(), num_bytes=num_bytes, parent=header.parent)

    def _write(self, task: Write, start_s: float) -> Outcome:
        cpu_s = time.thread_time()
        tier = self._tiers[task.tier]
        if task.drop:
            tier.delete(task.drop)
        block = self._arena.view(task.offset, task.num_bytes)
        (verified if task.tier is Tier.REMOTE else named)(block, task.name)
        tier.put(task.name, block)
        return Outcome(task, start_s, time.monotonic(), cpu_s=time.thread_time() - cpu_s)

    def _move(self, task: Move, start_s: float) -> Outcome:
        block = memoryview(bytearray(task.num_bytes))
        try:
            num_bytes, header = read_verified(self._tiers[task.source], task.name, block)
        except TierError as error:  # the source's failure is no failure of the target
            raise BadBlock(BlockFault.UNREACHABLE, str(error)) from error
        self._tiers[task.tier].put(task.name, block[:num_bytes])
        return Outcome(task, start_s, time.monotonic(), num_bytes=num_bytes, parent=header.parent)

    def _look_up(self, task: Lookup, start_s: float) -> Outcome:
        found = self._tiers[task.tier].held(task.names)
        return Outcome(task, start_s, time.monotonic(), found=tuple(found.items()))

    def _scan(self, task: Scan, start_s: float) -> Outcome:
        names = iter(self._tiers[task.tier].names())
        while part := tuple(islice(names, SCAN_PART)):
            self._report(Outcome(task, start_s, time.monotonic(), found=part, is_last=False))
        return Outcome(task, start_s, time.monotonic())


def verified(block: memoryview, name: BlockName) -> Header:
    """The header of a block that is whole and bears this name, whatever its model; raises BadBlock."""
    header = named(block, name)
    check_payload(block, header)
    return header


def named(block: memoryview, name: BlockName) -> Header:
    """The header of a block that bears this name, whatever its payload; raises BadBlock."""
    header = read_header(block)
    if header.name != name:
        raise BadBlock(BlockFault.NAME, f"wanted block {name.hex()}, this is {header.name.hex()}")
    return header


def read_verified(tier: BlockTier, name: BlockName, into: memoryview) -> tuple[int, Header]:
    """Bytes and header of a block read from a tier; a bad one is deleted there. Raises BadBlock, TierError."""
    num_bytes = tier.get(name, into)
    if not num_bytes:
        raise BadBlock(BlockFault.MISSING, f"no block {name.hex()} where one should be")
    try:
        return num_bytes, verified(into[:num_bytes], name)
    except BadBlock:
        tier.delete([name])
        raise


def probe(tier: BlockTier, task: Probe) -> Outcome:
    """Latency and speed of one tier: an empty round trip, then a block that it holds, or a small one of our own."""
    latency_s = min(_round_trip_s(tier) for _ in range(ROUND_TRIPS))
    if task.sample is None:
        return _probe_by_own(tier, task, latency_s)
    name, num_bytes = task.sample
    into = memoryview(bytearray(num_bytes))
    start_s = time.monotonic()
    try:
        num_bytes, _ = read_verified(tier, name, into)
    except BadBlock as bad:
        return Outcome(task, start_s, time.monotonic(), fault=bad.fault, latency_s=latency_s)
    return Outcome(task, start_s, time.monotonic(), num_bytes=num_bytes, latency_s=latency_s)


def _round_trip_s(tier: BlockTier) -> float:
    start_s = time.monotonic()
    tier.get(_ABSENT, memoryview(bytearray(NAME_BYTES)))
    return time.monotonic() - start_s


def _probe_by_own(tier: BlockTier, task: Probe, latency_s: float) -> Outcome:
    name, block = _own_block()
    try:
        tier.put(name, block)
    except TierError as error:
        now_s = time.monotonic()
        return Outcome(task, now_s, now_s, write_error=error.message, latency_s=latency_s)
    start_s = time.monotonic()
    num_bytes = tier.get(name, memoryview(bytearray(len(block))))
    end_s = time.monotonic()
    tier.delete([name])
    return Outcome(task, start_s, end_s, num_bytes=num_bytes, latency_s=latency_s)


def _own_block() -> tuple[BlockName, memoryview]:
    """A sealed block of this host's own name, of bytes that no compression makes smaller."""
    name = blake2b(f"tokenworks probe of {socket.gethostname()}".encode(), digest_size=NAME_BYTES).digest()
    block = memoryview(bytearray(block_bytes(_PROBE_SPEC)))
    block[-_PROBE_SPEC.bytes_per_block :] = random.Random(0).randbytes(_PROBE_SPEC.bytes_per_block)
    seal(block, _PROBE_SPEC, name, name)
    return name, block
