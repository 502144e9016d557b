"""How much memory a process of this system may still take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")
AVAILABLE: Final = "MemAvailable:"
PROCESSES: Final = Path("/proc")
STORE_MEMORY: Final = "tokenworks-kv"
"""The name of a KV store's memory, as the system shows it."""


def available_memory_bytes() -> int | None:
    """Bytes that can be taken without swapping, or leaving the container's limit; None where the system does not say.

    What others have reserved and not touched yet (a KV store's memory in its first seconds, another worker's KV)
    counts as available.
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


def store_memory_bytes() -> int:
    """What the KV stores of this user hold of memory by now; 0 where that cannot be seen (without /proc)."""
    taken: dict[int, int] = {}  # by inode: the store and its workers all have it open
    for file in _open_files():
        with suppress(OSError):  # closed meanwhile
            if str(file.readlink()) == f"/memfd:{STORE_MEMORY} (deleted)":  # as all that has no name in a file system
                status = file.stat()
                taken[status.st_ino] = 512 * status.st_blocks
    return sum(taken.values())


def _open_files() -> Iterator[Path]:
    """Of all processes that this one may look at."""
    for process in PROCESSES.glob("[0-9]*"):
        try:
            yield from list((process / "fd").iterdir())
        except OSError:  # another user's, or ended meanwhile
            continue
