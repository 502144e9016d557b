"""A folder of block files: where each lies, and how one is written so that it is there whole or not at all.

    PATH/tokenworks-kv-1/lock         held by the one process that may write here
    PATH/tokenworks-kv-1/new/         files being written; emptied when the folder is opened
    PATH/tokenworks-kv-1/ab/ab34...   one sealed block each, in 256 folders by the first byte of the name

A file is written in `new` and renamed, which works on every file system; an anonymous file (O_TMPFILE) would leave no
leftovers, but it cannot replace a file and not every file system has it. Everything below `tokenworks-kv-1` is ours and
nothing beside it is touched, so that a PATH with other things in it is safe.

Invariant: nobody ever sees half a file under a block's name, unless the power failed (see `flusher`).
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tokenworks.contract.folders import BLOCK_FOLDER
from tokenworks.contract.kv import NAME_BYTES, BlockName
from tokenworks.kv.format import HEADER_BYTES
from tokenworks.kv.tiers.block_file import read_file, write_file
from tokenworks.kv.tiers.tier import TierError

_FOLDERS: Final = [f"{byte:02x}" for byte in range(256)]


class BlockFile(NamedTuple):
    """One file of the folder."""

    name: BlockName
    num_bytes: int
    used_ns: int  # wall clock; it orders files, nothing else


class BlockFolder:
    """The files of a folder that this process has locked. Thread-safe; every method may raise OSError."""

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock
        self._serial = itertools.count()

    def place(self, name: BlockName) -> Path:
        """Where this block lies, if it is there."""
        digits = name.hex()
        return self.root / digits[:2] / digits

    def write(self, name: BlockName, block: memoryview) -> None:
        """Put a file in its place, instead of one that may be there."""
        new = self.root / "new" / f"{name.hex()}-{next(self._serial)}"
        try:
            write_file(new, block)
            os.rename(new, self.place(name))
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise

    def read(self, name: BlockName, into: memoryview) -> int:
        """A file's length; its bytes stand at the start of `into` afterwards, unless it is longer than that."""
        file = os.open(self.place(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_file(file, into)
        finally:
            os.close(file)

    def has(self, name: BlockName) -> bool:
        """Whether there is a file of that name; raises FileNotFoundError where not even its folder is there."""
        place = self.place(name)
        if place.exists():
            return True
        os.stat(place.parent)
        return False

    def remove(self, name: BlockName) -> None:
        """Remove a file, if it is there."""
        self.place(name).unlink(missing_ok=True)

    def scan(self) -> Iterator[BlockFile]:
        """Every block's file, in no order; those too short to be a block are removed. Reads no file."""
        for folder in _FOLDERS:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    file = _block_file(entry)
                    if file is not None and file.num_bytes < HEADER_BYTES:
                        os.unlink(entry)
                    elif file is not None:
                        yield file

    def free_bytes(self) -> tuple[int, int]:
        """What this user may still write on the file system, and how large it is."""
        system = os.statvfs(self.root)
        return system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize

    def release(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)


def claim_folder(path: Path) -> BlockFolder:
    """Lock the folder, made where it is missing, for this process; raises OSError, and TierError if another has it."""
    root = path / BLOCK_FOLDER
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # KV can be turned back into its prompt: only we read it
    except FileNotFoundError as error:
        raise TierError(f"KV blocks in {path}: no folder can be made there: set kv.disk_path elsewhere") from error
    (root / "new").mkdir(mode=0o700, exist_ok=True)
    lock = _lock(root / "lock", path)
    try:
        for leftover in (root / "new").iterdir():
            leftover.unlink()
        for folder in _FOLDERS:
            (root / folder).mkdir(mode=0o700, exist_ok=True)
        for made in (root, path, path.absolute().parent):
            sync(made)
    except BaseException:
        os.close(lock)
        raise
    return BlockFolder(root, lock)


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, written to the device."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _lock(file: Path, path: Path) -> int:
    """A locked file; the lock goes with the process, however it ends."""
    # For reading: a file that is open for writing would keep an operator from remounting the disk read-only.
    lock = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 1024).decode(errors="replace") or "another process"
        os.close(lock)
        raise TierError(
            f"KV blocks in {path}: {holder} keeps its blocks there: give each store a kv.disk_path of its own"
        ) from None
    file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    return lock


def _block_file(entry: os.DirEntry[str]) -> BlockFile | None:
    """What a folder's entry is; None where it is no block, or gone by now."""
    if len(entry.name) != 2 * NAME_BYTES or not entry.is_file(follow_symlinks=False):
        return None
    with suppress(ValueError, FileNotFoundError):
        status = entry.stat(follow_symlinks=False)
        return BlockFile(bytes.fromhex(entry.name), status.st_size, status.st_mtime_ns)
    return None
