"""The observer's HTTP API over any ledger, answering on its real socket from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from starlette.routing import BaseRoute

from tokenworks.contract.config import Settings
from tokenworks.observe.ledger import OpenLedger
from tokenworks.observe.observer.address import listen
from tokenworks.observe.observer.api import ObserverApi, serve_on

PATIENCE_S = 60.0  # a bound for a busy machine, not an expectation


class RunningApi:
    """Answers until closed."""

    def __init__(self, settings: Settings, open_ledger: Callable[[], OpenLedger], *more: BaseRoute) -> None:
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._settings, self._open_ledger, self._more = settings, open_ledger, more
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(PATIENCE_S)

    def close(self) -> None:
        """Stop answering."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        listener = listen(self._settings.ledger)
        api = ObserverApi(self._settings, self._open_ledger)
        self._task = asyncio.create_task(serve_on(listener, api.app(*self._more)))
        self._started.set()
        await asyncio.wait([self._task])
        api.close()
