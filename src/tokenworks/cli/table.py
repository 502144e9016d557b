"""`tokenworks table`: what the ledger comes to, for people, for scripts, once or again and again."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.config import Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.tables.columns import COLUMNS, PRESETS
from tokenworks.observe.tables.comparison import Comparison, Side, compare, parse_against
from tokenworks.observe.tables.table import EVERYTHING, Table, build_table
from tokenworks.observe.terms import with_terms
from tokenworks.observe.when import parse_window

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tokenworks.observe.store import SqlLedger

_REFRESH_S: Final = 2.0
_PLAIN_WIDTH: Final = 120  # where the output is not a terminal that has its own
_ASKED: Final = ("by", "since", "until", "preset", "rows", "against")


class _Question(NamedTuple):
    by: str
    since: str
    until: str
    where: dict[str, str]
    preset: str
    columns: tuple[str, ...]
    rows: int
    against: str


@click.command(cls=SettingsCommand)
@click.option(
    "--by",
    default="scenario",
    show_default=True,
    help="Rows: scenario, tenant, model, version, worker, tag:KEY, or all in one.",
)
@click.option("--since", default="1h", show_default=True, help="Start: a time ago (90m, 7d), or a date and time.")
@click.option("--until", default="now", show_default=True, help="End, likewise.")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Only these, such as tenant=acme; may be repeated.")
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="overview", show_default=True, help="Which columns."
)
@click.option("--columns", default="", metavar="KEY,...", help="These columns instead; help: list them all.")
@click.option(
    "--rows", type=click.IntRange(0), default=30, show_default=True, help="Rows at most, by requests; 0: all."
)
@click.option("--against", default="", metavar="WHAT", help="Compare: before, 1d (earlier), 2h..1h, or version=X.")
@click.option("--json", "as_json", is_flag=True, help='Print {"rows": [...], "bill": {...}} in base units.')
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV, in base units.")
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
@takes_settings("ledger.path", "ledger.database", "cost", "objectives", takes_model=False)
def table(as_json: bool, as_csv: bool, watch: bool, where: tuple[str, ...], columns: str, **options: Any) -> None:
    """Latency, cost and stability of everything that ended in a window, with its bill.

    It reads the ledger, also while nothing runs. Times are measured at the gateway; percentiles are within 1 %.

    \b
    Examples:
      tokenworks table                                   the last hour, by scenario
      tokenworks table --by tenant --since 7d            who used and cost how much this week
      tokenworks table --preset realtime --where scenario=realtime --watch
      tokenworks table --against before                  is this hour different from the one before it?
      tokenworks table --where version=3fe1 --against version=77ab
      tokenworks table --json | jq .bill.total
    """
    if columns == "help":
        _list_columns()
        return
    if as_json + as_csv + watch > 1 or (as_csv and options["against"]):
        raise click.UsageError("--json, --csv and --watch exclude each other, and a comparison has no CSV")
    if watch and not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal; ask again and again with --json instead")
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    question = _Question(where=_pairs(where), columns=names, **{key: options.pop(key) for key in _ASKED})
    settings = with_terms(settings_from(options))
    with _opened(settings) as ledger:
        try:
            _print(ledger, settings, question, "json" if as_json else "csv" if as_csv else "watch" if watch else "page")
        except InvalidRequest as error:
            raise click.UsageError(error.message) from error


def _opened(settings: Settings) -> closing[SqlLedger]:
    from tokenworks.observe.store import open_ledger

    return closing(open_ledger(settings.ledger, cost=settings.cost, objectives=settings.objectives))


def _print(ledger: SqlLedger, settings: Settings, question: _Question, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(_answer(ledger, settings, question).as_json()))
    elif form == "csv":
        answer = _answer(ledger, settings, question)
        assert isinstance(answer, Table)
        _print_csv(answer)
    elif form == "watch":
        _watch(lambda console: _page(ledger, settings, question, console))
    else:
        console = _console()
        console.print(_page(ledger, settings, question, console))


def _answer(ledger: SqlLedger, settings: Settings, question: _Question) -> Table | Comparison:
    now_ns = time.time_ns()
    window = parse_window(question.since, question.until, now_ns)
    preset, columns, where = question.preset, question.columns, question.where
    if question.against:
        first = parse_against(question.against, window, where, now_ns)
        return compare(ledger, settings, first, Side(window, where, "now"), preset=preset, columns=columns)
    by, rows = question.by, question.rows
    return build_table(ledger, window, settings, by=by, where=where, preset=preset, columns=columns, limit=rows)


def _page(ledger: SqlLedger, settings: Settings, question: _Question, console: Console) -> RenderableType:
    from tokenworks.cli.table_page import comparison_page, table_page

    answer = _answer(ledger, settings, question)
    if isinstance(answer, Table):
        return table_page(answer, console.width, ledger.where)
    return comparison_page(answer)


def _watch(page: Callable[[Console], RenderableType]) -> None:
    from rich.live import Live

    console = _console()
    with suppress(KeyboardInterrupt), Live(page(console), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_S)
            live.update(page(console), refresh=True)


def _console() -> Console:
    from rich.console import Console

    is_wide_enough = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if is_wide_enough else _PLAIN_WIDTH)


def _print_csv(table: Table) -> None:
    keys = [*([] if table.by == EVERYTHING else [table.by]), *(column.key for column in table.columns)]
    writer = csv.DictWriter(sys.stdout, keys)
    writer.writeheader()
    writer.writerows(table.rows)


def _list_columns() -> None:
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False)
    for heading in ("column", "unit", "is", "formula"):
        grid.add_column(heading)
    for column in COLUMNS.values():
        grid.add_row(column.key, column.unit, column.help, column.formula, style="")
    _console().print(grid)


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--where {text!r} must be NAME=VALUE, such as tenant=acme")
        pairs[name.strip()] = value
    return pairs
