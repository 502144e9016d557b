"""Columns that nobody asked for and everybody wants to know of: ways of ending badly that there were in a window.

A preset leaves them out, since they are zero where all is well. Where one is not, a reader of a page sees it beside
the success rate without knowing that there is such a column; who reads JSON or CSV gets the columns asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenworks.observe.cell import merged
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.tables.columns import preset_columns

_OF_COUNT: Final = {"rejected": "rejection_rate", "timeouts": "timeout_rate", "failed": "failure_rate"}
_AFTER: Final = "success_rate"


def with_troubles(ledger: Ledger, window: Window, where: Mapping[str, str], preset: str) -> tuple[str, ...]:
    """A preset's columns, and those of bad ends that there were; raises InvalidRequest, LedgerError."""
    columns = tuple(preset_columns(preset))
    cell = merged(ledger.cells(window, None, where).values())
    more = tuple(key for name, key in _OF_COUNT.items() if getattr(cell, name) and key not in columns)
    at = columns.index(_AFTER) + 1 if _AFTER in columns else 1
    return columns[:at] + more + columns[at:]
