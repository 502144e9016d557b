"""Which of endlessly many names get a line of their own: those used most, up to a limit; the rest are one line, OTHER.

A million distinct tenants must not become a million lines of a metric, and whoever comes first must not keep a place
that others use more. Names without a place are counted by Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient
computation of frequent and top-k elements in data streams", ICDT 2005) in a table of fixed size, which knows for each
how much of its count is sure. A name takes the place of the least used one once it has surely been used twice as much:
places change hands seldom, and never for names that come once.

Counts are halved every `half_life` uses, so that what was large last month makes room. Memory is bounded by `limit`;
`place` takes O(1) for a name that has a place, O(log limit) amortised for others.
"""

from __future__ import annotations

from heapq import heapify, heapreplace
from typing import Final

OTHER: Final = "(other)"
_CANDIDATES_PER_PLACE: Final = 4
_CLEARLY_MORE: Final = 2


class TopNames:
    """The names with a place."""

    def __init__(self, limit: int, half_life: int = 10_000) -> None:
        self._limit = limit
        self._half_life = half_life
        self._uses_until_halving = half_life
        self._placed: dict[str, int] = {}  # their use
        self._least_use = 0  # no placed name is used less
        self._candidates: dict[str, tuple[int, int]] = {}  # use counted, and how much of that may be others'
        self._by_count: list[tuple[int, str]] = []  # a heap of them once all have come, each count as it once was

    def __len__(self) -> int:
        return len(self._placed)

    def place(self, name: str, weight: int = 1, uses: int = 1) -> tuple[str, str | None]:
        """Count uses of that weight in all; under which name to show them, and which name lost its place by that."""
        self._uses_until_halving -= uses
        if self._uses_until_halving <= 0:
            self._age()
        if name in self._placed:
            self._placed[name] += weight
            return name, None
        if len(self._placed) < self._limit:
            self._placed[name] = weight
            return name, None
        sure = self._count_candidate(name, weight)
        if sure <= _CLEARLY_MORE * self._least_use:
            return OTHER, None
        weakest = min(self._placed, key=self._placed.__getitem__)
        self._least_use = self._placed[weakest]
        if sure <= _CLEARLY_MORE * self._least_use:
            return OTHER, None
        del self._placed[weakest], self._candidates[name]
        self._by_count.clear()
        self._placed[name] = sure
        return name, weakest

    def _count_candidate(self, name: str, weight: int) -> int:
        """What it was surely used."""
        count, error = self._candidates.get(name, (0, 0))
        if not count and len(self._candidates) >= _CANDIDATES_PER_PLACE * self._limit:
            count = error = self._replace_least(name, weight)
        self._candidates[name] = (count + weight, error)
        return count + weight - error

    def _replace_least(self, name: str, weight: int) -> int:
        """Make room for a candidate in place of the one used least; that one's count."""
        if not self._by_count:
            self._by_count = [(count, each) for each, (count, _) in self._candidates.items()]
            heapify(self._by_count)
        while True:
            noted, least = self._by_count[0]
            count = self._candidates[least][0]
            if count == noted:
                break
            heapreplace(self._by_count, (count, least))  # it was used since
        heapreplace(self._by_count, (count + weight, name))
        del self._candidates[least]
        return count

    def _age(self) -> None:
        self._uses_until_halving = self._half_life
        self._least_use //= 2
        self._by_count.clear()
        self._placed = {name: use // 2 for name, use in self._placed.items()}
        halved = {name: (count // 2, error // 2) for name, (count, error) in self._candidates.items()}
        self._candidates = {name: counts for name, counts in halved.items() if counts[0]}
