"""`tokenworks table`: what the ledger comes to, for people, for scripts, once or again and again."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.cli.table_question import Question
from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.tables.presets import PRESETS

_ASKED: Final = ("by", "since", "until", "preset", "rows", "against", "every")


@click.command(cls=SettingsCommand)
@click.option(
    "--by",
    help="Rows: scenario, tenant, model, version, worker, tag:KEY, or all in one.  [default: scenario; over time: all]",
)
@click.option("--since", default="1h", show_default=True, help="Start: a time ago (90m, 7d), or a date and time.")
@click.option("--until", default="now", show_default=True, help="End, likewise.")
@click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE",
    help="Only these, such as tenant=acme or tag:team=web; may be repeated.",
)
@click.option(
    "--every", default="", metavar="STEP", help="Over time, a row for each step: 10s, 1m, 6h, 1d, or auto for some 30."
)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="overview", show_default=True, help="Which columns."
)
@click.option("--columns", default="", metavar="KEY,...", help="These columns instead; help: list them all.")
@click.option(
    "--rows", type=click.IntRange(0), default=30, show_default=True, help="Groups at most, by requests; 0: all."
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
      tokenworks table --every 1m --since 15m            minute by minute
      tokenworks table --every auto --where tenant=acme --preset online
      tokenworks table --by tag:team --where scenario=offline
      tokenworks table --preset realtime --where scenario=realtime --watch
      tokenworks table --against before                  is this hour different from the one before it?
      tokenworks table --where version=3fe1 --against version=77ab
      tokenworks table --json | jq .bill.total
    """
    if columns != "help":
        if as_json + as_csv + watch > 1 or (options["against"] and (as_csv or options["every"])):
            raise click.UsageError(
                "--json, --csv and --watch exclude each other, and a comparison has no CSV and no --every"
            )
        if watch and not sys.stdout.isatty():
            raise click.UsageError("--watch needs a terminal; ask again and again with --json instead")
    from tokenworks.cli import table_output

    if columns == "help":
        table_output.list_columns()
        return
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    question = Question(where=_pairs(where), columns=names, **{key: options.pop(key) for key in _ASKED})
    form = "json" if as_json else "csv" if as_csv else "watch" if watch else "page"
    try:
        table_output.show(settings_from(options), question, form)
    except InvalidRequest as error:
        raise click.UsageError(error.message) from error


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--where {text!r} must be NAME=VALUE, such as tenant=acme")
        pairs[name.strip()] = value
    return pairs
