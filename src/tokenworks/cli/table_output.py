"""What `tokenworks table` does: asks the ledger, and prints the answer as a page, JSON or CSV."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console, RenderableType
from rich.table import Table as Grid

from tokenworks.cli.table_page import comparison_page, series_page, table_page
from tokenworks.contract.config import Settings
from tokenworks.observe.store import SqlLedger, open_ledger
from tokenworks.observe.tables.columns import COLUMNS
from tokenworks.observe.tables.comparison import Comparison, Side, compare, parse_against
from tokenworks.observe.tables.over_time import OverTime, build_over_time
from tokenworks.observe.tables.rows import EVERYTHING
from tokenworks.observe.tables.table import Table, build_table, check_where
from tokenworks.observe.tables.troubles import with_troubles
from tokenworks.observe.terms import with_terms
from tokenworks.observe.when import parse_window

if TYPE_CHECKING:
    from tokenworks.cli.table_question import Question

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_REFRESH_S: Final = 2.0
_PLAIN_WIDTH: Final = 120  # where the output is not a terminal that has its own


def show(settings: Settings, question: Question, form: str) -> None:
    """Answer once, or as "watch" until interrupted; raises InvalidRequest, LedgerError."""
    settings = with_terms(settings)
    with closing(open_ledger(settings.ledger, cost=settings.cost, objectives=settings.objectives)) as ledger:
        if form == "json":
            click.echo(json.dumps(_answer(ledger, settings, question).as_json()))
        elif form == "csv":
            answer = _answer(ledger, settings, question)
            assert not isinstance(answer, Comparison)
            _print_csv(answer)
        elif form == "watch":
            _watch(lambda console: _page(ledger, settings, question, console))
        else:
            console = _console()
            console.print(_page(ledger, settings, question, console))


def list_columns() -> None:
    """Every column, with what it is."""
    grid = Grid(box=None, pad_edge=False)
    for heading in ("column", "unit", "is", "formula"):
        grid.add_column(heading)
    for column in COLUMNS.values():
        grid.add_row(column.key, column.unit, column.help, column.formula, style="")
    _console().print(grid)


def _answer(
    ledger: SqlLedger, settings: Settings, question: Question, *, is_page: bool = False
) -> Table | Comparison | OverTime:
    """A page has the columns that were asked for, and those of troubles that there were."""
    now_ns = time.time_ns()
    window = parse_window(question.since, question.until, now_ns)
    asked: dict[str, Any] = {"preset": question.preset, "columns": question.columns}
    if question.against:
        first = parse_against(question.against, window, question.where, now_ns)
        return compare(ledger, settings, first, Side(window, question.where, "now"), **asked)
    asked |= {"where": question.where, "limit": question.rows}
    if is_page and not question.columns:
        where = check_where(question.where, question.by or EVERYTHING)
        asked["columns"] = with_troubles(ledger, window, where, question.preset)
    if question.every:
        by = question.by or EVERYTHING
        return build_over_time(ledger, window, settings, question.every, by=by, **asked)
    return build_table(ledger, window, settings, by=question.by or "scenario", **asked)


def _page(ledger: SqlLedger, settings: Settings, question: Question, console: Console) -> RenderableType:
    answer = _answer(ledger, settings, question, is_page=True)
    if isinstance(answer, Comparison):
        return comparison_page(answer)
    if isinstance(answer, OverTime):
        return series_page(answer, console.width, ledger.where)
    return table_page(answer, console.width, ledger.where)


def _watch(page: Callable[[Console], RenderableType]) -> None:
    from rich.live import Live

    console = _console()
    with suppress(KeyboardInterrupt), Live(page(console), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_S)
            live.update(page(console), refresh=True)


def _console() -> Console:
    is_wide_enough = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if is_wide_enough else _PLAIN_WIDTH)


def _print_csv(answer: Table | OverTime) -> None:
    keys: list[str] = [] if answer.by == EVERYTHING else [answer.by]
    rows: Iterable[dict[str, Any]] = answer.rows
    if isinstance(answer, OverTime):
        keys += ["from", "until", "note"]
        rows = answer.rows_for_sheets()
    writer = csv.DictWriter(sys.stdout, [*keys, *(column.key for column in answer.columns)])
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    """A whole number without ".0"; a text that a spreadsheet would run as a formula, marked as text.

    Tenants' names and tags are whatever clients send: `=HYPERLINK(...)` too (OWASP, "CSV Injection").
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
