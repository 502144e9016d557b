"""Shared memory: seen by another process, gone with the last, bounded; every refusal says what to do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tokenworks.contract.errors import StartupError
from tokenworks.kv.arena import ArenaError, create_arena, open_arena

PAGES = 1 << 20
WRITE_THERE = """
import sys
from tokenworks.kv.arena import open_arena
open_arena(sys.argv[1], int(sys.argv[2])).view(4096, 5)[:] = b"there"
"""


def test_another_process_writes_what_this_one_reads() -> None:
    arena = create_arena(PAGES, PAGES)
    subprocess.run([sys.executable, "-c", WRITE_THERE, arena.path, str(PAGES)], check=True)
    assert bytes(arena.view(4095, 7)) == b"\0there\0"


def test_memory_outlives_the_process_that_made_it() -> None:
    arena = create_arena(PAGES, PAGES)
    other = open_arena(arena.path, PAGES)
    arena.view(0, 4)[:] = b"kept"
    os.close(int(arena.path.rpartition("/")[2]))
    del arena
    assert bytes(other.view(0, 4)) == b"kept"


def test_paging_in_leaves_nothing_to_fault_and_no_byte_changed() -> None:
    num_bytes = (9 << 20) + 4096  # no multiple of what is paged in at a time
    arena = create_arena(num_bytes, num_bytes)
    arena.view(num_bytes - 4, 4)[:] = b"last"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arena.page_in().join()
    if resource.getrusage(resource.RUSAGE_SELF).ru_minflt == before:
        pytest.skip("this kernel does not page in ahead: it takes Linux 5.14")
    written = b"w" * (num_bytes - 4)  # its own pages are there by now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arena.view(0, num_bytes - 4)[:] = written
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < num_bytes // 4096 // 4
    assert bytes(arena.view(num_bytes - 4, 4)) == b"last"


def test_the_maker_has_all_of_it_allocated_and_what_was_written_stays() -> None:
    num_bytes = (9 << 20) + 4096
    arena = create_arena(num_bytes, num_bytes)
    arena.view(0, 5)[:] = b"first"
    descriptor = int(arena.path.rpartition("/")[2])
    assert os.fstat(descriptor).st_blocks * 512 < num_bytes // 2
    arena.page_in().join()
    assert os.fstat(descriptor).st_blocks * 512 >= num_bytes
    assert bytes(arena.view(0, 6)) == b"first\0"


def test_memory_that_cannot_be_allocated_ahead_comes_as_it_is_written() -> None:
    arena = create_arena(PAGES, PAGES)
    os.close(int(arena.path.rpartition("/")[2]))
    arena.page_in().join()
    arena.view(0, 4)[:] = b"late"
    assert bytes(arena.view(0, 4)) == b"late"


@pytest.mark.parametrize(("offset", "num_bytes"), [(-1, 4), (0, -4), (PAGES - 3, 4), (0, PAGES + 1), (1 << 60, 1)])
def test_a_place_outside_is_refused(offset: int, num_bytes: int) -> None:
    arena = create_arena(PAGES, PAGES)
    with pytest.raises(ArenaError, match="not within"):
        arena.view(offset, num_bytes)


def test_more_than_is_free_is_refused_and_the_setting_named() -> None:
    with pytest.raises(StartupError, match=r"given 2\.0 GiB of memory and 1\.0 GiB are free: lower --kv-host-bytes"):
        create_arena(2 << 30, 1 << 30)


def test_what_is_not_the_arena_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other"
    with pytest.raises(ArenaError, match="same host, as the same user"):
        open_arena(str(file), 4096)
    file.write_bytes(bytes(100))
    with pytest.raises(ArenaError, match="does not have 4096 bytes"):
        open_arena(str(file), 4096)
    with pytest.raises(ArenaError, match="cannot map"):
        open_arena("/dev/null", 0)
