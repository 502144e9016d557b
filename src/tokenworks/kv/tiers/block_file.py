"""Writes and reads one block's file.

A large block is written past the page cache (O_DIRECT), from the arena's own pages to the device: of 3.5 MiB that takes
0.3 ms of a processor, through the cache 1.8 to 3.3 (a copy, fresh pages, the kernel writing them back), which the same
processors lack for computing. What is read again soon stands in host memory anyway. Where that cannot be (a file system
that refuses, memory that does not begin at a page, a small block), the file is written through the cache.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Final

PAGE: Final = 4096
"""What O_DIRECT wants memory, offsets and lengths to be multiples of; devices ask for as much or less."""

DIRECT_BYTES: Final = 64 << 10
"""Smaller blocks cost as much to write past the cache as through it."""

_REFUSED: Final = {errno.EINVAL, errno.EOPNOTSUPP}
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def write_file(path: Path, block: memoryview) -> bool:
    """Make a file of these bytes, past the page cache where that can be; whether it was. Raises OSError."""
    if len(block) >= DIRECT_BYTES and _begins_at_page(block):
        try:
            _write_direct(path, block)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        else:
            return True
    _write(path, 0, [block])
    return False


def read_file(file: int, into: memoryview) -> int:
    """The length of an open file; its bytes stand at the start of `into` afterwards, unless it is longer than that."""
    num_bytes = os.fstat(file).st_size
    if num_bytes > len(into):
        return num_bytes
    read = 0
    while read < num_bytes:
        piece = os.preadv(file, [into[read:num_bytes]], read)
        if not piece:
            break
        read += piece
    return read


def _write_direct(path: Path, block: memoryview) -> None:
    """Whole pages, the last one a padded copy; then the file is cut to its length."""
    whole = len(block) // PAGE * PAGE
    pieces = [block[:whole]]
    if whole < len(block):
        last = memoryview(mmap.mmap(-1, PAGE))
        last[: len(block) - whole] = block[whole:]
        pieces.append(last)
    _write(path, os.O_DIRECT, pieces)
    os.truncate(path, len(block))


def _write(path: Path, flags: int, pieces: list[memoryview]) -> None:
    file = os.open(path, _NEW | flags, 0o600)
    try:
        while pieces:
            written = os.writev(file, pieces)
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.pop(0))
            if pieces:
                pieces[0] = pieces[0][written:]
    finally:
        os.close(file)


def _begins_at_page(block: memoryview) -> bool:
    if block.readonly:  # its address cannot be asked for; what the store writes stands in memory of its own
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(block)) % PAGE == 0
