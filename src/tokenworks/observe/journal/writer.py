"""The gateway's journal: what is to be known later is appended to a file, at once and whatever the database does.

    FOLDER/GATEWAY-1763816400000000000-5f0c2a9b.00000.journal      one life of one gateway, cut into files of 16 MiB

What can be lost, and how much of it:
  SIGKILL of the gateway: what was appended since the last `flush`, which its timer calls every `flush_s` (50 ms).
  Power loss: that, and what was written since the last `fdatasync`, which a thread does every `SYNC_EVERY_S` (1 s).
  A disk that is full or broken: nothing while `MAX_BUFFERED_BYTES` hold it; then frames are dropped and counted, and a
  `Gap` that says how many is the first thing written once writing works again.
Nothing here waits for a disk but `close` (and the kernel, where it throttles writers), and nothing raises.

A file is locked (flock) as long as its writer lives, from before it has its name: a reader that can lock it knows that
nothing more will come. `journal.reader` is the other side.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import re
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tokenworks.contract.record import Frame, Gap
from tokenworks.observe.journal.frames import encode_frame
from tokenworks.observe.journal.reader import SUFFIX

log = logging.getLogger(__name__)

ROTATE_BYTES: Final = 16 << 20
MAX_BUFFERED_BYTES: Final = 8 << 20
SYNC_EVERY_S: Final = 1.0
PATIENCE_S: Final = 1.0  # how long a failed write is let rest
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.]+")


class JournalState(NamedTuple):
    """What is not in the journal's files."""

    waiting_frames: int = 0  # in memory, until they are written: for `flush_s`, and as long as nothing can be
    dropped_frames: int = 0  # since the start, whatever gaps say
    failure: str = ""  # why nothing can be written now; "": it can


class Journal:
    """Appends frames; of one thread, which calls `flush` every `flush_s`."""

    def __init__(self, folder: Path, gateway: str, flush_s: float) -> None:
        self.flush_s = flush_s
        self.dropped_frames = 0  # since the start, whatever gaps say
        self._folder = folder
        self._stem = f"{_UNFIT.sub('_', gateway)[:64] or 'gateway'}-{time.time_ns()}-{os.urandom(4).hex()}"
        self._frames: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._begun_bytes = 0  # of the first frame, that are in the file already
        self._file = -1
        self._file_bytes = 0
        self._path = folder
        self._files = 0
        self._failure = ""
        self._lost = _Lost()
        self._retry_at = 0.0
        self._syncer = _Syncer()

    @property
    def state(self) -> JournalState:
        """At this moment."""
        return JournalState(len(self._frames), self.dropped_frames, self._failure if self._retry_at else "")

    def append(self, frame: Frame) -> None:
        """Take a frame; the next `flush` writes it."""
        try:
            encoded = encode_frame(frame)
        except (ValueError, TypeError) as error:
            self._drop(f"a {type(frame).__name__} could not be written: {error}")
            return
        if self._buffered_bytes + len(encoded) > MAX_BUFFERED_BYTES:
            self._drop(self._failure or "more came than was written")
            return
        self._buffer(encoded)

    def flush(self) -> None:
        """Write what was appended, in one write."""
        if (self._frames or self._lost.frames) and time.monotonic() >= self._retry_at:
            try:
                self._write()
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Write and sync the rest."""
        self._retry_at = 0.0
        self.flush()
        if self._frames or self._lost.frames:
            log.error("journal: %d frames could not be written and are lost", len(self._frames) + self._lost.frames)
        self._hand_over()
        self._syncer.close()

    def _write(self) -> None:
        if self._file < 0 or self._file_bytes >= ROTATE_BYTES:
            self._next_file()
        self._write_buffer()
        if not self._frames and self._lost.frames:  # behind what was there before them, in the place of what was lost
            self._buffer(encode_frame(self._lost.gap()))
            self._lost = _Lost()
            self._write_buffer()

    def _write_buffer(self) -> None:
        """One write; what it leaves is written by the next, which fails where there is a reason and says which."""
        data = b"".join(self._frames)
        written = os.write(self._file, memoryview(data)[self._begun_bytes :])
        self._syncer.is_dirty = True
        self._file_bytes += written
        self._begun_bytes += written
        while self._frames and len(self._frames[0]) <= self._begun_bytes:
            self._begun_bytes -= len(self._frames[0])
            self._buffered_bytes -= len(self._frames.popleft())
        if not self._frames and self._retry_at:
            log.warning("journal: written again")
            self._retry_at = 0.0

    def _buffer(self, encoded: bytes) -> None:
        self._frames.append(encoded)
        self._buffered_bytes += len(encoded)

    def _drop(self, reason: str) -> None:
        self.dropped_frames += 1
        if self._lost.count(reason):
            log.warning("journal: frames are dropped: %s", reason)

    def _fail(self, error: OSError) -> None:
        """Let it rest, and go on in another file: this one may be what is wrong."""
        self._failure = f"the journal could not be written: {error.strerror}"
        if not self._retry_at:
            most = MAX_BUFFERED_BYTES >> 20
            log.warning("%s, below %s; up to %d MiB wait in memory", self._failure, self._folder, most)
        self._retry_at = time.monotonic() + PATIENCE_S
        self._hand_over()

    def _next_file(self) -> None:
        self._hand_over()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{self._stem}.{self._files:05d}{SUFFIX}"
        opening = path.with_suffix(".opening")
        descriptor = os.open(opening, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opening.rename(path)
        except OSError:
            os.close(descriptor)
            raise
        self._file, self._file_bytes, self._path = descriptor, 0, path
        self._files += 1
        self._syncer.file = descriptor

    def _hand_over(self) -> None:
        """Leave the file, with whole frames only and not at all where it is empty."""
        if self._file < 0:
            return
        whole_bytes = self._file_bytes - self._begun_bytes
        with suppress(OSError):  # then its reader finds the cut frame, and tells of it
            if self._begun_bytes:
                os.ftruncate(self._file, whole_bytes)
            if not whole_bytes:
                self._path.unlink()
        self._begun_bytes = 0
        self._syncer.done_with(self._file)
        self._file = -1


class _Lost:
    """What was dropped since the last gap was written."""

    def __init__(self) -> None:
        self.frames = 0
        self.reason = ""
        self._from_ns = 0

    def count(self, reason: str) -> bool:
        """One more; whether it is the first."""
        self.frames += 1
        if self.frames == 1:
            self._from_ns, self.reason = time.time_ns(), reason
        return self.frames == 1

    def gap(self) -> Gap:
        # A clock that was set back meanwhile does not make a gap that ends before it begins.
        return Gap(self._from_ns, max(self._from_ns, time.time_ns()), self.frames, self.reason)


class _Syncer:
    """A thread that makes safe what was written. It alone closes files, so that it never syncs somebody else's."""

    def __init__(self) -> None:
        self.file = -1
        self.is_dirty = False
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def done_with(self, file: int) -> None:
        """Sync this file, close it and so let go of its lock."""
        self.file = -1
        self._done.put(file)

    def close(self) -> None:
        """Sync and close everything that was handed over; a disk that hangs is given up after a while."""
        self._closing.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        while not self._closing.wait(SYNC_EVERY_S):
            self._turn()
        self._turn()

    def _turn(self) -> None:
        closed = []
        while not self._done.empty():
            closed.append(self._done.get())
            _sync(closed[-1])
        if self.is_dirty:
            self.is_dirty = False
            _sync(self.file)
        for file in closed:
            os.close(file)


def _sync(file: int) -> None:
    try:
        if file >= 0:
            os.fdatasync(file)
    except OSError as error:
        log.warning("journal: cannot sync: %s; a power loss now would cost records", error.strerror)
