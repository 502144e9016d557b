"""The terms that a ledger is kept under: prices and objectives, noted beside it by whoever keeps it.

`tokenworks table` is often asked from another folder than the system was started in, without its `tokenworks.toml`.
What was stated there, the currency above all, must hold for who asks too, or the same ledger would have two bills.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.contract.config import CostSettings, LedgerSettings, ObjectiveSettings, Settings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.folders import state_folder

log = logging.getLogger(__name__)

FILE: Final = "terms.json"


class Terms(msgspec.Struct, frozen=True):
    """What a ledger's amounts and its goodput rest on."""

    cost: CostSettings = CostSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()


def note_terms(folder: Path, settings: Settings) -> None:
    """Write them down, whole or not at all; a full disk is told of, and stops nobody."""
    part = folder / f"{FILE}.{os.getpid()}"
    try:
        part.write_bytes(msgspec.json.encode(Terms(settings.cost, settings.objectives)))
        part.replace(folder / FILE)
    except OSError as error:
        log.warning("cannot note prices and objectives in %s: %s", folder / FILE, error.strerror)


def noted_terms(ledger: LedgerSettings) -> Terms:
    """Those of a ledger; the defaults where nobody has noted any. Raises LedgerError."""
    folder = state_folder(ledger)
    if folder is None:
        return Terms()
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Terms)
    except FileNotFoundError:
        return Terms()
    except (OSError, msgspec.DecodeError) as error:
        raise LedgerError(
            f"cannot read {folder / FILE} ({error}): the next `tokenworks serve` writes it anew"
        ) from error


def with_terms(settings: Settings) -> Settings:
    """The settings of who asks: what they state themselves, and where that is nothing, what is noted at the ledger.

    Raises LedgerError.
    """
    noted = noted_terms(settings.ledger)
    return msgspec.structs.replace(
        settings,
        cost=noted.cost if settings.cost == CostSettings() else settings.cost,
        objectives=noted.objectives if settings.objectives == ObjectiveSettings() else settings.objectives,
    )
