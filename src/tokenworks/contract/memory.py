"""How much memory a process of this system may still take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")


def free_memory_bytes() -> int:
    """Bytes that can be taken without swapping, or leaving the container's limit; without /proc, any number.

    What others have reserved and not touched yet (a KV store's memory, another worker's KV) counts as free.
    """
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return sys.maxsize
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        return min(available, int(text) - int(used.read_text()))
    return available
