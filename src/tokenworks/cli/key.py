"""`tokenworks key`: API keys, each of which names a tenant. A gateway minds a change of them within a second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from tokenworks.cli.group import CommandGroup
from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.cli.terminal_text import printable
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.folders import state_folder
from tokenworks.contract.request import Scenario
from tokenworks.gateway.keys.key_file import Key, KeyFile

_HEADINGS: Final = ("id", "tenant", "scenario", "made", "revoked", "note")


@click.group(cls=CommandGroup)
def key() -> None:
    """API keys: who may use this gateway, and which tenant each request belongs to.

    Keys lie in the ledger's folder, as digests: a key is shown once, when it is made. On loopback a gateway also takes
    requests without a key, unless gateway.auth is required.
    """


@key.command(cls=SettingsCommand)
@click.argument("tenant")
@click.option(
    "--scenario",
    type=click.Choice([scenario.value for scenario in Scenario]),
    default=Scenario.ONLINE.value,
    show_default=True,
    help="Of requests that do not choose one with `service_tier`.",
)
@click.option("--note", default="", help="For whom or what it is; shown by `tokenworks key list`.")
@takes_settings("ledger.path", takes_model=False)
def add(tenant: str, scenario: str, note: str, **options: Any) -> None:
    """Make a key for TENANT, and print it, this once.

    \b
    Examples:
      tokenworks key add team-search
      tokenworks key add nightly --scenario offline --note "the batch of 2 a.m."
    """
    file = _file(options)
    made, secret = file.add(tenant, Scenario(scenario), note)
    click.echo(secret)
    click.echo(f"key {made.id} of tenant {made.tenant}, kept as a digest in {file.path}", err=True)
    click.echo("it is not shown again", err=True)


@key.command("list", cls=SettingsCommand)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, one object a key.")
@takes_settings("ledger.path", takes_model=False)
def list_keys(is_json: bool, **options: Any) -> None:
    """Show the keys that there are, without the keys themselves."""
    keys = _file(options).read()
    if is_json:
        click.echo(json.dumps([_facts(each) for each in keys], indent=2, ensure_ascii=False))
    elif not keys:
        click.echo("there are no keys; `tokenworks key add TENANT` makes one")
    else:
        click.echo("\n".join(_aligned([_HEADINGS, *map(_line, keys)])))


@key.command(cls=SettingsCommand)
@click.argument("id")
@takes_settings("ledger.path", takes_model=False)
def revoke(id: str, **options: Any) -> None:
    """Let the key with this ID open nothing any more, from a second later on; requests under way finish."""
    revoked = _file(options).revoke(id)
    click.echo(f"key {revoked.id} of tenant {revoked.tenant} is revoked")


def _file(options: dict[str, Any]) -> KeyFile:
    folder = state_folder(settings_from(options).ledger)
    if folder is None:
        raise ConfigError("there is no folder for API keys (ledger.path is off); give one with --ledger-path")
    return KeyFile(folder)


def _line(each: Key) -> tuple[str, ...]:
    revoked = "" if each.revoked_s is None else _when(each.revoked_s)
    made = _when(each.created_s)
    return each.id, printable(each.tenant), each.scenario.value, made, revoked, printable(each.note)


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as their widest; one that nobody has anything in is left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _facts(each: Key) -> dict[str, Any]:
    revoked = None if each.revoked_s is None else _when(each.revoked_s)
    return {
        "id": each.id,
        "tenant": each.tenant,
        "scenario": each.scenario.value,
        "made": _when(each.created_s),
        "revoked": revoked,
        "note": each.note,
    }


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
