"""`tokenworks observer`: keeps one machine's ledger. The supervisor starts its own with this too."""

from __future__ import annotations

import os
from typing import Any

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.cli.parts import start_part


@click.command(cls=SettingsCommand)
@takes_settings(
    "ledger",
    "cost",
    "objectives",
    "alerts",
    "export",
    "fleet.log_level",
    "fleet.log_format",
    takes_model=False,
)
@click.option("--parent", type=int, hidden=True, help="End when this process, the parent, ends.")
def observer(parent: int | None, **options: Any) -> None:
    """Keep the ledger of the gateways on this machine, by hand.

    It takes their journals into the database, rolls up what is old, and answers what is asked of it. SIGTERM takes in
    what is there, and ends it. A second one on the same folder waits until the first is gone.

    \b
    Example:
      tokenworks observer --ledger-path /var/lib/tokenworks --ledger-database postgresql://tokenworks@db/tokenworks
    """
    settings = start_part(parent, settings_from(options))
    from tokenworks.observe.chains.otlp_target import target_of
    from tokenworks.observe.observer.process import run_observer

    target_of(settings.export, os.environ)  # a bad address is said now, not in the log
    run_observer(settings)
