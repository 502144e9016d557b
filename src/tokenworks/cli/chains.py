"""`tokenworks chains`: what the dependencies of an application came to, and who held up one of its requests."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import NotFound
from tokenworks.observe.chains.limits import MAX_TRACES
from tokenworks.observe.when import parse_window

if TYPE_CHECKING:
    from tokenworks.observe.chains.breakdown import Breakdown
    from tokenworks.observe.chains.chain import Chain
    from tokenworks.observe.ledger import Ledger


@click.command(cls=SettingsCommand)
@click.argument("trace", required=False)
@click.option("--since", default="1h", show_default=True, help="Start: a time ago (90m, 7d), or a date and time.")
@click.option("--until", default="now", show_default=True, help="End, likewise.")
@click.option(
    "--traces", type=click.IntRange(1), default=MAX_TRACES, show_default=True, help="Of the latest requests, this many."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the page.")
@takes_settings("ledger.path", "ledger.database", "export.zone", takes_model=False)
def chains(trace: str | None, since: str, until: str, traces: int, as_json: bool, **options: Any) -> None:
    """Where applications around the model call lose their time: retrieval, caches, tools, and the call itself.

    Applications send their spans to POST /v1/traces (OTLP over HTTP) and pass `traceparent` on with the model call.
    Without TRACE: each dependency over all traces of a window, the weightiest in the slowest 1 % first. With TRACE (a
    trace id, or the id of a request in it): that trace, span by span, with the share in which each held up the whole.

    \b
    Examples:
      tokenworks chains
      tokenworks chains --since 1d --json | jq '.rows[] | select(.hit_rate != null)'
      tokenworks chains 4bf92f3577b34da6a3ce929d0e0e4736
    """
    from tokenworks.observe.store import open_ledger

    settings = settings_from(options)
    with closing(open_ledger(settings.ledger)) as ledger:
        if trace is not None:
            _show_chain(_chain(ledger, trace, settings.export.zone), as_json)
        else:
            _show_breakdown(_breakdown(ledger, since, until, settings.export.zone, traces), as_json)


def _chain(ledger: Ledger, name: str, zone: str) -> Chain:
    from tokenworks.observe.chains.chain import chain_of

    ended = ledger.record(name)
    found = chain_of(ledger, ended.record.trace_id if ended else name, zone)
    if found is None:
        raise NotFound(f"nothing is known of the trace {name!r}; `tokenworks chains` shows what is")
    return found


def _breakdown(ledger: Ledger, since: str, until: str, zone: str, limit: int) -> Breakdown:
    from tokenworks.observe.chains.breakdown import breakdown

    return breakdown(ledger, parse_window(since, until, time.time_ns()), zone, limit)


def _show_chain(chain: Chain, as_json: bool) -> None:
    from tokenworks.cli.chains_page import chain_page

    if as_json:
        _print_json(chain)
    else:
        _console().print(chain_page(chain))


def _show_breakdown(found: Breakdown, as_json: bool) -> None:
    from tokenworks.cli.chains_page import breakdown_page

    if as_json:
        _print_json(found)
    else:
        _console().print(breakdown_page(found))


def _print_json(value: Any) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)
