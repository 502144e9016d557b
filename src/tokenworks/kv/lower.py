"""What the store knows of one tier below its memory: what lies there, what is asked of it, how well it answers.

Pure: it says what should be read and written next and is told how it went; bytes, threads and the tier itself are
elsewhere. What waits to be read and written stands in `reads` and `writes`.

Invariants: a tier that does not answer holds nothing, until it has answered again; what is being read or written is not
dropped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.contract.wire import TierStatus
from tokenworks.kv.health import Health, SpeedMeter, WriteMeter
from tokenworks.kv.host import Policy
from tokenworks.kv.protocol import TierSpeed
from tokenworks.kv.reads import ReadQueue
from tokenworks.kv.tasks import Probe, Scan
from tokenworks.kv.writes import Entry, WriteQueue

MAX_READS: Final = 4
"""Files of 3.5 MiB, not in the page cache, came at 0.3 GB/s one by one and at 0.8 four at a time."""
NO_LIMIT: Final = 1 << 62
"""Bytes of a tier that bounds itself."""
MAX_NAMES: Final = 1 << 16
"""Blocks of such a tier that are remembered, some 40 MB: of others it is asked whether it holds them."""
SHORT_QUEUE: Final = 64
"""Blocks: with more of them waiting the tier does not keep up, and to spare them in memory would stop all eviction."""
GUESSED_S_PER_BYTE: Final = 25e-9
"""Recomputation of a block of which nothing but the name is known: 90 ms for 3.5 MiB, as two cores were measured."""

UNLIKELY: Final = "unlikely"
"""Not written, because a use again is too unlikely to save what the write takes."""
OUTVALUED: Final = "outvalued"
"""Not written, because all that the tier holds is worth more, or what it follows is not there."""
SLOW: Final = "slow"
"""Not written, because reading it back is predicted to be slower than computing it, or was not measured yet."""


class LowerTier:
    """One of disk and remote. `promise_s`: how soon after a put a block should have been handed to the tier."""

    def __init__(
        self,
        tier: Tier,
        policy: Policy,
        limit_bytes: int,
        promise_s: float = float("inf"),
        max_reads: int = MAX_READS,
        max_names: int = MAX_NAMES,
    ) -> None:
        self.tier = tier
        self.limit_bytes = limit_bytes
        self.reads = ReadQueue(max_reads)
        self.writes = WriteQueue()
        self.reading = Health()
        self.writing = Health()
        self.meter = SpeedMeter()
        self.hits = self.puts = self.evictions = 0
        self.faults: Counter[str] = Counter()
        self.unwritten: Counter[str] = Counter()  # blocks that were put and not written here, by reason
        self.write_meter = WriteMeter()
        self.is_probing = False
        self.needs_scan = tier is Tier.DISK  # what others put into the remote tier is asked for by name
        self._policy = policy
        self._promise_s = promise_s
        self._max_names = max_names if limit_bytes >= NO_LIMIT else limit_bytes
        self._held: OrderedDict[BlockName, Entry] = OrderedDict()  # in a tier without a limit, latest use last
        self._garbage: list[BlockName] = []  # still in the tier, no longer counted

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: BlockName) -> bool:
        """Whether the block lies there, reachable or not."""
        return name in self._held

    @property
    def is_up(self) -> bool:
        """Whether it answered the last time it was read from, and written to."""
        return self.reading.is_up and self.writing.is_up

    # What lies there

    def holds(self, name: BlockName) -> bool:
        """Whether the block can be had from here."""
        return self.reading.is_up and name in self._held

    def entry(self, name: BlockName) -> Entry:
        """What is known of a held block."""
        return self._held[name]

    def found(self, name: BlockName, num_bytes: int, now_s: float) -> None:
        """A block lies there from before, or another host has put it there."""
        if name not in self._held and not self.writes.is_under_way(name):
            self.writes.forget(name)  # somebody else has written it
            self._add(name, Entry(num_bytes, b"", 0.0), now_s)

    def used(self, name: BlockName, now_s: float) -> None:
        """A block was used again, here or nearer."""
        self._policy.used(name, now_s)
        if name in self._held and self.limit_bytes >= NO_LIMIT:
            self._held.move_to_end(name)

    def lost(self, name: BlockName) -> None:
        """A block turned out not to be there, or to be bad."""
        if self._held.pop(name, None) is not None:
            self._policy.remove(name)

    def set_parent(self, name: BlockName, parent: BlockName, now_s: float) -> None:
        """What a block follows has become known."""
        if entry := self._held.get(name):
            self._replace(name, replace(entry, parent=parent), now_s)

    def set_cost(self, name: BlockName, recompute_s: float, now_s: float) -> None:
        """What computing a block again takes has become known; nothing where it was."""
        entry = self._held.get(name)
        if entry is not None and not entry.recompute_s:
            self._replace(name, replace(entry, recompute_s=recompute_s), now_s)

    def status(self) -> TierStatus:
        """For the gateways."""
        return TierStatus(
            blocks=len(self._held),
            used_bytes=self._policy.used_bytes,
            limit_bytes=self.limit_bytes if self.limit_bytes < NO_LIMIT else 0,
            is_up=self.is_up,
            hits=self.hits,
            puts=self.puts,
            evictions=self.evictions,
            read_bytes_per_s=self.meter.speed(None, 0, 0.0).bytes_per_s,
            faults=dict(self.faults),
            unwritten=dict(self.unwritten),
        )

    # Reading

    def speed(self, now_s: float) -> TierSpeed:
        """As measured lately; nothing to count on while it is down."""
        if not self.reading.is_up:
            return TierSpeed(0.0, 0.0)
        return self.meter.speed(*self.reads.under_way(), now_s)

    def pays(self, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        """Whether reading a block from here is predicted to be faster than computing it; not where that is unknown."""
        speed, cost_s = self.speed(now_s), recompute_s or num_bytes * GUESSED_S_PER_BYTE
        return speed.bytes_per_s > 0 and speed.latency_s + num_bytes / speed.bytes_per_s < cost_s

    def probe(self, now_s: float) -> Probe | None:
        """A measurement, where it is time for one: at first, when unused for long, and to see if a tier is back."""
        is_due = self.meter.wants_probe(now_s) if self.reading.is_up else self.reading.may_try(now_s)
        if self.is_probing or self.reads.is_busy or not is_due:
            return None
        self.is_probing = True
        name = next(reversed(self._held), None) if self.tier is Tier.DISK else None
        return Probe(self.tier, None if name is None else (name, self._held[name].num_bytes))

    def scan(self, now_s: float) -> Scan | None:
        """A look at what is held from before, where that is still to be done."""
        if not self.needs_scan or not self.reading.may_try(now_s):
            return None
        self.needs_scan = False
        return Scan(self.tier)

    def scanned(self) -> None:
        """All names are known: measure with one of them, which says more than a small object of our own."""
        self.meter.last_read_s = float("-inf")

    # Writing

    @property
    def has_writes(self) -> bool:
        """Whether something still has to be written and can be."""
        return self.writes.is_busy or (len(self.writes) > 0 and self.writing.is_up)

    def is_queued(self, name: BlockName) -> bool:
        """Whether it waits to be written, and soon will be: the tier takes writes and keeps up with them."""
        return self.writes.is_waiting(name) and self.writing.is_up and len(self.writes) <= SHORT_QUEUE

    def why_not(self, name: BlockName, entry: Entry, now_s: float) -> str:
        """Why a block that is not here is not worth writing here; empty where it is. It is remembered either way."""
        parent, size, cost_s = entry.parent, entry.num_bytes, entry.recompute_s
        if not self._policy.repays(name, parent, cost_s, self.write_meter.cpu_s(size), self.has(parent), now_s):
            self._policy.refuse(name, parent, size, cost_s, now_s)
            return UNLIKELY
        return "" if self._policy.wants(name, parent, size, cost_s, now_s) else OUTVALUED

    def has(self, name: BlockName) -> bool:
        """Whether it is here, or soon will be."""
        return name in self._held or name in self.writes

    def want_write(self, name: BlockName, entry: Entry, now_s: float) -> None:
        """Have a block in host memory written, which is not here and worth it."""
        self.writes.want(name, entry, now_s)

    def next_write(self, now_s: float) -> tuple[BlockName, Entry] | None:
        """The block to write now, if the tier takes one; then say `write_started`."""
        wish = self.writes.next() if self.writing.may_try(now_s) else None
        if wish is None:
            return None
        name, entry, since_s = wish
        self.faults["late"] += int(now_s - since_s > self._promise_s)
        return name, entry

    def write_started(self, name: BlockName, entry: Entry, now_s: float) -> None:
        """It is being written, and its bytes are taken."""
        self.writes.started(name, entry)
        self._policy.add(name, entry.parent, entry.num_bytes, entry.recompute_s, now_s)

    def write_ended(self, name: BlockName, is_there: bool) -> None:
        """It has been written, or could not be."""
        entry = self.writes.ended(name)
        if is_there:
            self._held[name] = entry
            self.puts += 1
            self._forget_oldest()
        else:
            self._policy.remove(name)

    def victims(self, num_bytes: int) -> list[BlockName] | None:
        """What must go first so that `num_bytes` fit; None where they do not even then."""
        excess = self._policy.used_bytes + num_bytes - self.limit_bytes
        if excess <= 0:
            return []
        names = self._policy.victims(excess, self._is_in_use)
        freed = sum(self._held[name].num_bytes for name in names)
        return names if freed >= excess else None

    def evict(self, name: BlockName) -> None:
        """It is dropped: no longer counted; say `add_garbage` when it can be deleted."""
        self.lost(name)
        self.evictions += 1

    def add_garbage(self, names: Iterable[BlockName]) -> None:
        """These are still in the tier, and are to be deleted with the next write."""
        self._garbage.extend(names)

    def take_garbage(self) -> tuple[BlockName, ...]:
        """What the tier has to delete."""
        names = tuple(name for name in self._garbage if name not in self._held)
        self._garbage.clear()
        return names

    def _replace(self, name: BlockName, entry: Entry, now_s: float) -> None:
        self._policy.remove(name)
        self._add(name, entry, now_s)

    def _add(self, name: BlockName, entry: Entry, now_s: float) -> None:
        self._held[name] = entry
        self._policy.add(name, entry.parent, entry.num_bytes, entry.recompute_s, now_s)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        if len(self._held) > self._max_names:
            oldest = next(iter(self._held))
            if self._is_in_use(oldest):
                self._held.move_to_end(oldest)
            else:
                self.lost(oldest)

    def _is_in_use(self, name: BlockName) -> bool:
        return name in self.reads or self.writes.is_under_way(name)
