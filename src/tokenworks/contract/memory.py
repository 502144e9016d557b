"""How much memory a process of this system may still take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")
AVAILABLE: Final = "MemAvailable:"


def available_memory_bytes() -> int | None:
    """Bytes that can be taken without swapping, or leaving the container's limit; None where the system does not say.

    What others have reserved and not touched yet (a KV store's memory, another worker's KV) counts as available.
    """
    try:
        return min(_limits(), default=None)
    except (OSError, ValueError, IndexError):
        return None


def _limits() -> Iterator[int]:
    """Of the system and of the container."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith(AVAILABLE):
            yield int(line.split()[1]) * 1024
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        yield int(text) - int(used.read_text())


def free_memory_bytes() -> int:
    """The same for who must have a number: any, where the system does not say."""
    available = available_memory_bytes()
    return sys.maxsize if available is None else available
