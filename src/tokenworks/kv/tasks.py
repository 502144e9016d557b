"""What the store has its I/O threads do, and what they report. Data only."""

from __future__ import annotations

import msgspec

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.format import BlockFault


class Task(msgspec.Struct, frozen=True):
    """Base: something slow, for `tier`'s own threads."""

    tier: Tier


class Read(Task, frozen=True):
    """Read a block into the arena and verify it there; a bad one is deleted from the tier."""

    name: BlockName
    offset: int
    num_bytes: int


class Write(Task, frozen=True):
    """Delete `drop`, then keep a block of the arena in the tier, if it is sound: see `io`."""

    name: BlockName
    offset: int
    num_bytes: int
    drop: tuple[BlockName, ...] = ()


class Move(Task, frozen=True):
    """Copy a block from another tier to this one, past the arena."""

    source: Tier
    name: BlockName
    num_bytes: int


class Check(Task, frozen=True):
    """Verify a block in the arena. Of tier HOST."""

    name: BlockName
    offset: int
    num_bytes: int


class Probe(Task, frozen=True):
    """Measure the tier: an empty round trip, then one read: of a block that it holds, or of a small one of our own."""

    sample: tuple[BlockName, int] | None = None  # name and bytes


class Lookup(Task, frozen=True):
    """Ask a tier that other hosts write to as well which of these it holds."""

    names: tuple[BlockName, ...]
    key: int


class Scan(Task, frozen=True):
    """Learn what the tier holds from before; reported in parts as it goes."""


class Outcome(msgspec.Struct, frozen=True):
    """How a task went. `error`: the tier failed. `fault`: the tier answered, and the block was no good."""

    task: Task
    start_s: float
    end_s: float
    error: str = ""
    write_error: str = ""  # of a Probe: reading went well
    fault: BlockFault | None = None
    num_bytes: int = 0  # read
    parent: BlockName = b""  # of a block that was read
    latency_s: float = 0.0  # of a Probe's empty round trip
    cpu_s: float = 0.0  # of a Write: what it took of a processor
    found: tuple[tuple[BlockName, int], ...] = ()  # of a Scan: name and bytes; of a Lookup too
    is_last: bool = True  # of a Scan: whether this is its last part
