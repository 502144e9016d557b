"""The table over time for one subject after the other, with the table of the whole window beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tokenworks.contract.config import Settings
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.tables.columns import Column
from tokenworks.observe.tables.rows import EVERYTHING
from tokenworks.observe.tables.series import Series, build_series
from tokenworks.observe.tables.steps import AUTO, handy_step_ns, parse_step
from tokenworks.observe.tables.table import Table, build_table

SOME: Final = 30
"""Steps that `auto` makes at most: a terminal's height."""


class OverTime(NamedTuple):
    """A table, and the series of each of its rows in the table's order."""

    table: Table
    step_ns: int
    series: dict[str, Series]  # by the row's name

    @property
    def by(self) -> str:
        """What subjects are kept apart by."""
        return self.table.by

    @property
    def columns(self) -> list[Column]:
        """Of every series."""
        return self.table.columns

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All steps of all subjects; the subject's name first, where there are several."""
        return [self._named(name) | step.as_json() for name, series in self.series.items() for step in series.steps]

    def rows_for_sheets(self) -> Iterator[dict[str, Any]]:
        """The same with moments as ISO 8601 has them, in UTC."""
        for row in self.rows:
            start, end = _iso(row.pop("from_ns")), _iso(row.pop("until_ns"))
            yield row | {"from": start, "until": end}

    def as_json(self) -> dict[str, Any]:
        """For printing: as the table's, but that rows are steps."""
        return self.table.as_json() | {"rows": self.rows, "step_s": self.step_ns / 1e9}

    def _named(self, name: str) -> dict[str, str]:
        return {} if self.by == EVERYTHING else {self.by: name}


def build_over_time(
    ledger: Ledger,
    window: Window,
    settings: Settings,
    every: str,
    *,
    by: str = EVERYTHING,
    where: Mapping[str, str] | None = None,
    preset: str = "",
    columns: Sequence[str] = (),
    limit: int = 0,
) -> OverTime:
    """Steps of the part of the window in which there was a system; `every` is "auto" or a duration.

    `limit` is of subjects, which have the most requests. Raises InvalidRequest, LedgerError.
    """
    asked: dict[str, Any] = {"preset": preset, "columns": columns}
    table = build_table(ledger, window, settings, by=by, where=where, limit=limit, **asked)
    seen = table.observed
    step_ns = handy_step_ns(seen, SOME, _num_requests(ledger, table)) if every == AUTO else parse_step(every, seen)
    subjects = {name: table.where | ({} if by == EVERYTHING else {by: name}) for name in _names(table)}
    series = {
        name: build_series(ledger, seen, settings, step_ns, where=subject, **asked)
        for name, subject in subjects.items()
    }
    return OverTime(table, step_ns, series)


def _names(table: Table) -> list[str]:
    return [EVERYTHING] if table.by == EVERYTHING else [str(row[table.by]) for row in table.rows]


def _num_requests(ledger: Ledger, table: Table) -> int:
    return sum(cell.requests for cell in ledger.cells(table.observed, None, table.where).values())


def _iso(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
