"""Carries written files to the device in the background, so that a put does not wait for it.

What is lost when:
- **SIGKILL, an exception, the out-of-memory killer**: nothing that was put. Its bytes are with the kernel.
- **A power cut, a kernel panic**: the files written in the last `sync_s` seconds, at most. The thread goes round twice
  in that time; a device that cannot keep up makes puts wait (`wait_for_device`) and then be refused, so that what waits
  does not grow. A file of those seconds may be missing, empty or torn: its reader's checksums find it.
- **The device refuses a flush**: that file is removed, because what it holds is not known any more.

The time of a file's last use is noted on the same rounds, as its mtime: one cheap call a file and round, however often
it was read. A crash loses the last round's; they only order evictions. Wall clock, so that they mean something after
a restart; a clock that jumps costs a wrong eviction or two.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tokenworks.kv.tiers.folder import sync
from tokenworks.kv.tiers.tier import PutRefused


class Flusher:
    """A thread that flushes what it is told of. `lost` is called, in that thread, with files that could not be."""

    def __init__(self, sync_s: float, lost: Callable[[Path], None]) -> None:
        self._sync_s = sync_s
        self._lost = lost
        self._changed = threading.Condition()
        self._written: dict[Path, float] = {}  # not on the device yet, since when (monotonic), oldest first
        self._used: dict[Path, int] = {}  # last use, wall clock in ns
        self._fault: OSError | None = None
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kv-disk-flusher", daemon=True)
        self._thread.start()

    @property
    def unsynced_s(self) -> float:
        """How long the oldest file has waited for the device; 0 where none waits."""
        with self._changed:
            return self._age_s()

    def wrote(self, file: Path) -> None:
        """This file has been put in its place."""
        with self._changed:
            self._written.pop(file, None)
            self._written[file] = time.monotonic()

    def used(self, file: Path) -> None:
        """This file has been read."""
        with self._changed:
            self._used[file] = time.time_ns()

    def wait_for_device(self) -> None:
        """Until what was written more than `sync_s` ago is on the device.

        Raises PutRefused where that takes another `sync_s`, and once the OSError of a flush that failed.
        """
        with self._changed:
            fault, self._fault = self._fault, None
            if fault is not None:
                raise fault
            if not self._changed.wait_for(lambda: self._age_s() <= self._sync_s, self._sync_s):
                raise PutRefused(
                    f"the disk does not keep up: blocks have waited {self._age_s():.0f} s to be written to the device. "
                    "Raise kv.sync_s, or set kv.disk_path to a faster device"
                )

    def flush(self) -> None:
        """One round: when this returns, what had been written before the call is on the device."""
        with self._changed:
            written, used, self._used = list(self._written.items()), self._used, {}
        for file, _ in written:
            self._flush_file(file)
        for folder in dict.fromkeys(file.parent for file, _ in written):
            self._flush_folder(folder)
        self._settle(written)
        for file, used_ns in used.items():
            with suppress(OSError):  # it is gone, or the disk is read-only: this was only for the order of evictions
                os.utime(file, ns=(used_ns, used_ns))

    def close(self) -> None:
        """Flush all, and end the thread."""
        self._is_closing.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        period_s = self._sync_s / 2
        wait_s = period_s
        while not self._is_closing.wait(wait_s):
            start = time.monotonic()
            self.flush()
            wait_s = max(0.0, period_s - (time.monotonic() - start))

    def _flush_file(self, file: Path) -> None:
        try:
            sync(file)
        except FileNotFoundError:
            pass  # deleted since
        except OSError as error:
            self._note(error)
            self._lost(file)

    def _flush_folder(self, folder: Path) -> None:
        try:
            sync(folder)
        except OSError as error:
            self._note(error)

    def _settle(self, written: list[tuple[Path, float]]) -> None:
        """These wait no more, unless they have been written again."""
        with self._changed:
            for file, since in written:
                if self._written.get(file) == since:
                    del self._written[file]
            self._changed.notify_all()

    def _note(self, error: OSError) -> None:
        with self._changed:
            self._fault = error

    def _age_s(self) -> float:
        oldest = next(iter(self._written.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest
