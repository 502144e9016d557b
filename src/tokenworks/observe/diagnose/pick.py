"""Finds a request to explain without its id: the latest or the slowest, of all or of those that ended in one way.

The ledger keeps no index of outcomes, so the records are read in their order until enough of them ended as wanted, a
batch at a time and each batch ten times the one before, up to `MAX_LOOKED_AT`.
"""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from typing import Final

from tokenworks.contract.errors import NotFound
from tokenworks.observe.ledger import Ledger, Window

NO_RECORDS: Final = "the ledger holds no single records yet: send a request to `tokenworks serve`, then ask again"
FAILED: Final = "failed"
"""Stands for every outcome but "ok"."""
MAX_LOOKED_AT: Final = 100_000
_FIRST_BATCH: Final = 1_000


def pick(ledger: Ledger, window: Window | None, *, is_slowest: bool, rank: int = 1, outcome: str = "") -> str:
    """The id of the `rank`-th slowest, or latest, request of a window (None: of all); raises NotFound.

    `outcome` is a record's, `FAILED`, or "" for all. Of very many records the first `MAX_LOOKED_AT` are looked at.
    """
    window = window or ledger.extent()
    limit = max(rank, _FIRST_BATCH) if outcome else rank
    while True:
        records = [ended.record for ended in ledger.records(window, limit=limit, slowest=is_slowest)] if window else []
        if not records:
            raise NotFound(NO_RECORDS)
        found = [record for record in records if _is_wanted(record.outcome, outcome)]
        if len(found) >= rank:
            return found[rank - 1].id
        if len(records) < limit or limit >= max(rank, MAX_LOOKED_AT):
            raise NotFound(_too_few(len(found), outcome, Counter(record.outcome for record in records)))
        limit = min(10 * limit, MAX_LOOKED_AT)


def _is_wanted(outcome: str, wanted: str) -> bool:
    return not wanted or outcome == wanted or (wanted == FAILED and outcome != "ok")


def _too_few(num_found: int, outcome: str, there: Counter[str]) -> str:
    if num_found:
        only = f" that ended as {outcome!r}" if outcome else ""
        return f"there are only {num_found} records{only} in this window; give a number up to {num_found}"
    ends = ", ".join(f"{name} ({count:,})" for name, count in there.most_common())
    nearest = get_close_matches(outcome, there, n=1)
    hint = f": did you mean {nearest[0]}?" if nearest else "."
    return f"none of the {there.total():,} requests looked at ended as {outcome!r}{hint} They ended as: {ends}"
