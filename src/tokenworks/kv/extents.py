"""Which parts of the arena are taken: places of any size side by side, best fit, neighbours joined when freed.

Knows nothing of memory or of names. The free extents are kept sorted by size, so that the smallest one that is large
enough is found in O(log n); keeping the order moves at most a few hundred kilobytes of list for 100,000 extents.

Invariants: every place begins and ends at a multiple of `ALIGNMENT`; free and taken extents together cover the arena
exactly once; no two free extents touch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

ALIGNMENT: Final = 4096
"""Bytes: a page, so that a place can be read from a disk without a copy."""


def aligned(num_bytes: int) -> int:
    """The bytes that a place for `num_bytes` takes."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


class Extents:
    """`num_bytes` (rounded down to whole pages), all free at first."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes // ALIGNMENT * ALIGNMENT
        self.used_bytes = 0
        self._by_size: list[tuple[int, int]] = []  # of the free ones: (bytes, start)
        self._free: dict[int, int] = {}  # start -> end
        self._free_starts: dict[int, int] = {}  # end -> start
        self._taken: dict[int, int] = {}  # start -> end
        self._taken_starts: dict[int, int] = {}  # end -> start
        if self.num_bytes:
            self._add_free(0, self.num_bytes)

    def allocate(self, num_bytes: int) -> int | None:
        """The offset of a place for `num_bytes`, or None where no free extent is large enough."""
        assert num_bytes > 0, f"a place of {num_bytes} bytes"
        size = aligned(num_bytes)
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        _, start = self._by_size[index]
        end = self._remove_free(start)
        if start + size < end:
            self._add_free(start + size, end)
        self._taken[start] = start + size
        self._taken_starts[start + size] = start
        self.used_bytes += size
        return start

    def release(self, start: int) -> None:
        """Give a place back."""
        end = self._taken.pop(start)
        del self._taken_starts[end]
        self.used_bytes -= end - start
        if end in self._free:
            end = self._remove_free(end)
        if start in self._free_starts:
            before = self._free_starts[start]
            self._remove_free(before)
            start = before
        self._add_free(start, end)

    def fits(self, num_bytes: int) -> bool:
        """Whether `allocate` would find a place."""
        return bool(self._by_size) and self._by_size[-1][0] >= aligned(num_bytes)

    def size(self, start: int) -> int:
        """Bytes of a taken place."""
        return self._taken[start] - start

    def beside_widest(self) -> list[int]:
        """The taken places right after and right before the widest free extent: freeing one makes it wider."""
        if not self._by_size:
            return []
        start = self._by_size[-1][1]
        end = self._free[start]
        after = [end] if end in self._taken else []
        return after + ([self._taken_starts[start]] if start in self._taken_starts else [])

    def _add_free(self, start: int, end: int) -> None:
        self._free[start] = end
        self._free_starts[end] = start
        insort(self._by_size, (end - start, start))

    def _remove_free(self, start: int) -> int:
        end = self._free.pop(start)
        del self._free_starts[end]
        del self._by_size[bisect_left(self._by_size, (end - start, start))]
        return end
