"""Reads the journals of a folder: where it came to is noted by whoever keeps what it read, in one transaction with it.

A file is named by its writer's life and number, so that a position in it (a number of bytes) means the same for ever. A
stretch that cannot be read becomes a `Gap` in its place, and reading goes on at the next whole frame behind it. A cut
frame at the end of a file is waited for as long as the writer lives; what a dead writer left unfinished is a gap too.

A file is deleted once all of it has been kept (`forget`) and its writer is gone: the lock that it held can be had.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tokenworks.contract.record import Frame, Gap
from tokenworks.observe.journal.frames import HEADER_BYTES, MAX_BODY_BYTES, Found, find_frame, instant_ns

log = logging.getLogger(__name__)

SUFFIX: Final = ".journal"
BATCH_BYTES: Final = 1 << 20
_BEGUN_NS: Final = re.compile(r"-(\d{1,19})-[0-9a-f]+\.\d+" + re.escape(SUFFIX))


class Batch(NamedTuple):
    """What was read, and where that leads: the position in each file that was read from, by its name."""

    frames: list[Frame]
    positions: dict[str, int]


class JournalReader:
    """Reads every file of a folder, the oldest first. Files that cannot be read are passed over and told of once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen_ns: dict[str, int] = {}  # by file, the instant of the last frame
        self._troubles: set[str] = set()

    def read(self, positions: Mapping[str, int], max_bytes: int = BATCH_BYTES) -> Batch:
        """Frames behind `positions` (0 where a file is not in it), of about `max_bytes`; none: there are no more."""
        batch = Batch([], {})
        for path in self._files():
            with self._told(path), _opened(path) as file:
                start = positions.get(path.name, 0)
                end = self._read_file(path, file, start, max_bytes, batch.frames)
                if end != start:
                    batch.positions[path.name] = end
                    max_bytes -= end - start
            if max_bytes <= 0:
                break
        return batch

    def forget(self, positions: Mapping[str, int]) -> list[str]:
        """Delete the files that end at these positions, which have been kept, and are not written any more."""
        gone = [name for name in positions if not (self._folder / name).exists()]
        for path in self._files():
            if path.name in positions:
                with self._told(path), _opened(path) as file:
                    if _is_left(file) and os.fstat(file).st_size <= positions[path.name]:
                        path.unlink()
                        gone.append(path.name)
        for name in gone:
            self._seen_ns.pop(name, None)
        return gone

    def waiting_bytes(self, positions: Mapping[str, int]) -> int:
        """What is in the folder and has not been read."""
        total = 0
        for path in self._files():
            with suppress(FileNotFoundError):
                total += max(0, path.stat().st_size - positions.get(path.name, 0))
        return total

    def _read_file(self, path: Path, file: int, start: int, max_bytes: int, frames: list[Frame]) -> int:
        """Append its frames from `start` on; the position behind them."""
        is_left = _is_left(file)  # asked before reading: what is there then is all that will ever be
        position = start
        while position - start < max_bytes:
            found = list(_whole(file, position))
            for each in found:
                frames.append(each.frame or self._gap(path, each))
                self._seen_ns[path.name] = instant_ns(frames[-1])
            if not found:
                break
            position += found[-1].end
        rest = os.fstat(file).st_size - position
        if is_left and rest > 0 and position - start < max_bytes:
            frames.append(self._gap(path, Found(0, rest, None, "cut off")))
            position += rest
        return position

    def _gap(self, path: Path, found: Found) -> Gap:
        """Frames are missing between the last one that was read and now; one at least."""
        begun = _BEGUN_NS.search(path.name)
        from_ns = self._seen_ns.get(path.name) or (int(begun[1]) if begun else 0)
        reason = f"{found.end - found.start} bytes of {path.name} could not be read: {found.damage}"
        log.warning("%s", reason)
        return Gap(from_ns, max(from_ns, time.time_ns()), 1, reason)

    def _files(self) -> list[Path]:
        """By the beginning of their writers' lives, and in the order in which each wrote them."""
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(SUFFIX)]
        except FileNotFoundError:
            return []
        return [self._folder / name for name in sorted(names, key=_order)]

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass  # another observer was here first
        except OSError as error:
            if path.name not in self._troubles:
                log.warning("%s cannot be read: %s; it is left as it is", path, error.strerror)
            self._troubles.add(path.name)


def _order(name: str) -> tuple[int, str]:
    begun = _BEGUN_NS.search(name)
    return int(begun[1]) if begun else 0, name


def _whole(file: int, position: int) -> Iterator[Found]:
    """What can be read in one piece from `position` on; starts and ends count from there."""
    data = os.pread(file, BATCH_BYTES, position)
    found = find_frame(data, 0)
    if found is None and len(data) == BATCH_BYTES:
        data = os.pread(file, BATCH_BYTES + HEADER_BYTES + MAX_BODY_BYTES, position)
        found = find_frame(data, 0) or _hopeless(data)
    while found is not None:
        yield found
        found = find_frame(data, found.end)


def _hopeless(data: bytes) -> Found | None:
    """A stretch longer than any frame, with none in it."""
    most = HEADER_BYTES + MAX_BODY_BYTES
    return Found(0, len(data) - most, None, "damaged") if len(data) > most else None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def _is_left(file: int) -> bool:
    """Whether its writer is gone. The lock is let go of when `file` is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
