"""What the process takes of its machine: processor time, memory, disk, energy. Read once a heartbeat, in its thread.

Energy is the processor package's, by RAPL (Linux' powercap; Intel and AMD), where it can be read: since 2020 only root
may, or whoever is given the files. A worker is charged its threads' share of the machine's cores, so that workers that
divide a machine's cores among them do not count it twice.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import psutil

log = logging.getLogger(__name__)

POWERCAP: Final = Path("/sys/class/powercap")
_PACKAGE: Final = re.compile(r"intel-rapl:\d+$")  # not :0:1 (a part of it), not intel-rapl-mmio:0 (the same once more)


class MachineUse(NamedTuple):
    """Since the process started; energy since it was first read."""

    cpu_s: float
    rss_bytes: int
    disk_read_bytes: int
    disk_write_bytes: int
    energy_j: float | None


class Machine:
    """One process on its machine."""

    def __init__(self, threads: int, powercap: Path = POWERCAP) -> None:
        """Without threads its work is done elsewhere, and this machine's energy says nothing of it."""
        self._process = psutil.Process()
        self._packages = find_packages(powercap) if threads else []
        self._share = min(1.0, threads / (os.cpu_count() or 1))

    def use(self) -> MachineUse:
        """As of now."""
        with self._process.oneshot():
            times, memory = self._process.cpu_times(), self._process.memory_info()
        read_bytes, write_bytes = self._disk()
        return MachineUse(times.user + times.system, memory.rss, read_bytes, write_bytes, self._energy_j())

    def _disk(self) -> tuple[int, int]:
        """Nothing where the system does not tell (macOS), or not everybody (some containers)."""
        try:
            counters = self._process.io_counters()
        except (AttributeError, psutil.Error, OSError):
            return 0, 0
        return counters.read_bytes, counters.write_bytes

    def _energy_j(self) -> float | None:
        """None where there is no counter, or where one can no longer be read."""
        try:
            used_uj = sum(package.used_uj() for package in self._packages)
        except (OSError, ValueError) as error:
            log.warning("the energy counters cannot be read any more (%s): energy is modelled by the card", error)
            self._packages = []
        return used_uj * self._share / 1e6 if self._packages else None


@dataclass(slots=True)
class Package:
    """One RAPL counter, in microjoules; it wraps around every hour or so."""

    path: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def used_uj(self) -> int:
        """Since it was found; right if it is asked at least once a turn. Raises OSError, ValueError."""
        now_uj = int((self.path / "energy_uj").read_text())
        step_uj = now_uj - self.last_uj
        self.total_uj += step_uj if step_uj >= 0 else step_uj + self.range_uj
        self.last_uj = now_uj
        return self.total_uj


def find_packages(powercap: Path) -> list[Package]:
    """The processor packages' counters; none where one of them cannot be read, since half a sum would mislead."""
    try:
        folders = sorted(each for each in powercap.iterdir() if _PACKAGE.match(each.name))
        return [_package(folder) for folder in folders if (folder / "name").read_text().startswith("package")]
    except (OSError, ValueError):
        return []


def _package(folder: Path) -> Package:
    now_uj = int((folder / "energy_uj").read_text())
    return Package(folder, int((folder / "max_energy_range_uj").read_text()) + 1, now_uj)
