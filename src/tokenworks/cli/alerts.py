"""`tokenworks alerts`: which alerts fire now, and whether they reach anybody."""

from __future__ import annotations

from typing import Any

import click

from tokenworks.cli.group import CommandGroup
from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings


@click.group(cls=CommandGroup)
def alerts() -> None:
    """Show the alerts that fire, and try whether they reach anybody."""


@alerts.command("list", cls=SettingsCommand)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@takes_settings("ledger.path", "ledger.database", "objectives", "alerts", takes_model=False)
def list_alerts(is_json: bool, **options: Any) -> None:
    """Evaluate the alert rules over the ledger, now.

    \b
    Example:
      tokenworks alerts list --slo-success-ratio 0.999
    """
    from tokenworks.cli.alerts_output import show_firing

    show_firing(settings_from(options), is_json=is_json)


@alerts.command("test", cls=SettingsCommand)
@takes_settings("alerts", takes_model=False)
def test_alerts(**options: Any) -> None:
    """Send one alert to every configured receiver, and its end, as a person would see them.

    \b
    Examples:
      tokenworks alerts test
      tokenworks alerts test --alerts-kind webhook --alerts-url http://127.0.0.1:9000/hook
    """
    from tokenworks.cli.alerts_output import send_test

    send_test(settings_from(options).alerts)
