"""What `tokenworks alerts` does: looks which alerts fire, or tries whether one reaches its receivers."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from typing import Final

import click
import msgspec

from tokenworks.cli.terminal_text import printable
from tokenworks.contract.config import AlertSettings, Settings
from tokenworks.contract.errors import ConfigError, TokenworksError
from tokenworks.observe.alerting.alert_book import Notice
from tokenworks.observe.alerting.alert_rules import Alert, firing
from tokenworks.observe.alerting.alerts import drift_figures
from tokenworks.observe.alerting.delivery import Delivery, NoticeRefused
from tokenworks.observe.alerting.receiver import Receiver, receivers_of
from tokenworks.observe.store import open_ledger

_PATIENCE_S: Final = 15.0


def show_firing(settings: Settings, *, is_json: bool) -> None:
    """The alerts that the ledger gives reason for, now."""
    now_ns = time.time_ns()
    with closing(open_ledger(settings.ledger, objectives=settings.objectives)) as ledger:
        found = firing(ledger, now_ns, settings.objectives, drift_figures(ledger, settings.alerts, now_ns))
    if is_json:
        click.echo(msgspec.json.encode({"alerts": [alert._asdict() for alert in found]}))
        return
    for alert in found:
        click.echo(f"{alert.severity:7} {alert.name} {alert.subject}: {printable(alert.summary, len(alert.summary))}")
    if not found:
        click.echo("no alert fires")


def send_test(alerts: AlertSettings) -> None:
    """To one receiver after the other; raises ConfigError, and TokenworksError once all have been tried."""
    receivers = receivers_of(alerts, os.environ)
    if not receivers:
        raise ConfigError(
            "alerts.kind is off; say who is to be told with --alerts-kind and --alerts-url, or [[alerts.receivers]]"
        )
    failed = [trouble for receiver in receivers if (trouble := asyncio.run(_send(receiver)))]
    if failed:
        raise TokenworksError("not delivered: " + "; ".join(failed))


async def _send(receiver: Receiver) -> str:
    """What went wrong; empty: nothing did."""
    alert = Alert("Test", "", receiver.severities[-1], "sent by hand with `tokenworks alerts test`: nothing is wrong")
    now_ns = time.time_ns()
    async with Delivery(receiver, give_up_s=_PATIENCE_S) as delivery:
        for is_resolved in (False, True):
            try:
                await delivery.send(Notice(alert, is_resolved, now_ns, time.time_ns()))
            except NoticeRefused as error:
                return str(error)
    click.echo(f"sent to {delivery.where}, and taken there")
    return ""
