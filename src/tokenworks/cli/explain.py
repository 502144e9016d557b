"""`tokenworks explain`: one request's waterfall, from the ledger, also while nothing runs."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import Any

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import ConfigError
from tokenworks.observe.when import parse_window


@click.command(cls=SettingsCommand)
@click.argument("request_id", required=False)
@click.option("--last", type=click.IntRange(min=1), is_flag=False, flag_value=1, help="The latest; N: the N-th latest.")
@click.option(
    "--slowest", type=click.IntRange(min=1), is_flag=False, flag_value=1, help="The slowest; N: the N-th slowest."
)
@click.option(
    "--outcome", default="", help="Of --last and --slowest: only these, such as no_worker; failed: all but ok."
)
@click.option("--since", help="Of --last and --slowest: none before this, such as 1h, 90m or 2026-03-01T10:00.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the drawing.")
@takes_settings("ledger.path", "ledger.database", "cost.currency", takes_model=False)
def explain(
    request_id: str | None,
    last: int | None,
    slowest: int | None,
    outcome: str,
    since: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where one request's time and money went, why it went to which worker, and what would have been faster.

    REQUEST_ID is the `x-request-id` of the answer, the `id` in its body, or a trace id. A request is known when it has
    ended, within about a second; single waterfalls are kept for `ledger.detail_days`.

    \b
    Examples:
      tokenworks explain req-5f0c1d
      tokenworks explain --last
      tokenworks explain --slowest 3 --since 1h
      tokenworks explain --last --outcome failed         the latest that did not end well
      tokenworks explain --last --json | jq .stages
    """
    if sum(given is not None for given in (request_id, last, slowest)) != 1:
        raise ConfigError("give one of REQUEST_ID, --last and --slowest, such as: tokenworks explain --last")
    if request_id is not None and (since is not None or outcome):
        name = "--outcome" if outcome else "--since"
        raise ConfigError(f"{name} goes with --last or --slowest; a REQUEST_ID needs neither window nor outcome")
    import msgspec
    from rich.console import Console

    from tokenworks.cli.waterfall import draw
    from tokenworks.observe.diagnose.explain import explain as explain_one
    from tokenworks.observe.diagnose.pick import pick
    from tokenworks.observe.store import open_ledger

    settings = settings_from(options)
    window = parse_window(since, "now", time.time_ns()) if since is not None else None
    with closing(open_ledger(settings.ledger)) as ledger:
        if request_id is None:
            rank = slowest or last or 1
            request_id = pick(ledger, window, is_slowest=slowest is not None, rank=rank, outcome=outcome)
        told = explain_one(ledger, request_id)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(told)).decode() + "\n")
    else:
        draw(Console(highlight=False, markup=False, emoji=False), told, settings.cost.currency)
