"""Makes records of what has ended and hands them to every keeper, each once.

Not one by one as they end but all of some milliseconds in a row: no client waits for it, and the same work in a row
takes a fraction of the time that it takes between other work, with other things in the processor's caches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from tokenworks.contract.config import CostSettings
from tokenworks.contract.record import Costs, Record
from tokenworks.gateway.records.floods import Floods
from tokenworks.gateway.records.record import Recording, draw_traces
from tokenworks.observe.tables.cost import costs_of

_log = logging.getLogger(__name__)


class Recorder:
    """One gateway's; lives on its event loop."""

    def __init__(
        self,
        gateway: str,
        model: str,
        prices: CostSettings,
        keepers: Sequence[Callable[[Sequence[Record]], None]],
        settle_s: float = 0.05,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_settled` is called after every turn."""
        self.gateway = gateway  # its name
        self.prices = prices
        self._model = model
        self._keepers = keepers
        self._settle_s = settle_s
        self._on_settled = on_settled
        self._ended: list[Recording] = []
        self._floods = Floods()
        self._timer: asyncio.TimerHandle | None = None

    def finish(self, recording: Recording, outcome: str, status: int, ended_ns: int) -> None:
        """A request has ended; its record follows within `settle_s`, or when its workers have told."""
        if not recording.is_understood or not self._keepers:
            return
        recording.ended(outcome, status, ended_ns)
        trail = recording.trail
        if trail is not None and trail.num_untold:
            trail.on_told = partial(self._add, recording)
        else:
            self._add(recording)

    def costs(self, recording: Recording) -> Costs | None:
        """What a request whose sequences have ended came to; None where a worker has yet to tell."""
        if recording.trail is not None and recording.trail.num_untold:
            return None
        record = recording.record(self.gateway, self._model, "ok", 200, time.monotonic_ns())
        return costs_of(record, self.prices)

    def settle(self) -> None:
        """Make the records that are due now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        records = self._records(self._floods.thinned(ended))
        for keep in self._keepers:
            try:
                keep(records)
            except Exception:
                _log.exception("%d records were not kept by all: this is a bug", len(records))
        self._on_settled()

    def _records(self, ended: Sequence[Recording]) -> list[Record]:
        draw_traces(ended)
        records = []
        for each in ended:
            try:
                records.append(each.record(self.gateway, self._model, each.outcome, each.status, each.ended_ns))
            except Exception:
                _log.exception("the record of request %s could not be made: this is a bug", each.id)
        return records

    def _add(self, ended: Recording) -> None:
        self._ended.append(ended)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._settle_s, self.settle)
