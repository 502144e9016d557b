"""Places in the arena against a page map that is as slow as it is plain."""

from __future__ import annotations

import random

import pytest

from tokenworks.kv.extents import ALIGNMENT, Extents, aligned


class PageMap:
    """The same by brute force: for each page the place that has it, or none."""

    def __init__(self, pages: int) -> None:
        self.owner: list[int | None] = [None] * pages

    def runs(self) -> list[tuple[int, int]]:
        """Free runs as (pages, first page)."""
        found: list[tuple[int, int]] = []
        start = 0
        for page in range(len(self.owner) + 1):
            if page == len(self.owner) or self.owner[page] is not None:
                if page > start:
                    found.append((page - start, start))
                start = page + 1
        return found

    def allocate(self, pages: int) -> int | None:
        fitting = [run for run in self.runs() if run[0] >= pages]
        if not fitting:
            return None
        start = min(fitting)[1]
        self.owner[start : start + pages] = [start] * pages
        return start

    def release(self, start: int) -> None:
        self.owner = [None if owner == start else owner for owner in self.owner]


@pytest.mark.parametrize("seed", range(20))
def test_places_are_those_of_a_page_map(seed: int) -> None:
    dice = random.Random(seed)
    pages = dice.choice([1, 7, 64])
    extents, oracle = Extents(pages * ALIGNMENT + dice.randrange(ALIGNMENT)), PageMap(pages)
    taken: list[int] = []
    for _ in range(400):
        if taken and dice.random() < 0.45:
            start = taken.pop(dice.randrange(len(taken)))
            extents.release(start * ALIGNMENT)
            oracle.release(start)
        else:
            num_bytes = dice.randint(1, dice.choice([ALIGNMENT, 5 * ALIGNMENT, 20 * ALIGNMENT]))
            wanted = aligned(num_bytes) // ALIGNMENT
            assert extents.fits(num_bytes) == any(run[0] >= wanted for run in oracle.runs())
            offset, start = extents.allocate(num_bytes), oracle.allocate(wanted)
            assert offset == (None if start is None else start * ALIGNMENT)
            if offset is not None:
                assert extents.size(offset) == aligned(num_bytes)
                taken.append(offset // ALIGNMENT)
        assert extents.used_bytes == ALIGNMENT * sum(owner is not None for owner in oracle.owner)
        assert extents.beside_widest() == beside_widest(oracle)


def beside_widest(oracle: PageMap) -> list[int]:
    if not oracle.runs():
        return []
    pages, start = max(oracle.runs())
    after = [start + pages] if start + pages < len(oracle.owner) else []
    before = [oracle.owner[start - 1]] if start else []
    return [page * ALIGNMENT for page in [*after, *before] if page is not None]


def test_an_arena_of_less_than_a_page_has_no_places() -> None:
    extents = Extents(ALIGNMENT - 1)
    assert extents.allocate(1) is None
    assert not extents.fits(1)
    assert extents.beside_widest() == []


def test_all_that_was_freed_is_one_place_again() -> None:
    extents = Extents(100 * ALIGNMENT)
    starts = [extents.allocate(ALIGNMENT) for _ in range(100)]
    assert extents.allocate(1) is None
    for start in random.Random(1).sample(starts, 100):
        assert start is not None
        extents.release(start)
    assert extents.allocate(100 * ALIGNMENT) == 0
