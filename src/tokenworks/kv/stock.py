"""All blocks of one host, in whatever tier: taking them in, bringing them into memory, keeping what is known true.

Pure: `take_tasks` says what the I/O threads should do, `finished` is told how it went; both say which awaited blocks
have arrived or will not. Knows nothing of clients.

Invariants: a block that is awaited arrives once, or is said not to come; what is told of a tier that fails or lies is
corrected by the first read that shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.contract.wire import TierStatus
from tokenworks.kv.format import BlockFault
from tokenworks.kv.host import Block, HostMemory, State
from tokenworks.kv.lower import LowerTier
from tokenworks.kv.protocol import Offered, TierSpeed
from tokenworks.kv.tasks import Check, Lookup, Move, Outcome, Probe, Read, Scan, Task, Write
from tokenworks.kv.write_back import WriteBack
from tokenworks.kv.writes import Entry

MAX_LOOKUP_S: Final = 0.05
"""A remote tier that takes longer to answer is not asked what other hosts have put there, nor waited for."""


class Arrival(msgspec.Struct, frozen=True):
    """An awaited block is there, or will not come."""

    name: BlockName
    tier: Tier  # where it was, or was thought to be
    block: Block | None = None
    fault: BlockFault = BlockFault.MISSING  # where there is no block


class Stock:
    """Host memory and the tiers below it, near to far."""

    def __init__(self, host: HostMemory, lowers: Sequence[LowerTier], host_speed: TierSpeed) -> None:
        self.host = host
        self.lowers = {lower.tier: lower for lower in lowers}
        self._host_speed = host_speed
        self._write_back = WriteBack(host, self.lowers)
        self._coming: dict[BlockName, Block] = {}
        self._checking: dict[int, Block] = {}  # by offset
        self._handed: list[Block] = []  # arrived with the last `take_tasks`, and pinned until the next
        self._tasks: list[Task] = []

    def nearest(self, name: BlockName) -> Tier | None:
        """The tier that a block can be had from, if any."""
        if self.host.held(name) is not None:
            return Tier.HOST
        return next((tier for tier, lower in self.lowers.items() if lower.holds(name)), None)

    def speeds(self, now_s: float) -> dict[Tier, TierSpeed]:
        """Of all tiers."""
        return {Tier.HOST: self._host_speed} | {tier: lower.speed(now_s) for tier, lower in self.lowers.items()}

    def status(self) -> dict[Tier, TierStatus]:
        """Of all tiers."""
        host = self.host.status(self._host_speed.bytes_per_s)
        return {Tier.HOST: host} | {tier: lower.status() for tier, lower in self.lowers.items()}

    @property
    def is_saved(self) -> bool:
        """Whether all that was put is in a lower tier, as far as those take it."""
        return self._write_back.is_done

    # Putting

    def offer(self, offered: Offered, now_s: float) -> Block | None:
        """A place to write a computed block to; None where it is not wanted, or there already."""
        name, parent, size, cost_s = offered.name, offered.parent, offered.num_bytes, offered.recompute_s
        if name in self.host:
            self.used(name, now_s)
            self._doubt(name)
            return None
        if self.host.wants(name, parent, size, cost_s, now_s):
            return self.host.place(name, parent, size, cost_s, State.WRITING, now_s)
        if not self._write_back.would_save(name, Entry(size, parent, cost_s), now_s):
            return None
        return self.host.place(name, parent, size, cost_s, State.WRITING, now_s, is_passing=True)

    def commit(self, block: Block, now_s: float) -> None:
        """A granted place has been written."""
        self.host.settle(block)
        self.host.puts += 1
        self._write_back.save(block, now_s)

    def used(self, name: BlockName, now_s: float) -> None:
        """A block was used again: by a fetch, by whoever computed it anew, or out of a worker's own memory."""
        self.host.used(name, now_s)
        for lower in self.lowers.values():
            lower.used(name, now_s)
        if block := self.host.held(name):
            self._write_back.save(block, now_s)

    # Getting

    def bring(self, name: BlockName) -> Tier | None:
        """Have a block that is not in memory read into it; the tier it comes from, or None where no tier holds it."""
        for tier, lower in self.lowers.items():
            if name in lower.reads:
                return tier
        for tier, lower in self.lowers.items():
            if lower.holds(name):
                lower.reads.want(name)
                return tier
        return None

    def cancel(self, name: BlockName) -> None:
        """Nobody waits for this block any more."""
        for lower in self.lowers.values():
            lower.reads.cancel(name)

    def learn(self, names: Iterable[BlockName], recompute_s: float, now_s: float) -> None:
        """A worker says what computing each of these would take: of some nothing but the name was known."""
        for name in names:
            for lower in self.lowers.values():
                lower.set_cost(name, recompute_s, now_s)

    def look_up(self, names: Iterable[BlockName], num_bytes: int, recompute_s: float, key: int, now_s: float) -> bool:
        """Ask the remote tier for names that no tier is known to hold; False where that is not worth waiting for.

        It is not where a block comes no faster than in `recompute_s`: nothing that is found there would be fetched.
        """
        remote = self.lowers.get(Tier.REMOTE)
        if remote is None or remote.speed(now_s).latency_s > MAX_LOOKUP_S:
            return False
        if not remote.pays(num_bytes, recompute_s, now_s):
            return False
        self._tasks.append(Lookup(Tier.REMOTE, tuple(names), key))
        return True

    # What the threads do

    def take_tasks(self, now_s: float) -> tuple[list[Task], list[Arrival]]:
        """What can be started now; and blocks that turned out to be there, or not to come."""
        while self._handed:
            self.host.unpin(self._handed.pop())
        arrivals: list[Arrival] = []
        for lower in self.lowers.values():
            while (name := lower.reads.next()) is not None:
                arrivals += self._start_read(lower, name, now_s)
            self._tasks += [task for task in (lower.scan(now_s), lower.probe(now_s)) if task is not None]
        tasks = [*self._tasks, *self._write_back.take_tasks(now_s)]
        self._tasks.clear()
        return tasks, arrivals

    def finished(self, outcome: Outcome, now_s: float) -> list[Arrival]:
        """A task has ended; what that means for awaited blocks."""
        match outcome.task:
            case Read() as task:
                return self._read_ended(self.lowers[task.tier], task, outcome, now_s)
            case Probe() as task:
                return self._probe_ended(self.lowers[task.tier], task, outcome, now_s)
            case Scan() | Lookup() as task:
                return self._names_came(self.lowers[task.tier], outcome, now_s)
            case Write() as task:
                self._write_back.write_ended(task, outcome, now_s)
            case Move() as task:
                self._write_back.move_ended(task, outcome, now_s)
            case Check() as task:
                self._check_ended(task, outcome)
        return []

    def _start_read(self, lower: LowerTier, name: BlockName, now_s: float) -> list[Arrival]:
        if block := self.host.held(name):  # a worker has put it meanwhile
            self._handed.append(self.host.pin(block))  # or a read that is started next could take its place
            return [Arrival(name, lower.tier, block)]
        if name not in lower:
            return [Arrival(name, lower.tier)]
        entry = lower.entry(name)
        size, cost_s = entry.num_bytes, entry.recompute_s
        is_granted = name in self.host  # to a worker that has not written it yet
        block = None if is_granted else self.host.place(name, entry.parent, size, cost_s, State.READING, now_s)
        if block is None:
            self.host.faults[BlockFault.NO_ROOM] += 1
            return [Arrival(name, lower.tier, fault=BlockFault.NO_ROOM)]
        self._coming[name] = block
        lower.reads.started(name, size, now_s)
        self._tasks.append(Read(lower.tier, name, block.offset, size))
        return []

    def _read_ended(self, lower: LowerTier, task: Read, outcome: Outcome, now_s: float) -> list[Arrival]:
        lower.reads.ended(task.name)
        block = self._coming.pop(task.name)
        if outcome.error:
            self.host.drop(block)
            return [*self._failed(lower, now_s), *self._elsewhere(task.name, lower, BlockFault.UNREACHABLE)]
        lower.reading.succeeded()
        if outcome.fault is not None:
            self.host.drop(block)
            lower.lost(task.name)
            lower.faults[outcome.fault] += 1
            return self._elsewhere(task.name, lower, outcome.fault)
        lower.meter.read(outcome.num_bytes, outcome.start_s, outcome.end_s)
        lower.hits += 1
        block.num_bytes, block.is_reused = outcome.num_bytes, True
        if block.parent != outcome.parent:  # found after a restart, when nothing but names was known
            self.host.set_parent(block, outcome.parent, now_s)
            lower.set_parent(task.name, outcome.parent, now_s)
        self.host.settle(block)
        self._write_back.save(block, now_s)
        return [Arrival(task.name, lower.tier, block)]

    def _probe_ended(self, lower: LowerTier, task: Probe, outcome: Outcome, now_s: float) -> list[Arrival]:
        lower.is_probing = False
        if outcome.error:
            return self._failed(lower, now_s)
        lower.reading.succeeded()
        lower.meter.answered(outcome.latency_s)
        lower.meter.read(outcome.num_bytes, outcome.start_s, outcome.end_s)
        if outcome.write_error:
            lower.writing.failed(now_s)
            lower.faults[BlockFault.UNREACHABLE] += 1
        elif task.sample is None:
            lower.writing.succeeded()
        elif outcome.fault is not None:
            lower.lost(task.sample[0])
            lower.faults[outcome.fault] += 1
        return []

    def _failed(self, lower: LowerTier, now_s: float) -> list[Arrival]:
        """A tier does not answer: what waits for it comes from elsewhere, or not at all."""
        lower.reading.failed(now_s)
        lower.faults[BlockFault.UNREACHABLE] += 1
        waiting = lower.reads.take_waiting()
        return [each for name in waiting for each in self._elsewhere(name, lower, BlockFault.UNREACHABLE)]

    def _elsewhere(self, name: BlockName, lower: LowerTier, fault: BlockFault) -> list[Arrival]:
        return [] if self.bring(name) is not None else [Arrival(name, lower.tier, fault=fault)]

    def _names_came(self, lower: LowerTier, outcome: Outcome, now_s: float) -> list[Arrival]:
        for name, num_bytes in outcome.found:
            lower.found(name, num_bytes, now_s)
        if not outcome.error:
            if isinstance(outcome.task, Scan) and outcome.is_last:
                lower.scanned()
            return []
        lower.needs_scan |= isinstance(outcome.task, Scan)
        return self._failed(lower, now_s)

    def _doubt(self, name: BlockName) -> None:
        """Somebody has computed a block that is here: perhaps because it was bad when it was read, so look at it."""
        block = self.host.held(name)
        if block is not None and block.offset not in self._checking:
            self._checking[block.offset] = self.host.pin(block)
            self._tasks.append(Check(Tier.HOST, name, block.offset, block.num_bytes))

    def _check_ended(self, task: Check, outcome: Outcome) -> None:
        block = self._checking.pop(task.offset)
        self.host.unpin(block)
        if outcome.fault is not None:
            self.host.faults[outcome.fault] += 1
            self.host.drop(block)
