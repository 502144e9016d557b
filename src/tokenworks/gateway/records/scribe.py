"""The gateway's hand on the journal: takes frames on the event loop, and flushes them within `flush_s`.

A timer runs only while something is unwritten, so that an idle gateway sleeps. Without a ledger frames go nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tokenworks.contract.record import Frame
from tokenworks.observe.journal.writer import Journal, JournalState


class Scribe:
    """Call it on the event loop."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_writing(self) -> bool:
        """Whether there is a ledger at all."""
        return self._journal is not None

    @property
    def state(self) -> JournalState:
        """What is not written down yet, or never will be."""
        return JournalState() if self._journal is None else self._journal.state

    def append(self, frame: Frame) -> None:
        """Write it down soon."""
        self.append_all([frame])

    def append_all(self, frames: Sequence[Frame]) -> None:
        """Write them down soon."""
        if self._journal is None or not frames:
            return
        for frame in frames:
            self._journal.append(frame)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._journal.flush_s, self.flush)

    def flush(self) -> None:
        """Write it down now."""
        if self._timer is not None and self._journal is not None:
            self._timer.cancel()
            self._timer = None
            self._journal.flush()

    def close(self) -> None:
        """Write the rest down, and no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
