"""`tokenworks alerts`: which alerts fire now, and whether they reach anybody."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Final

import click
import msgspec

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import ConfigError, TokenworksError
from tokenworks.observe.alerting.alert_book import Notice
from tokenworks.observe.alerting.alert_rules import TICKET, Alert
from tokenworks.observe.alerting.receiver import Receiver

_PATIENCE_S: Final = 15.0


@click.group()
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
    from tokenworks.observe.alerting.alert_rules import firing
    from tokenworks.observe.alerting.alerts import drift_figures
    from tokenworks.observe.store import open_ledger

    settings = settings_from(options)
    ledger, now_ns = open_ledger(settings.ledger, objectives=settings.objectives), time.time_ns()
    found = firing(ledger, now_ns, settings.objectives, drift_figures(ledger, settings.alerts, now_ns))
    if is_json:
        click.echo(msgspec.json.encode({"alerts": [alert._asdict() for alert in found]}))
        return
    for alert in found:
        click.echo(f"{alert.severity:7} {alert.name} {alert.subject}: {_plain(alert.summary)}")
    if not found:
        click.echo("no alert fires")


@alerts.command("test", cls=SettingsCommand)
@takes_settings("alerts", takes_model=False)
def test_alerts(**options: Any) -> None:
    """Send one alert to the configured receiver, and its end, as a person would see them.

    \b
    Examples:
      tokenworks alerts test
      tokenworks alerts test --alerts-kind webhook --alerts-url http://127.0.0.1:9000/hook
    """
    from tokenworks.observe.alerting.receiver import receiver_of

    receiver = receiver_of(settings_from(options).alerts, os.environ)
    if receiver is None:
        raise ConfigError("alerts.kind is off; say who is to be told with --alerts-kind and --alerts-url")
    asyncio.run(_send(receiver))
    click.echo(f"sent to {receiver.kind}, and taken there")


async def _send(receiver: Receiver) -> None:
    from tokenworks.observe.alerting.delivery import Delivery, NoticeRefused

    alert = Alert("Test", "", TICKET, "sent by hand with `tokenworks alerts test`: nothing is wrong")
    now_ns = time.time_ns()
    async with Delivery(receiver, give_up_s=_PATIENCE_S) as delivery:
        for is_resolved in (False, True):
            try:
                await delivery.send(Notice(alert, is_resolved, now_ns, time.time_ns()))
            except NoticeRefused as error:
                raise TokenworksError(f"not delivered: {error}") from error


def _plain(text: str) -> str:
    """Without what a terminal would act on."""
    return "".join(character if character.isprintable() else " " for character in text)
