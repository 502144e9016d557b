"""What the I/O threads do with each task, over tiers that are dictionaries, and what they say of it."""

from __future__ import annotations

import threading

import pytest

from tests.kv.chain import ChainBlock, chain
from tests.kv.test_slow_tier import HangingTier
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.arena import Arena, create_arena
from tokenworks.kv.format import BlockFault
from tokenworks.kv.io import SCAN_PART, THREADS, TierThreads
from tokenworks.kv.tasks import Check, Lookup, Move, Outcome, Probe, Read, Scan, Task, Write
from tokenworks.kv.tiers.tier import PutRefused, TierError

PATIENCE_S = 60.0
BLOCK, OTHER = chain(2)
SIZE = len(BLOCK.content)


class FailingTier(HangingTier):
    """Cannot be read; `takes` says whether it can be written."""

    def __init__(self, takes: bool) -> None:
        super().__init__({})
        self.takes = takes

    def put(self, name: BlockName, block: memoryview) -> None:
        if not self.takes:
            raise PutRefused("full")

    def get(self, name: BlockName, into: memoryview) -> int:
        raise TierError("gone")


class BrokenTier(HangingTier):
    """Raises what no tier should."""

    def get(self, name: BlockName, into: memoryview) -> int:
        return 1 // 0


class Threads:
    """Threads over an arena and two tiers."""

    def __init__(self, disk: HangingTier, remote: HangingTier) -> None:
        self.disk, self.remote = disk, remote
        self.arena: Arena = create_arena(1 << 16, 1 << 16)
        self._woken = threading.Semaphore(0)
        self._threads = TierThreads(self.arena, {Tier.DISK: disk, Tier.REMOTE: remote}, self._woken.release)
        self._outcomes: list[Outcome] = []

    def do(self, task: Task, parts: int = 1) -> list[Outcome]:
        self._threads.start(task)
        for _ in range(parts):
            assert self._woken.acquire(timeout=PATIENCE_S)
        return self._threads.outcomes()

    def one(self, task: Task) -> Outcome:
        (outcome,) = self.do(task)
        assert outcome.task == task
        assert outcome.end_s >= outcome.start_s
        return outcome

    def holding(self, block: ChainBlock) -> None:
        """Stand a block at the arena's start."""
        self.arena.view(0, SIZE)[:] = block.content


@pytest.fixture
def threads() -> Threads:
    return Threads(HangingTier({BLOCK.name: BLOCK.content}), HangingTier({}))


def test_a_read_brings_the_block_and_its_parent(threads: Threads) -> None:
    outcome = threads.one(Read(Tier.DISK, BLOCK.name, 4096, SIZE))
    assert (outcome.fault, outcome.num_bytes, outcome.parent) == (None, SIZE, BLOCK.parent)
    assert threads.arena.view(4096, SIZE) == BLOCK.content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", BlockFault.MISSING),
        (BLOCK.content[:-1], BlockFault.TORN),
        (BLOCK.content[:50], BlockFault.TORN),
        (BLOCK.content[:-1] + bytes([BLOCK.content[-1] ^ 1]), BlockFault.CHECKSUM),
        (OTHER.content, BlockFault.NAME),
        (BLOCK.content[:4] + b"\x09\x00" + BLOCK.content[6:], BlockFault.VERSION),
    ],
)
def test_a_bad_block_is_a_fault_and_deleted(threads: Threads, content: bytes, fault: BlockFault) -> None:
    threads.disk.blocks[BLOCK.name] = content
    assert threads.one(Read(Tier.DISK, BLOCK.name, 0, SIZE)).fault is fault
    assert not threads.disk.blocks.get(BLOCK.name)


def test_a_write_drops_first_and_then_keeps(threads: Threads) -> None:
    threads.holding(OTHER)
    outcome = threads.one(Write(Tier.DISK, OTHER.name, 0, SIZE, (BLOCK.name,)))
    assert (outcome.fault, outcome.error) == (None, "")
    assert threads.disk.blocks == {OTHER.name: OTHER.content}


def test_what_is_bad_in_memory_is_not_written_where_others_read(threads: Threads) -> None:
    threads.holding(OTHER)
    threads.arena.view(0, SIZE)[300] ^= 4
    assert threads.one(Write(Tier.REMOTE, OTHER.name, 0, SIZE)).fault is BlockFault.CHECKSUM
    assert threads.one(Check(Tier.HOST, OTHER.name, 0, SIZE)).fault is BlockFault.CHECKSUM
    assert OTHER.name not in threads.remote.blocks


def test_what_is_bad_in_memory_is_found_when_the_disk_is_read(threads: Threads) -> None:
    threads.holding(OTHER)
    threads.arena.view(0, SIZE)[300] ^= 4
    assert threads.one(Write(Tier.DISK, OTHER.name, 0, SIZE)).fault is None
    assert threads.one(Read(Tier.DISK, OTHER.name, 0, SIZE)).fault is BlockFault.CHECKSUM
    assert OTHER.name not in threads.disk.blocks


def test_what_is_another_block_in_memory_is_not_written_anywhere(threads: Threads) -> None:
    threads.holding(OTHER)
    for tier in (Tier.DISK, Tier.REMOTE):
        assert threads.one(Write(tier, BLOCK.name, 0, SIZE)).fault is BlockFault.NAME
    assert threads.remote.blocks == {}


def test_a_write_tells_what_it_took_of_a_processor(threads: Threads) -> None:
    threads.holding(OTHER)
    outcome = threads.one(Write(Tier.DISK, OTHER.name, 0, SIZE))
    assert outcome.cpu_s > 0


def test_a_move_copies_past_the_arena(threads: Threads) -> None:
    assert threads.one(Move(Tier.REMOTE, Tier.DISK, BLOCK.name, SIZE)).num_bytes == SIZE
    assert threads.remote.blocks == threads.disk.blocks
    assert threads.arena.view(0, SIZE) == bytes(SIZE)


def test_a_move_out_of_a_tier_that_fails_is_no_failure_of_the_other() -> None:
    threads = Threads(FailingTier(takes=True), HangingTier({}))
    outcome = threads.one(Move(Tier.REMOTE, Tier.DISK, BLOCK.name, SIZE))
    assert (outcome.error, outcome.fault) == ("", BlockFault.UNREACHABLE)


def test_a_tier_that_fails_is_reported_with_its_own_words() -> None:
    threads = Threads(FailingTier(takes=False), HangingTier({}))
    threads.holding(BLOCK)
    assert threads.one(Read(Tier.DISK, BLOCK.name, 0, SIZE)).error == "gone"
    assert threads.one(Write(Tier.DISK, BLOCK.name, 8192, SIZE)).fault is not None  # nothing stands there
    threads.holding(BLOCK)
    assert threads.one(Write(Tier.DISK, BLOCK.name, 0, SIZE)).error == "full"
    assert threads.one(Probe(Tier.DISK)).error == "gone"


def test_a_bug_in_a_tier_is_told_to_who_waits_and_leaves_the_threads_alive(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads(BrokenTier({}), HangingTier({}))
    for _ in range(2 * THREADS):
        assert threads.one(Read(Tier.DISK, BLOCK.name, 0, SIZE)).error.startswith("ZeroDivisionError")
    assert "Read of the disk tier failed: this is a bug" in caplog.text


def test_a_probe_reads_a_block_that_is_there_or_leaves_nothing_of_its_own(threads: Threads) -> None:
    assert threads.one(Probe(Tier.DISK, (BLOCK.name, SIZE))).num_bytes == SIZE
    assert threads.one(Probe(Tier.DISK, (OTHER.name, SIZE))).fault is BlockFault.MISSING
    outcome = threads.one(Probe(Tier.REMOTE))
    assert outcome.num_bytes > 256 << 10
    assert threads.remote.blocks == {}


def test_a_probe_of_a_full_tier_still_measures_its_latency() -> None:
    full = HangingTier({})
    full.put = FailingTier(takes=False).put  # type: ignore[method-assign]
    outcome = Threads(HangingTier({}), full).one(Probe(Tier.REMOTE))
    assert (outcome.error, outcome.write_error, outcome.num_bytes) == ("", "full", 0)


def test_a_scan_tells_names_in_parts(threads: Threads) -> None:
    threads.disk.blocks = {index.to_bytes(16): b"x" for index in range(SCAN_PART + 1)}
    outcomes = threads.do(Scan(Tier.DISK), parts=3)
    assert [(len(outcome.found), outcome.is_last) for outcome in outcomes] == [
        (SCAN_PART, False),
        (1, False),
        (0, True),
    ]


def test_a_lookup_says_which_are_held(threads: Threads) -> None:
    outcome = threads.one(Lookup(Tier.DISK, (BLOCK.name, OTHER.name), 1))
    assert outcome.found == ((BLOCK.name, SIZE),)
