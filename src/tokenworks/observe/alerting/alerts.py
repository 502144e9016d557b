"""The observer's look-out: evaluates the alert rules and drift over the ledger, shows what it found, and tells of it.

Every `interval_s` the alert rules, every `DRIFT_EVERY_S` drift, both in a thread, since they read the database. What
was found is written to the state folder for the gateway's `/metrics` (`figures`), then handed to the delivery; neither
a ledger that cannot be read nor a receiver that does not answer stops the look-out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tokenworks.contract.config import AlertSettings, Settings
from tokenworks.contract.errors import ConfigError, LedgerError, LedgerMissing, TokenworksError
from tokenworks.observe.alerting.alert_book import AlertBook, Notice
from tokenworks.observe.alerting.alert_rules import GAP_WINDOW_S, CellsByLength, firing
from tokenworks.observe.alerting.delivery import Delivery
from tokenworks.observe.alerting.receiver import Receiver, receivers_of
from tokenworks.observe.drift.drift import drift
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.figures import FeatureFigure, Figures, SpanFigures, read_figures, write_figures

log = logging.getLogger(__name__)

DRIFT_EVERY_S: Final = 600
FIRST_LOOK_S: Final = 3.0  # after the start: there is a ledger by then
_NS: Final = 10**9
_NS_PER_HOUR: Final = 3600 * _NS


class Lookout:
    """What was found so far; its `look` reads the ledger, and so takes a while."""

    def __init__(
        self, open_ledger: Callable[[], Ledger], settings: Settings, folder: Path, spans: SpanFigures | None = None
    ) -> None:
        self._spans = spans or SpanFigures()
        self._open_ledger = open_ledger
        self._ledger: Ledger | None = None  # opened when it is first needed, and anew after it has failed
        self._settings = settings
        self._folder = folder
        known = read_figures(folder)
        self._book = AlertBook(known.alerts if known else ())
        self._cells = CellsByLength()
        self._drift: list[FeatureFigure] = []
        self._drift_at_ns = 0

    def look(self, now_ns: int) -> list[Notice]:
        """Evaluate everything that is due, write down what was found; what to tell. Raises LedgerError, OSError."""
        try:
            ledger = self._ledger = self._ledger or self._open_ledger()
            return self._look(ledger, now_ns)
        except LedgerError:
            self._ledger = None
            raise

    def _look(self, ledger: Ledger, now_ns: int) -> list[Notice]:
        if now_ns - self._drift_at_ns >= DRIFT_EVERY_S * _NS:
            self._drift = drift_figures(ledger, self._settings.alerts, now_ns)
            self._drift_at_ns = now_ns
        alerts = firing(ledger, now_ns, self._settings.objectives, self._drift, self._cells)
        notices = self._book.update(alerts, now_ns)
        gaps = ledger.gaps(Window(now_ns - GAP_WINDOW_S * _NS, now_ns))
        missing = sum(gap.frames for gap in gaps)
        write_figures(self._folder, Figures(now_ns, missing, self._book.figures(), self._drift, self._spans))
        return notices


def drift_figures(ledger: Ledger, alerts: AlertSettings, now_ns: int) -> list[FeatureFigure]:
    """Drift of the configured window against the one before it; raises LedgerError."""
    start_ns = now_ns - round(alerts.drift_hours * _NS_PER_HOUR)
    reference = Window(start_ns - round(alerts.drift_reference_hours * _NS_PER_HOUR), start_ns)
    found = drift(ledger, Window(start_ns, now_ns), reference, threshold=alerts.drift_psi)
    return [
        FeatureFigure(each.feature, each.psi, each.noise, each.moved, each.before, each.after, each.change)
        for each in found
    ]


async def look_out(context: ObserverContext) -> None:
    """The observer's task, until cancelled."""
    lookout = Lookout(context.open_ledger, context.settings, context.folder, context.spans)
    interval_s = context.settings.alerts.interval_s
    async with AsyncExitStack() as sending:
        receivers = _receivers(context.settings.alerts)
        deliveries = [await sending.enter_async_context(Delivery(receiver)) for receiver in receivers]
        await _every(lookout, interval_s, deliveries)


def _receivers(alerts: AlertSettings) -> list[Receiver]:
    """`serve` has refused to start with settings that reach nobody; an observer by hand says so and looks on."""
    try:
        return receivers_of(alerts, os.environ)
    except ConfigError as error:
        log.error("alerts are sent to nobody: %s", error)
        return []


async def _every(lookout: Lookout, interval_s: float, deliveries: Sequence[Delivery]) -> None:
    trouble = ""  # told once, while it stays the same
    await asyncio.sleep(min(interval_s, FIRST_LOOK_S))
    while True:
        notices: list[Notice] = []
        try:
            notices = await asyncio.to_thread(lookout.look, time.time_ns())
            trouble = ""
        except LedgerMissing:
            pass  # a first start: whoever takes in the records is about to make it, and says so where it cannot
        except (TokenworksError, OSError) as error:
            if str(error) != trouble:
                log.warning("alerts could not be looked for: %s", error)
            trouble = str(error)
        for notice in notices:
            log.warning("alert %s (%s): %s", notice.alert.key, notice.status, notice.alert.summary)
        for delivery in deliveries:
            delivery.tell(notices)
        await asyncio.sleep(interval_s)
