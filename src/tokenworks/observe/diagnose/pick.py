"""Finds a request to explain without its id: the latest or the slowest, of all or of those that ended in one way."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from tokenworks.contract.errors import NotFound
from tokenworks.observe.ledger import Ledger, Window

NO_RECORDS: Final = "the ledger holds no single records yet: send a request to `tokenworks serve`, then ask again"


def pick(ledger: Ledger, window: Window | None, *, is_slowest: bool, rank: int = 1, outcome: str = "") -> str:
    """The id of the `rank`-th slowest, or latest, request of a window (None: of all); raises NotFound.

    `outcome` is a record's, `ledger.FAILED`, or "" for all.
    """
    window = window or ledger.extent()
    if window is None:
        raise NotFound(NO_RECORDS)
    found = list(ledger.records(window, limit=rank, slowest=is_slowest, outcome=outcome))
    if len(found) < rank:
        raise NotFound(_too_few(len(found), outcome, ledger.outcomes(window)))
    return found[-1].record.id


def _too_few(num_found: int, outcome: str, there: Mapping[str, int]) -> str:
    if not there:
        return NO_RECORDS
    if num_found:
        only = f" that ended as {outcome!r}" if outcome else ""
        return f"there are only {num_found} records{only} in this window; give a number up to {num_found}"
    by_number = sorted(there.items(), key=lambda item: -item[1])
    ends = ", ".join(f"{name} ({count:,})" for name, count in by_number)
    nearest = get_close_matches(outcome, there, n=1)
    hint = f": did you mean {nearest[0]}?" if nearest else "."
    return (
        f"none of the {sum(there.values()):,} requests of this window ended as {outcome!r}{hint} They ended as: {ends}"
    )
