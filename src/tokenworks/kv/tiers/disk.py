"""The disk tier: one file a block, whole or not there, bounded, and found again after a restart.

What a crash or a power cut can lose is said in `flusher`. Which block leaves when the tier is full is the store's to
decide; here a put beyond the limit is refused. Writes go past the page cache (see `block_file`). Reads go through it,
into the caller's memory: past it cold files came twice as fast, and those still in memory nine times slower. The kernel
gives the cache up first when memory is short.

Invariants: the files together never hold more than `limit_bytes`, unless they did when the folder was opened; 5 % of
the file system, or 1 GiB where that is less, stays free for everybody else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokenworks.contract.kv import BlockName
from tokenworks.kv.format import HEADER_BYTES, BadBlock, read_header
from tokenworks.kv.tiers.disk_error import explained, tier_error
from tokenworks.kv.tiers.flusher import Flusher
from tokenworks.kv.tiers.folder import claim_folder
from tokenworks.kv.tiers.tier import BlockTier, PutRefused, TierError

KEPT_FREE_SHARE: Final = 0.05
KEPT_FREE_BYTES: Final = 1 << 30
_TURNS: Final = 64


class DiskTier(BlockTier):
    """Blocks in the files of one folder, which no other process may use meanwhile."""

    def __init__(self, path: Path, limit_bytes: int, sync_s: float) -> None:
        """Raises TierError where the folder cannot be used, or another store has it."""
        self._path = path
        self._limit_bytes = limit_bytes
        with explained(path):
            self._folder = claim_folder(path)
        self._turns = [threading.Lock() for _ in range(_TURNS)]  # by name: file and count change together
        self._lock = threading.Lock()  # of the counts; taken after a turn, never before
        self._sizes: dict[BlockName, int] | None = None  # bytes by name, as they were put; None: not looked yet
        self._used_bytes = 0
        self._is_closed = False
        self._flusher = Flusher(sync_s, self._drop)

    @property
    def unsynced_s(self) -> float:
        """How long the oldest block that a power cut could lose has waited for the device, in seconds."""
        return self._flusher.unsynced_s

    def put(self, name: BlockName, block: memoryview) -> None:
        with explained(self._path):
            self._flusher.wait_for_device()
            self._check_free(len(block))
            with self._turn(name):
                before = self._reserve(name, len(block))
                try:
                    self._folder.write(name, block)
                except BaseException:
                    self._set_size(name, before)
                    raise
        self._flusher.wrote(self._folder.place(name))

    def get(self, name: BlockName, into: memoryview) -> int:
        """See BlockTier. A torn file is removed; its bytes are given, for the reader's check to name the fault."""
        try:
            num_bytes = self._folder.read(name, into)
        except FileNotFoundError:
            self._forget(name)
            return 0
        except OSError as error:
            raise tier_error(error, self._path) from error
        if num_bytes > len(into):
            return 0
        if _is_torn(into[:num_bytes]):
            with suppress(TierError):
                self.delete([name])
        else:
            self._flusher.used(self._folder.place(name))
        return num_bytes

    def delete(self, names: Iterable[BlockName]) -> None:
        with explained(self._path):
            for name in names:
                with self._turn(name):
                    self._folder.remove(name)
                    self._set_size(name, 0)

    def names(self) -> list[tuple[BlockName, int]]:
        with explained(self._path), self._lock:
            return list(self._looked_up().items())

    def held(self, names: Sequence[BlockName]) -> dict[BlockName, int]:
        with explained(self._path), self._lock:
            sizes = self._looked_up()
            return {name: sizes[name] for name in names if name in sizes}

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._flusher.close()
            self._folder.release()

    def _turn(self, name: BlockName) -> threading.Lock:
        return self._turns[name[0] % _TURNS]

    def _forget(self, name: BlockName) -> None:
        """Somebody has removed a file, or the whole folder, behind our back."""
        with explained(self._path), self._turn(name):
            if not self._folder.has(name):
                self._set_size(name, 0)

    def _looked_up(self) -> dict[BlockName, int]:
        """Bytes by name; the first call reads the folder, everybody who puts or deletes waits for it."""
        if self._sizes is None:
            files = sorted(self._folder.scan(), key=lambda file: file.used_ns)
            self._sizes = {file.name: file.num_bytes for file in files}
            self._used_bytes = sum(self._sizes.values())
        return self._sizes

    def _reserve(self, name: BlockName, num_bytes: int) -> int:
        """Count a block in, before it is written; what it counted before. Raises PutRefused beyond the limit."""
        with self._lock:
            before = self._looked_up().get(name, 0)
            if self._used_bytes - before + num_bytes > self._limit_bytes:
                raise PutRefused(
                    f"KV blocks in {self._path}: {self._used_bytes:,} of {self._limit_bytes:,} bytes are used, "
                    f"{num_bytes:,} more do not fit: delete blocks, or raise kv.disk_bytes"
                )
            self._count(name, num_bytes)
            return before

    def _set_size(self, name: BlockName, num_bytes: int) -> None:
        with self._lock:
            self._looked_up()
            self._count(name, num_bytes)

    def _count(self, name: BlockName, num_bytes: int) -> None:
        assert self._sizes is not None
        self._used_bytes += num_bytes - self._sizes.pop(name, 0)
        if num_bytes:
            self._sizes[name] = num_bytes

    def _check_free(self, num_bytes: int) -> None:
        free, total = self._folder.free_bytes()
        kept = min(int(KEPT_FREE_SHARE * total), KEPT_FREE_BYTES)
        if free - num_bytes < kept:
            raise PutRefused(
                f"KV blocks in {self._path}: {free:,} bytes are free on its file system and {kept:,} are kept so: "
                "free space there, or lower kv.disk_bytes"
            )

    def _drop(self, file: Path) -> None:
        """A file that could not be flushed: nobody knows what is in it."""
        with suppress(TierError):
            self.delete([bytes.fromhex(file.name)])


def _is_torn(block: memoryview) -> bool:
    """Whether a file has another length than its header says, or no header."""
    try:
        return len(block) != HEADER_BYTES + read_header(block).payload_bytes
    except BadBlock:
        return True
