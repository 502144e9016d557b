"""The cores of this machine, and how its workers share them."""

from __future__ import annotations

import os
from collections.abc import Sequence


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_of_cores(cores: Sequence[int], index: int, threads: Sequence[int]) -> list[int]:
    """The cores of worker `index` where each worker runs so many threads: neighbours, and nobody else's.

    Where there are more threads than cores, a worker has as many cores as threads all the same, and shares them.
    """
    before, total = sum(threads[:index]), sum(threads)
    if total > len(cores):
        return sorted({cores[(before + offset) % len(cores)] for offset in range(threads[index])})
    start, end = (len(cores) * edge // total for edge in (before, before + threads[index]))
    return list(cores[start:end])
