"""A block's file: past the page cache or through it, the same bytes come back."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from pathlib import Path

import pytest

from tokenworks.kv.tiers import block_file
from tokenworks.kv.tiers.block_file import DIRECT_BYTES, PAGE, read_file, write_file


def at_page(num_bytes: int, skip: int = 0) -> memoryview:
    """Random bytes that begin so far behind the start of a page."""
    block = memoryview(mmap.mmap(-1, num_bytes + skip))[skip:]
    block[:] = random.Random(num_bytes).randbytes(num_bytes)
    return block


def content(path: Path) -> bytes:
    into = memoryview(bytearray(path.stat().st_size))
    file = os.open(path, os.O_RDONLY)
    try:
        assert read_file(file, into) == len(into)
    finally:
        os.close(file)
    return bytes(into)


@pytest.mark.parametrize("more", [0, 1, 128, PAGE - 1, PAGE, 3 * PAGE + 128])
def test_a_block_of_any_length_is_written_past_the_cache_whole(tmp_path: Path, more: int) -> None:
    block = at_page(DIRECT_BYTES + more)
    if not write_file(tmp_path / "block", block):
        pytest.skip("this file system does not take writes past its cache")
    assert content(tmp_path / "block") == bytes(block)


def test_what_is_written_past_the_cache_does_not_stand_in_it(tmp_path: Path) -> None:
    block = at_page(16 * DIRECT_BYTES + 128)
    if not write_file(tmp_path / "block", block):
        pytest.skip("this file system does not take writes past its cache")
    assert cached_pages(tmp_path / "block") <= 1  # the last one was cut
    assert content(tmp_path / "block") == bytes(block)
    assert cached_pages(tmp_path / "block") == 16 * DIRECT_BYTES // PAGE + 1  # read


def cached_pages(path: Path) -> int:
    """How many pages of a file stand in the page cache."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
    held = (ctypes.c_ubyte * -(-len(mapped) // PAGE))()
    assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(mapped)), held) == 0
    return sum(each & 1 for each in held)


@pytest.mark.parametrize(
    "block",
    [at_page(DIRECT_BYTES, skip=8), memoryview(bytes(DIRECT_BYTES)), at_page(DIRECT_BYTES - 1), at_page(0x10)],
    ids=["no page", "read-only", "small", "tiny"],
)
def test_what_cannot_go_past_the_cache_goes_through_it(tmp_path: Path, block: memoryview) -> None:
    assert not write_file(tmp_path / "block", block)
    assert content(tmp_path / "block") == bytes(block)


def test_a_system_that_refuses_is_written_to_through_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_file, "_begins_at_page", lambda block: True)  # so that the kernel is the one to refuse
    block = at_page(2 * DIRECT_BYTES, skip=8)
    assert not write_file(tmp_path / "block", block)
    assert content(tmp_path / "block") == bytes(block)


def test_an_error_that_is_no_refusal_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "gone" / "block", at_page(DIRECT_BYTES))
