"""Where on this machine things are kept from one start to the next, by the XDG base directory specification."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tokenworks.contract.config import LedgerSettings

OFF: Final = "off"


def quantized_folder() -> Path:
    """Weights that were quantised at a start, below the user's cache folder."""
    return _base("XDG_CACHE_HOME", ".cache") / "quantized"


def peaks_file() -> Path:
    """The best that this machine's devices have shown, below the user's cache folder."""
    return _base("XDG_CACHE_HOME", ".cache") / "peaks.json"


def state_folder(ledger: LedgerSettings) -> Path | None:
    """Journal, keys and database; None: there is no ledger."""
    if ledger.path == OFF:
        return None
    return Path(ledger.path).expanduser().absolute() if ledger.path else _base("XDG_STATE_HOME", ".local/state")


def _base(variable: str, otherwise: str) -> Path:
    given = os.environ.get(variable, "")
    base = (
        Path(given) if Path(given).is_absolute() else Path.home() / otherwise
    )  # the specification: others are ignored
    return base / "tokenworks"
