"""Counting what processes took: of this one, of those below it, and of nobody else."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

from benchmarks.kv.processes import Taken, taken_below

NUM_PAGES = 2000


def total(taken: dict[str, Taken]) -> Taken:
    whole = Taken()
    for part in taken.values():
        whole = whole.plus(part)
    return whole


def test_pages_touched_are_counted() -> None:
    before = total(taken_below(os.getpid()))
    mapped = mmap.mmap(-1, NUM_PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(NUM_PAGES):
        mapped[page * mmap.PAGESIZE] = 1
    assert total(taken_below(os.getpid())).faults - before.faults >= NUM_PAGES


def test_a_part_is_named_after_its_first_argument_and_only_those_below_are_counted() -> None:
    command = [sys.executable, "-c", "input()", "tokenworks", "kvstore"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        assert "kvstore" in taken_below(os.getpid())
        assert "kvstore" in taken_below(child.pid)
        assert "kvstore" not in taken_below(-1)
    finally:
        child.communicate(b"\n")
