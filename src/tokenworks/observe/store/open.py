"""Opens the ledger: connects, brings the schema up where it may write, and puts a damaged database aside."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from tokenworks.contract.config import CostSettings, LedgerSettings, ObjectiveSettings, Settings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Gap, Incident
from tokenworks.observe.store.database import connect
from tokenworks.observe.store.migrate import check_version, upgrade
from tokenworks.observe.store.sql_ledger import SqlLedger

log = logging.getLogger(__name__)


def open_ledger(
    settings: LedgerSettings,
    *,
    is_writing: bool = False,
    cost: CostSettings | None = None,
    objectives: ObjectiveSettings | None = None,
) -> SqlLedger:
    """The ledger that the settings name; raises LedgerError, ConfigError.

    For reading it must be there, and of this version. For writing it is made, or changed to this version; what is
    taken in costs what `cost` says, and is good where it keeps `objectives`.
    """
    database = connect(settings, is_writing=is_writing)
    try:
        if is_writing:
            upgrade(database)
        else:
            check_version(database)
    except LedgerError:
        database.close()
        raise
    return SqlLedger(database, settings, cost or CostSettings(), objectives or ObjectiveSettings())


def put_aside(settings: LedgerSettings, why: str) -> list[Gap | Incident]:
    """Rename a damaged SQLite file and what belongs to it; what the next ledger is to be told. Raises LedgerError."""
    database = connect(settings, is_writing=True)
    database.close()
    if database.file is None:
        raise LedgerError(f"the ledger at {database.where} is damaged, and not ours to put aside: {why}")
    now_ns = time.time_ns()
    place = _renamed(database.file, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ns / 1e9)))
    log.error("%s; it is now at %s, and a new ledger begins", why, place)
    reason = f"the ledger was damaged; what was in it is at {place}"
    return [Incident(now_ns, "ledger_damaged", str(database.file), reason), Gap(0, now_ns, 0, reason)]


def open_writing(settings: Settings) -> SqlLedger:
    """The ledger to take into, with the prices and the objectives that hold now; it is noted that they do."""
    ledger = open_ledger(settings.ledger, is_writing=True, cost=settings.cost, objectives=settings.objectives)
    try:
        ledger.note_prices(settings.cost, time.time_ns())
    except LedgerError:
        ledger.close()
        raise
    return ledger


def _renamed(file: Path, stamp: str) -> Path:
    place = file.with_name(f"{file.name}.damaged-{stamp}")
    number = 1
    while place.exists():
        place, number = file.with_name(f"{file.name}.damaged-{stamp}-{number}"), number + 1
    try:
        for ending in ("-wal", "-shm", ""):  # the file itself last: until it is gone this can be done again
            part = Path(str(file) + ending)
            if part.exists():
                part.rename(str(place) + ending)
    except OSError as error:
        raise LedgerError(f"the damaged ledger {file} cannot be renamed: {error.strerror}") from error
    return place
