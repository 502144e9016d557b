"""What a running system's processes took of the machine, as the kernel counts it: seconds of processors, page faults.

Counts instead of wall time, so that a neighbour on the machine hardly shows. The kernel's own threads (those that write
pages back, the journal, those that reclaim memory) are counted together: they work for everybody on the machine; as do
interrupts, and as "system" what a hypervisor gave to others while this machine wanted to run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
KERNEL: Final = "kernel threads"
INTERRUPTS: Final = "interrupts, stolen"
KTHREADD: Final = 2
"""The process id of the parent of all threads of the kernel."""


class Taken(NamedTuple):
    """Since a process started."""

    user_s: float = 0.0
    system_s: float = 0.0
    faults: float = 0.0  # pages that came as they were first touched, without a disk

    def plus(self, other: Taken, times: float = 1.0) -> Taken:
        """Both together, the other so many times."""
        return Taken(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


def taken_below(pid: int) -> dict[str, Taken]:
    """What a process and those below it took, by the part of Tokenworks that they are; and the kernel's threads."""
    rows = list(_rows())
    parents = {own: parent for own, parent, _ in rows}
    taken: dict[str, Taken] = {}
    for own, parent, counted in rows:
        part = KERNEL if parent == KTHREADD else _part(own) if _is_below(own, pid, parents) else ""
        if part:
            taken[part] = taken.get(part, Taken()).plus(counted)
    return taken | {INTERRUPTS: _interrupted()}


def _interrupted() -> Taken:
    """Of all processors: serving interrupts, and stolen."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    irq_s, softirq_s, steal_s = (int(field) / TICKS_PER_S for field in fields[5:8])
    return Taken(irq_s + softirq_s, steal_s)


def _is_below(own: int, pid: int, parents: dict[int, int]) -> bool:
    while own not in (pid, 0):
        own = parents.get(own, 0)
    return own == pid


def _rows() -> Iterator[tuple[int, int, Taken]]:
    """Process id, its parent's, and what it took."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # from the third on, the state
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        user, system = int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S
        yield int(folder.name), int(fields[1]), Taken(user, system, int(fields[7]))


def _part(pid: int) -> str:
    """`worker`, `kvstore`, `gateway`, ...; the program's first argument."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    at = words.index("tokenworks") + 1 if "tokenworks" in words else 0
    return words[at] if at < len(words) and words[at] else "other"
