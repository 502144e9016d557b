"""The table: rows of figures about the requests that ended in a window, with the bill of that window.

Whoever shows figures (command line, page, Prometheus, alerts) shows what this gives, so that they are equal everywhere.
Figures by second are over the window as far as the system was there: from its first record or worker to its last.
Nothing is drawn here: see `cli.table_page`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.record import Gap
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.ledger import DIMENSIONS, TAG, Ledger, Window, WorkerStretch
from tokenworks.observe.tables.bill import Bill, bill_of
from tokenworks.observe.tables.columns import Column, columns_named, preset_columns
from tokenworks.observe.tables.facts import has_beaten_its_peak, shared_names
from tokenworks.observe.tables.prices import PriceList
from tokenworks.observe.tables.rows import EVERYTHING, Rows


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
    num_requests: int
    instead: dict[str, list[str]]  # where nothing matches `where`: what its names stand at in this window, most first
    num_hidden: int  # groups that `limit` cut off
    bill: Bill
    gaps: list[Gap]
    low_peaks: list[str]  # workers whose peaks were measured too low, so that their MFU or MBU is an upper bound
    shared_names: list[str]  # of workers that several had at the same time, so that a row is of all of them

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
            "low_peaks": self.low_peaks,
            "shared_names": self.shared_names,
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
    where = check_where(where or {}, by)
    wanted = columns_named(list(columns) or list(preset_columns(preset)))
    workers, tenants = ledger.workers(window), ledger.cells(window, "tenant")
    extent = ledger.extent()
    observed = observed_window(window, extent, workers)
    parts = PriceList(ledger, window, settings.cost).parts(window, workers)
    owed = bill_of(window, settings.cost.currency, tenants, parts)
    cells = tenants if by == "tenant" and not where else ledger.cells(window, None if by == EVERYTHING else by, where)
    rows = Rows(wanted, observed.seconds, workers, where, owed.overhead)
    all_of_it = merged(cells.values())
    total = rows.of(EVERYTHING, all_of_it)
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
        num_requests=all_of_it.requests,
        instead={} if all_of_it.requests else {name: _values(ledger, window, name) for name in where},
        num_hidden=len(names) - len(shown) if by != EVERYTHING else 0,
        bill=owed,
        gaps=ledger.gaps(window),
        low_peaks=sorted({stretch.worker for stretch in workers if has_beaten_its_peak(stretch)}),
        shared_names=shared_names(workers),
    )


def check_by(by: str) -> None:
    """Raises InvalidRequest for what rows cannot be made of."""
    if by not in (*DIMENSIONS, EVERYTHING) and not _is_tag(by):
        names = ", ".join(DIMENSIONS)
        raise InvalidRequest(f"rows cannot be by {by!r}; give one of {names}, {EVERYTHING}, or tag:KEY", param="by")


def check_where(where: Mapping[str, str], by: str = EVERYTHING) -> dict[str, str]:
    """The same; raises InvalidRequest for what requests are not kept apart by, together with what rows are by."""
    for name in where:
        if name not in DIMENSIONS and not _is_tag(name):
            names = ", ".join(DIMENSIONS)
            raise InvalidRequest(f"`where` knows {names} and tag:KEY, and not {name!r}", param="where")
    tags = sorted({name for name in (*where, by) if _is_tag(name)})
    if len(tags) > 1:
        raise InvalidRequest(
            f"{' and '.join(tags)} cannot be asked for together: sums are kept for one tag at a time. Ask for one of "
            "them, or let clients send both in one tag",
            param="where",
        )
    return dict(where)


def _is_tag(name: str) -> bool:
    return name.startswith(TAG) and name != TAG


def _values(ledger: Ledger, window: Window, name: str) -> list[str]:
    cells = ledger.cells(window, name)
    return sorted((value for value in cells if value), key=lambda value: -cells[value].requests)


def observed_window(window: Window, extent: Window | None, workers: Sequence[WorkerStretch]) -> Window:
    """The part of a window in which there was a system; the window itself where nothing is known of any."""
    starts = [stretch.from_ns for stretch in workers] + ([extent.start_ns] if extent else [])
    ends = [stretch.until_ns for stretch in workers] + ([extent.end_ns] if extent else [])
    if not starts:
        return window
    start_ns, end_ns = max(window.start_ns, min(starts)), min(window.end_ns, max(ends))
    return Window(start_ns, end_ns) if start_ns < end_ns else window


def _ordered(by: str, cells: Mapping[str, Cell]) -> list[str]:
    """Scenarios as they are always told; everything else by how much there was of it."""
    if by == "scenario":
        return [scenario.value for scenario in Scenario if scenario.value in cells]
    return sorted(cells, key=lambda name: (-cells[name].requests, name))
