"""A folder whose files come slowly, without root: every file in it is leased, and who opens one waits for the lease.

    with slow_disk(folder, seconds_a_file=0.05):
        ...  # whoever opens a file of the folder for reading waits, in the kernel, for its turn

A lease (fcntl's F_SETLEASE) makes the kernel hold up everybody else's `open` until its holder gives it back, or 45
seconds have passed; a process may lease its own files. One thread here gives back one lease at a time, one every
`seconds_a_file`, and then takes it again: a device that serves so many files a second, whoever waits for them. What is
open already is not slowed down, and is leased once it is closed. Linux only.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.diagnosis.meanwhile import meanwhile

LOOK_EVERY_S = 0.002
RENEW_EVERY = 50  # looks: files that came meanwhile are leased too


class _Leases:
    """On every file below a folder that can be leased. Of one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}  # descriptor by path

    def renew(self) -> None:
        """Take those that are not held."""
        for folder, _, names in os.walk(self._folder):
            for path in (os.path.join(folder, name) for name in names):
                if path not in self._held and (descriptor := _leased(path)) is not None:
                    self._held[path] = descriptor

    def wanted(self) -> str | None:
        """A file that somebody waits for."""
        return next((path for path, held in self._held.items() if _is_wanted(held)), None)

    def give_back(self, path: str) -> None:
        """Let those who wait for this file have it."""
        os.close(self._held.pop(path))

    def give_all_back(self) -> None:
        """Nobody waits any more."""
        for path in list(self._held):
            self.give_back(path)


@contextmanager
def slow_disk(folder: Path, seconds_a_file: float) -> Iterator[None]:
    """While the block lasts, files of the folder are opened one after the other, `seconds_a_file` each."""
    with meanwhile(partial(_hold_up, folder, seconds_a_file)):
        yield


def _hold_up(folder: Path, seconds_a_file: float, is_over: threading.Event) -> None:
    leases, looks = _Leases(folder), 0
    try:
        while not is_over.is_set():
            if looks % RENEW_EVERY == 0:
                leases.renew()
            looks += 1
            if (path := leases.wanted()) is not None:
                is_over.wait(seconds_a_file)
                leases.give_back(path)
            is_over.wait(LOOK_EVERY_S)
    finally:
        leases.give_all_back()


def _leased(path: str) -> int | None:
    """A descriptor with a lease on the file; None where somebody has it open, or it has gone."""
    descriptor = -1
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # of being waited for; ignored, unlike SIGIO
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    return None


def _is_wanted(descriptor: int) -> bool:
    """Whether the kernel holds somebody up: the lease is then what it is to become."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK
