"""Writes down in the ledger that a system could not start, since nobody of it is left who could.

It stands there as an incident like those that a running system tells of, so that `tokenworks diagnose` says later what
happened. Nothing here fails: who starts a system sees why it did not start anyway.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import ConfigError, PartNotStarted, StartupError, TokenworksError
from tokenworks.contract.folders import may_write, state_folder
from tokenworks.contract.record import Incident
from tokenworks.fleet.events import GATEWAY, STORE

log = logging.getLogger(__name__)

_KINDS: Final = {GATEWAY: "gateway_not_started", STORE: "store_not_started"}
_SYSTEM: Final = "system_not_started"


def note_failed_start(settings: Settings, error: TokenworksError) -> None:
    """Note it where a ledger is kept, or can be; not what is wrong usage, nor what failed after the start."""
    folder = state_folder(settings.ledger)
    if folder is None or not isinstance(error, StartupError) or isinstance(error, ConfigError) or not may_write(folder):
        return
    incident = _incident(error)
    try:
        _take_in(settings, incident)
    except TokenworksError as trouble:
        log.warning("%s; what could not start is noted at the next start", trouble.message)
        _leave_for_the_next(folder, incident)


def _incident(error: StartupError) -> Incident:
    if isinstance(error, PartNotStarted):
        return Incident(time.time_ns(), _KINDS.get(error.part, "worker_not_started"), error.part, error.reason)
    return Incident(time.time_ns(), _SYSTEM, "tokenworks", error.message)


def _take_in(settings: Settings, incident: Incident) -> None:
    """At once: the observer of this system is gone. One of another system writes beside us, by turns."""
    from tokenworks.observe.store import open_ledger  # half a second, that no good start waits for

    with closing(open_ledger(settings.ledger, is_writing=True)) as ledger:
        ledger.take_in([incident])


def _leave_for_the_next(folder: Path, incident: Incident) -> None:
    from tokenworks.observe.journal.writer import Journal

    journal = Journal(folder / "journal", "serve", 0.0)
    journal.append(incident)
    journal.close()
