"""`tokenworks drift`: what moved in traffic and answers, by how much, from what to what."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, Final

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.ledger import Window
from tokenworks.observe.when import parse_duration, parse_window

_BEFORE: Final = "7d"


@click.command(cls=SettingsCommand)
@click.option("--since", default="24h", show_default=True, help="From when on: 90m, 7d (ago), or a date and time.")
@click.option("--until", default="now", show_default=True, help="Until when, in the same words.")
@click.option(
    "--reference",
    help="What to compare with: the time of this length before that window, or FROM..UNTIL.  [default: 7d; where that "
    "holds too little, the window's first half, and the window is its later one]",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, with every bin of every feature.")
@takes_settings("ledger.path", "ledger.database", "alerts.drift_psi", takes_model=False)
def drift(since: str, until: str, reference: str | None, is_json: bool, **options: Any) -> None:
    """Compare traffic and answers with those of a reference window.

    Each feature's distribution is compared by its population stability index (PSI). A feature has moved where PSI is
    above what chance alone makes of so many requests, and above --alerts-drift-psi. Traffic has its hours: compare
    whole days, or the same hour of another day.

    \b
    Examples:
      tokenworks drift                                   the last 24 hours against the 7 days before
      tokenworks drift --since 1h --reference 2d..1d
      tokenworks drift --since "2026-03-01 09:00" --until "2026-03-01 12:00" --json
    """
    from tokenworks.cli.drift_page import Compared, show_drift
    from tokenworks.observe.drift.drift import drift as compare_windows
    from tokenworks.observe.drift.drift import sizes
    from tokenworks.observe.drift.halves import halves_where_needed
    from tokenworks.observe.store import open_ledger

    settings = settings_from(options)
    now_ns = time.time_ns()
    window = parse_window(since, until, now_ns)
    before = reference_window(reference or _BEFORE, window, now_ns)
    with closing(open_ledger(settings.ledger)) as ledger:
        own = halves_where_needed(ledger, window, before)
        if own is not None and reference is None:
            before, window = own
        told = sizes(ledger, window, before)
        found = compare_windows(ledger, window, before, threshold=settings.alerts.drift_psi)
    show_drift(Compared(found, told, window, before, own), is_json=is_json)


def reference_window(reference: str, window: Window, now_ns: int) -> Window:
    """What to compare a window with; raises InvalidRequest."""
    since, separator, until = reference.partition("..")
    if separator:
        return parse_window(since, until, now_ns)
    length_ns = parse_duration(reference, "reference")
    if not length_ns:
        raise InvalidRequest("`reference` is empty; give a duration such as 7d, or FROM..UNTIL", param="reference")
    return Window(window.start_ns - length_ns, window.start_ns)
