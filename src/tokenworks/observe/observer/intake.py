"""Carries the journal into the ledger, batch after batch, whatever happens to the database.

    locked, slow, full, unreachable    it waits and tries again; the journal grows, nothing is lost
    damaged                            it is put aside, a new one begins and is told of it
    a frame that cannot be kept        becomes a gap; the rest of its batch is kept

What was committed is deleted from the journal only then. One thread at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import LedgerDamaged, LedgerError
from tokenworks.contract.record import Frame
from tokenworks.observe.journal.reader import Batch, JournalReader
from tokenworks.observe.ledger import Span
from tokenworks.observe.observer.waiting_spans import WaitingSpans
from tokenworks.observe.store import SqlLedger
from tokenworks.observe.store.open import open_writing, put_aside

log = logging.getLogger(__name__)


class Intake:
    """One folder's journal, and the ledger that it goes into."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.listeners: list[Callable[[Sequence[Frame]], None]] = []
        self._settings = settings
        self._reader = JournalReader(folder / "journal")
        self._ledger: SqlLedger | None = None
        self._trouble = ""
        self.spans = WaitingSpans()

    def turn(self) -> bool:
        """Take in one batch; whether there may be another at once."""
        return self._tried(self._take_batch)

    def keep_up(self, now_ns: int) -> bool:
        """One step of roll-up and retention; whether there may be another."""
        return self._tried(lambda ledger: ledger.keep_up(now_ns))

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = None

    def _tried(self, act: Callable[[SqlLedger], bool]) -> bool:
        try:
            is_more = self._done(act)
        except LedgerError as error:
            self._tell_trouble(error)
            return False
        if self._trouble and is_more:  # something was written: that there was nothing to write proves nothing
            log.warning("the ledger can be written again")
            self._trouble = ""
        return is_more

    def _done(self, act: Callable[[SqlLedger], bool]) -> bool:
        settings = self._settings
        try:
            if self._ledger is None:
                self._ledger = open_writing(settings)
            return act(self._ledger)
        except LedgerDamaged as error:
            self.close()
            told = put_aside(settings.ledger, error.message)
        self._ledger = open_writing(settings)
        self._ledger.take_in(told)
        return True

    def _take_batch(self, ledger: SqlLedger) -> bool:
        positions = ledger.positions()
        ledger.forget_files(self._reader.forget(positions))
        batch, spans = self._reader.read(positions), self.spans.first()
        if not batch.positions and not spans:
            return False
        self._keep(ledger, batch, spans)
        for listener in list(self.listeners):
            listener(batch.frames)
        return True

    def _keep(self, ledger: SqlLedger, batch: Batch, spans: list[Span]) -> None:
        try:
            ledger.take_in(batch.frames, spans, batch.positions)
        except LedgerError:
            raise
        except Exception as error:
            log.exception("a batch of %d frames could not be taken in at once", len(batch.frames))
            ledger.take_in_singly(batch.frames, batch.positions)
            self.spans.done(len(spans), LedgerError(f"these spans cannot be kept: {error!r}"))
        else:
            self.spans.done(len(spans))

    def _tell_trouble(self, error: LedgerError) -> None:
        if error.message != self._trouble:
            log.warning("%s; the journal keeps what comes meanwhile", error.message)
        self._trouble = error.message
