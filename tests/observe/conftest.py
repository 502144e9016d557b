"""Ledgers with given frames in them: the slow one in memory, which is the oracle, and the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.record import Frame
from tokenworks.observe.ledger import Ledger
from tokenworks.observe.store import open_ledger

MakeLedger = Callable[[Iterable[Frame], Settings], Ledger]


@pytest.fixture(params=["in memory", "SQLite"])
def make_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeLedger]:
    """A ledger with these frames, whose costs and objectives are those of the settings."""
    with ExitStack() as stack:
        count = iter(range(1_000_000))

        def make(frames: Iterable[Frame], settings: Settings) -> Ledger:
            if request.param == "in memory":
                return MemoryLedger(frames, cost=settings.cost, objectives=settings.objectives)
            at = LedgerSettings(path=str(tmp_path / f"ledger-{next(count)}"))
            ledger = open_ledger(at, is_writing=True, cost=settings.cost, objectives=settings.objectives)
            stack.enter_context(closing(ledger))
            ledger.take_in(list(frames))
            return ledger

        yield make
