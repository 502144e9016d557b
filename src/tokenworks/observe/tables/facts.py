"""What one row of the table is made from: a cell of requests, the time they lie in, and the machines that ran them.

Machines belong to a row where all they did belongs to it: to all requests, to a model, a version or a worker. What a
tenant or a scenario used of a machine that many share is its share of device time, and that is in its cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import WorkerStretch
from tokenworks.observe.sketch import Sketch

SURELY_TWO_NS: Final = 10 * 10**9
"""Lives of one name that overlap for longer are two workers': a restart looks so too where a clock was set back
meanwhile, for as long as that was."""


class Machines(msgspec.Struct, frozen=True):
    """Workers, summed up over their lives in a window."""

    wall_s: float = 0.0
    step_s: float = 0.0
    flops: float = 0.0
    possible_flops: float = 0.0  # while in steps, at the measured peak; of the workers that measured it
    read_bytes: float = 0.0
    possible_bytes: float = 0.0
    cpu_s: float = 0.0
    rss_byte_s: float = 0.0
    disk_read_bytes: float = 0.0
    disk_write_bytes: float = 0.0
    used_block_s: float = 0.0  # share of KV blocks in use, times seconds
    energy_j: float | None = None  # None: of some worker neither measured nor stated


class Facts:
    """Everything that a column may be computed from."""

    def __init__(self, cell: Cell, seconds: float, machines: Machines | None = None, full_cost: int | None = 0) -> None:
        self.cell = cell
        self.seconds = seconds  # of the window
        self.machines = machines  # None: shared with other rows
        self.full_cost = full_cost  # pico: its own cost and its share of what nobody's work cost; None: not known
        self._sketches: dict[str, Sketch] = {}

    def sketch(self, name: str) -> Sketch:
        """One of the cell's sketches, decoded once."""
        if name not in self._sketches:
            self._sketches[name] = self.cell.sketch(name)
        return self._sketches[name]


def machines_of(stretches: Iterable[WorkerStretch]) -> Machines:
    """The sum of some workers' lives in a window."""
    stretches = list(stretches)
    spans = [(stretch, stretch.use.wall_ns / 1e9, sum(stretch.use.step_ns.values()) / 1e9) for stretch in stretches]
    return Machines(
        wall_s=sum(wall_s for _, wall_s, _ in spans),
        step_s=sum(step_s for _, _, step_s in spans),
        flops=sum(stretch.use.flops for stretch in stretches if stretch.peak_flops),
        possible_flops=sum(stretch.peak_flops * step_s for stretch, _, step_s in spans),
        read_bytes=sum(stretch.use.read_bytes for stretch in stretches if stretch.peak_bytes_per_s),
        possible_bytes=sum(stretch.peak_bytes_per_s * step_s for stretch, _, step_s in spans),
        cpu_s=sum(stretch.use.cpu_s for stretch in stretches),
        rss_byte_s=sum(stretch.use.rss_bytes * wall_s for stretch, wall_s, _ in spans),
        disk_read_bytes=sum(stretch.use.disk_read_bytes for stretch in stretches),
        disk_write_bytes=sum(stretch.use.disk_write_bytes for stretch in stretches),
        used_block_s=sum(stretch.used_blocks_share * wall_s for stretch, wall_s, _ in spans),
        energy_j=_energy_j(stretches),
    )


def has_beaten_its_peak(stretch: WorkerStretch) -> bool:
    """Whether its steps did more than its device can do at most: then that was measured too low, on a busy machine."""
    step_s = sum(stretch.use.step_ns.values()) / 1e9
    flops, read_bytes = stretch.peak_flops * step_s, stretch.peak_bytes_per_s * step_s
    return 0 < flops < stretch.use.flops or 0 < read_bytes < stretch.use.read_bytes


def shared_names(stretches: Iterable[WorkerStretch]) -> list[str]:
    """Names that several workers had at the same time, as those of two systems with one ledger have."""
    lives = sorted(stretches, key=lambda stretch: (stretch.worker, stretch.from_ns))
    until_ns: dict[str, int] = {}
    shared = set()
    for life in lives:
        if min(until_ns.get(life.worker, 0), life.until_ns) > life.from_ns + SURELY_TWO_NS:
            shared.add(life.worker)
        until_ns[life.worker] = max(until_ns.get(life.worker, 0), life.until_ns)
    return sorted(shared)


def _energy_j(stretches: Iterable[WorkerStretch]) -> float | None:
    """Measured where it is, else by the watts of the card."""
    total = 0.0
    for stretch in stretches:
        if stretch.use.energy_j is not None:
            total += stretch.use.energy_j
        elif stretch.watts:
            total += stretch.watts * stretch.use.wall_ns / 1e9
        else:
            return None
    return total
