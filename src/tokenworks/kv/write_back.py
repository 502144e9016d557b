"""Copies of the blocks in host memory, and of those that leave the disk, in the tiers where they should be. Pure.

A block taken into host memory is written to the nearest lower tier as soon as that has time, the most valuable first,
and gives way in memory after those that are safe. To the remote tier, where there is a disk too, go blocks that were
used again and those that leave the disk; and whatever goes there must be predicted to come back faster than it is
computed, for the tier is others' too, and may be far.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.format import BlockFault
from tokenworks.kv.host import Block, HostMemory
from tokenworks.kv.lower import SLOW, LowerTier
from tokenworks.kv.tasks import Move, Outcome, Write
from tokenworks.kv.writes import Entry

MAX_MOVES: Final = 2
"""Blocks on their way from the disk to the remote tier; where more leave the disk at once, they just leave."""
UNSAVED: Final = "unsaved"
"""Counted among a tier's faults: blocks that left host memory before they could be written to it."""


class WriteBack:
    """Writes from `host` to `lowers`, near to far."""

    def __init__(self, host: HostMemory, lowers: Mapping[Tier, LowerTier]) -> None:
        self._host = host
        self._lowers = lowers
        self._first = next(iter(lowers.values()), None)  # what is put goes on to this one
        self._writing: dict[tuple[Tier, BlockName], Block] = {}
        self._moves: list[Move] = []
        self._num_moves = 0
        host.is_unsaved = self._is_unsaved
        host.on_eviction = self._forget

    @property
    def is_done(self) -> bool:
        """Whether nothing has to be written any more, to a tier that takes it."""
        return not any(lower.has_writes for lower in self._lowers.values())

    def save(self, block: Block, now_s: float) -> None:
        """Have a block in host memory written to the tiers that should have it."""
        entry = Entry(block.num_bytes, block.parent, block.recompute_s)
        for lower in self._lowers.values():
            is_due = lower is self._first or block.is_reused
            if is_due and not lower.has(block.name):
                self._want(lower, block, entry, now_s)

    def would_save(self, name: BlockName, entry: Entry, now_s: float) -> bool:
        """Whether a block that was never used again would be written below, once it stood in host memory."""
        lower = self._first
        if lower is None or lower.has(name):
            return False
        if reason := _why_not(lower, name, entry, now_s):
            lower.unwritten[reason] += 1
        return not reason

    def _want(self, lower: LowerTier, block: Block, entry: Entry, now_s: float) -> None:
        """Have it written, where it is worth it. It is asked again at each use, and counted once where it is not."""
        if not (reason := _why_not(lower, block.name, entry, now_s)):
            lower.want_write(block.name, entry, now_s)
        elif lower.tier not in block.unwritten:
            block.unwritten.add(lower.tier)
            lower.unwritten[reason] += 1

    def take_tasks(self, now_s: float) -> list[Write | Move]:
        """What can be written now."""
        tasks: list[Write | Move] = []
        for lower in self._lowers.values():
            while (wish := lower.next_write(now_s)) is not None:
                tasks += self._start(lower, *wish, now_s)
        tasks += self._moves
        self._moves.clear()
        return tasks

    def write_ended(self, task: Write, outcome: Outcome, now_s: float) -> None:
        """A block has been written, or not."""
        lower = self._lowers[task.tier]
        block = self._writing.pop((task.tier, task.name))
        entry = Entry(block.num_bytes, block.parent, block.recompute_s)
        lower.write_ended(task.name, is_there=not outcome.error and outcome.fault is None)
        self._host.unpin(block)
        if outcome.error:
            lower.add_garbage(task.drop)
            self._failed(lower, now_s)
            if self._host.held(task.name) is block:
                self._want(lower, block, entry, now_s)
            return
        lower.writing.succeeded()
        lower.write_meter.wrote(block.num_bytes, outcome.cpu_s)
        if outcome.fault is not None:
            self._host.faults[outcome.fault] += 1
            self._host.drop(block)

    def move_ended(self, task: Move, outcome: Outcome, now_s: float) -> None:
        """A block has gone on to another tier, or not; either way it leaves the one where it was."""
        self._num_moves -= 1
        target, source = self._lowers[task.tier], self._lowers[task.source]
        source.add_garbage([task.name])
        if outcome.error:
            self._failed(target, now_s)
        elif outcome.fault is not None:
            source.faults[outcome.fault] += 1
        else:
            target.puts += 1
            target.found(task.name, outcome.num_bytes, now_s)

    def _start(self, lower: LowerTier, name: BlockName, entry: Entry, now_s: float) -> list[Write | Move]:
        block = self._host.held(name)
        victims = lower.victims(entry.num_bytes)
        if block is None or victims is None:
            return []
        for victim in victims:
            self._leave(lower, victim, now_s)
        lower.write_started(name, entry, now_s)
        self._writing[lower.tier, name] = self._host.pin(block)
        return [Write(lower.tier, name, block.offset, block.num_bytes, lower.take_garbage())]

    def _leave(self, lower: LowerTier, name: BlockName, now_s: float) -> None:
        """A block is dropped from a tier; what is worth it goes on to the remote one."""
        entry = lower.entry(name)
        lower.evict(name)
        if self._goes_on(lower, name, entry, now_s):
            self._num_moves += 1
            self._moves.append(Move(Tier.REMOTE, lower.tier, name, entry.num_bytes))
        else:
            lower.add_garbage([name])

    def _goes_on(self, lower: LowerTier, name: BlockName, entry: Entry, now_s: float) -> bool:
        remote = self._lowers.get(Tier.REMOTE)
        if remote is None or remote is lower or name in remote or self._num_moves >= MAX_MOVES:
            return False
        return remote.writing.is_up and remote.pays(entry.num_bytes, entry.recompute_s, now_s)

    def _failed(self, lower: LowerTier, now_s: float) -> None:
        lower.writing.failed(now_s)
        lower.faults[BlockFault.UNREACHABLE] += 1

    def _is_unsaved(self, name: BlockName) -> bool:
        lowers = self._lowers.values()
        return any(lower.is_queued(name) for lower in lowers) and not any(name in lower for lower in lowers)

    def _forget(self, block: Block) -> None:
        is_safe = any(block.name in lower for lower in self._lowers.values())
        for lower in self._lowers.values():
            if lower.writes.forget(block.name) and not is_safe:
                lower.faults[UNSAVED] += 1


def _why_not(lower: LowerTier, name: BlockName, entry: Entry, now_s: float) -> str:
    """Why a block that is not there is not to be written to a tier; empty where it is.

    Where reading it would be slower than computing it; a disk is presumed to be faster.
    """
    if lower.tier is Tier.REMOTE and not lower.pays(entry.num_bytes, entry.recompute_s, now_s):
        return SLOW
    return lower.why_not(name, entry, now_s)
