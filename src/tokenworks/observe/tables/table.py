"""The table: rows of figures about the requests that ended in a window, with the bill of that window.

Whoever shows figures (command line, page, Prometheus, alerts) shows what this gives, so that they are equal everywhere.
Figures by second are over the window as far as the system was there: from its first record or worker to its last.
Nothing is drawn here: see `cli.table_page`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.record import Gap
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.ledger import DIMENSIONS, Ledger, Window, WorkerStretch
from tokenworks.observe.tables.bill import Bill, bill_of
from tokenworks.observe.tables.columns import PRESETS, Column, columns_named
from tokenworks.observe.tables.facts import Facts, machines_of

EVERYTHING: Final = "all"
_OF_MACHINES: Final = frozenset({"model", "version", "worker"})
"""What a worker belongs to as a whole."""


class Table(msgspec.Struct, frozen=True):
    """Rows hold plain figures by column key, in base units and the currency; the first key is the dimension's."""

    by: str
    window: Window  # as asked for
    observed: Window  # of that, as far as the system was there
    extent: Window | None  # of all records; None: there is none
    where: dict[str, str]
    columns: list[Column]
    rows: list[dict[str, Any]]
    total: dict[str, Any]  # one row of all requests
    num_hidden: int  # groups that `limit` cut off
    bill: Bill
    gaps: list[Gap]

    def as_json(self) -> dict[str, Any]:
        """For printing."""
        return {
            "rows": self.rows,
            "total": self.total,
            "hidden_rows": self.num_hidden,
            "bill": self.bill.as_json(),
            "by": self.by,
            "where": self.where,
            "from_ns": self.observed.start_ns,
            "until_ns": self.observed.end_ns,
            "gaps": msgspec.to_builtins(self.gaps),
        }


def build_table(
    ledger: Ledger,
    window: Window,
    settings: Settings,
    *,
    by: str = "scenario",
    where: Mapping[str, str] | None = None,
    preset: str = "",
    columns: Sequence[str] = (),
    limit: int = 0,
) -> Table:
    """The table of a window.

    `by` is a dimension, "tag:KEY" or "all"; `where` keeps only requests with these values of dimensions; `columns` come
    before `preset`; `limit` keeps that many groups with the most requests, 0 all. Raises InvalidRequest, LedgerError.
    """
    check_by(by)
    where = check_where(where or {})
    wanted = columns_named(list(columns) or list(_preset(preset)))
    workers, tenants = ledger.workers(window), ledger.cells(window, "tenant")
    extent = ledger.extent()
    observed = observed_window(window, extent, workers)
    owed = bill_of(window, settings.cost, tenants, workers, ledger.stores(window))
    cells = tenants if by == "tenant" and not where else ledger.cells(window, None if by == EVERYTHING else by, where)
    rows = _Rows(wanted, observed, workers, where, owed, merged(tenants.values()).cost)
    total = rows.of(EVERYTHING, merged(cells.values()), None)
    if by in _OF_MACHINES:
        cells = {name: Cell() for name in rows.machine_names(by)} | cells
    names = _ordered(by, cells)
    shown = names[: limit or None]
    return Table(
        by=by,
        window=window,
        observed=observed,
        extent=extent,
        where=where,
        columns=wanted,
        rows=[total] if by == EVERYTHING else [{by: name} | rows.of(by, cells[name], name) for name in shown],
        total=total,
        num_hidden=len(names) - len(shown) if by != EVERYTHING else 0,
        bill=owed,
        gaps=ledger.gaps(window),
    )


def check_by(by: str) -> None:
    """Raises InvalidRequest for what rows cannot be made of."""
    if by not in (*DIMENSIONS, EVERYTHING) and not (by.startswith("tag:") and by != "tag:"):
        names = ", ".join(DIMENSIONS)
        raise InvalidRequest(f"rows cannot be by {by!r}; give one of {names}, {EVERYTHING}, or tag:KEY", param="by")


def check_where(where: Mapping[str, str]) -> dict[str, str]:
    """The same; raises InvalidRequest for what requests are not kept apart by."""
    for name in where:
        if name not in DIMENSIONS:
            names = ", ".join(DIMENSIONS)
            raise InvalidRequest(f"`where` knows {names}, and not {name!r}", param="where")
    return dict(where)


def observed_window(window: Window, extent: Window | None, workers: Sequence[WorkerStretch]) -> Window:
    """The part of a window in which there was a system; the window itself where nothing is known of any."""
    starts = [stretch.from_ns for stretch in workers] + ([extent.start_ns] if extent else [])
    ends = [stretch.until_ns for stretch in workers] + ([extent.end_ns] if extent else [])
    if not starts:
        return window
    start_ns, end_ns = max(window.start_ns, min(starts)), min(window.end_ns, max(ends))
    return Window(start_ns, end_ns) if start_ns < end_ns else window


class _Rows:
    """Makes rows of cells; knows what they have in common."""

    def __init__(
        self,
        columns: list[Column],
        observed: Window,
        workers: list[WorkerStretch],
        where: Mapping[str, str],
        owed: Bill,
        worked: int,
    ) -> None:
        self._columns = columns
        self._observed = observed
        self._workers = [w for w in workers if all(getattr(w, name, None) == value for name, value in where.items())]
        self._are_shared = not set(where) <= _OF_MACHINES
        self._rest = owed.total - worked
        self._worked = worked

    def of(self, by: str, cell: Cell, name: str | None) -> dict[str, Any]:
        """The figures of one group, or (None) of all."""
        facts = Facts(cell, self._observed.seconds, full_cost=self._full_cost(cell))
        if not self._are_shared and by in (*_OF_MACHINES, EVERYTHING):
            facts.machines = machines_of(w for w in self._workers if name is None or getattr(w, by) == name)
        return {column.key: column.of(facts) for column in self._columns}

    def machine_names(self, by: str) -> set[str]:
        """Groups that there are though nothing ended there: a worker that only idles has its row."""
        return set() if self._are_shared else {getattr(stretch, by) for stretch in self._workers}

    def _full_cost(self, cell: Cell) -> int:
        """With its share of what no request's work cost; whole pico, so that groups sum to the bill to within one."""
        if not self._worked:
            return cell.cost
        return cell.cost + self._rest * cell.cost // self._worked


def _preset(name: str) -> Sequence[str]:
    name = name or "overview"
    if name not in PRESETS:
        raise InvalidRequest(f"there is no preset {name!r}; give one of {', '.join(PRESETS)}", param="preset")
    return PRESETS[name]


def _ordered(by: str, cells: Mapping[str, Cell]) -> list[str]:
    """Scenarios as they are always told; everything else by how much there was of it."""
    if by == "scenario":
        return [scenario.value for scenario in Scenario if scenario.value in cells]
    return sorted(cells, key=lambda name: (-cells[name].requests, name))
