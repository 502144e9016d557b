"""Makes rows of figures out of cells: what every row of a window, or of a stretch of it, has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import WorkerStretch
from tokenworks.observe.tables.bill import Overhead
from tokenworks.observe.tables.columns import Column
from tokenworks.observe.tables.facts import Facts, machines_of

EVERYTHING: Final = "all"
_OF_MACHINES: Final = frozenset({"model", "version", "worker"})
"""What a worker belongs to as a whole."""


class Rows:
    """Of one stretch of time."""

    def __init__(
        self,
        columns: Sequence[Column],
        seconds: float,
        workers: Sequence[WorkerStretch],
        where: Mapping[str, str],
        overhead: Overhead,
    ) -> None:
        """`seconds` is how long there was a system; `where` what all requests have in common."""
        self._columns = columns
        self._seconds = seconds
        self._workers = [w for w in workers if all(getattr(w, name, None) == value for name, value in where.items())]
        self._are_shared = not set(where) <= _OF_MACHINES
        self._overhead = overhead

    def of(self, by: str, cell: Cell, name: str | None = None) -> dict[str, Any]:
        """The figures of one group, or (None) of all."""
        facts = Facts(cell, self._seconds, full_cost=self._overhead.full_cost(cell.cost))
        if not self._are_shared and by in (*_OF_MACHINES, EVERYTHING):
            own = [w for w in self._workers if name is None or getattr(w, by) == name]
            facts.machines = machines_of(own) if own else None
        return {column.key: column.of(facts) for column in self._columns}

    def machine_names(self, by: str) -> set[str]:
        """Groups that there are though nothing ended there: a worker that only idles has its row."""
        if self._are_shared or by not in _OF_MACHINES:
            return set()
        return {getattr(stretch, by) for stretch in self._workers}
