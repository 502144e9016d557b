"""One thread and one connection that answer questions about the ledger; what they find is kept for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from tokenworks.contract.errors import LedgerError
from tokenworks.observe.ledger import Ledger, OpenLedger
from tokenworks.observe.observer.fresh import FreshAnswers

REOPENED_S: Final = 10.0
"""A damaged ledger is put aside and another one begins: who kept the old one open would answer from it for ever."""


class LedgerReader:
    """Lives on one event loop; everything below `ask` happens in its thread."""

    def __init__(self, open_ledger: Callable[[], OpenLedger], name: str) -> None:
        self._open_ledger = open_ledger
        self._ledger: OpenLedger | None = None
        self._opened_s = 0.0
        self._executor = ThreadPoolExecutor(1, name)
        self._fresh: FreshAnswers[bytes] = FreshAnswers(self._executor)

    async def ask(self, question: str, compute: Callable[[Ledger], Any]) -> bytes:
        """The answer as JSON; raises what `compute` raises, LedgerError, ObserverUnavailable."""
        return await self._fresh.get(question, lambda: self._encoded(compute))

    def close(self) -> None:
        """Let go of the ledger, once what is being computed is done."""
        self._executor.submit(self._let_go)
        self._executor.shutdown()

    def _encoded(self, compute: Callable[[Ledger], Any]) -> bytes:
        try:
            return msgspec.json.encode(compute(self._opened()))
        except LedgerError:
            self._let_go()
            raise

    def _opened(self) -> Ledger:
        """Opened again now and then; one that could not be opened is tried again with each question."""
        now_s = time.monotonic()
        if now_s - self._opened_s > REOPENED_S:
            self._let_go()
        if self._ledger is None:
            self._ledger, self._opened_s = self._open_ledger(), now_s
        return self._ledger

    def _let_go(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()
