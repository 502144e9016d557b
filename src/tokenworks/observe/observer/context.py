"""What the observer's tasks share. Knows none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from tokenworks.contract.config import Settings
from tokenworks.contract.record import Frame
from tokenworks.observe.ledger import OpenLedger, Span
from tokenworks.observe.observer.figures import SpanFigures


class ObserverContext:
    """What a task has to work with. Of the event loop's thread alone."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        open_ledger: Callable[[], OpenLedger],
        tell: Callable[[Sequence[Span]], Future[None] | None],
        listeners: list[Callable[[Sequence[Frame]], None]],
    ) -> None:
        self.settings = settings
        self.folder = folder  # where journal and database are, and what tasks leave for others
        self.open_ledger = open_ledger  # for reading, one for each call; raises LedgerError while there is none
        self.tell = tell  # spans for the ledger; done when they are in it. None: there is no room for them
        self.listeners = listeners  # told of all frames that were taken in, from another thread: be quick
        self.spans = SpanFigures()  # what became of them
        self.stopping = asyncio.Event()
