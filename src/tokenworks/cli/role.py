"""`tokenworks role`: what a running worker is for, changed while it runs."""

from __future__ import annotations

import os
from urllib.parse import quote

import click

from tokenworks.contract.config import GatewaySettings
from tokenworks.contract.loader import load_settings
from tokenworks.contract.wire import Role
from tokenworks.fleet.address import base_url


@click.command()
@click.argument("worker")
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.option(
    "--url",
    help="Where the gateway answers; ask on its own machine.  [default: as tokenworks.toml says, "
    f"{base_url(GatewaySettings().host, GatewaySettings().port)}]",
)
def role(worker: str, role: str, url: str | None) -> None:
    """Change what WORKER is for: both, prefill or decode.

    The gateway acts on it from the next request on; what the worker runs goes on, and nothing restarts. The role lasts
    until the gateway is restarted; `role` in [[workers]] of tokenworks.toml is what it begins with.

    \b
    Examples:
      tokenworks role w0 prefill
      tokenworks role w1 decode --url http://127.0.0.1:8001
    """
    from tokenworks.cli.gateway_request import put

    url = url or _configured_url()
    answer = put(f"{url.rstrip('/')}/admin/workers/{quote(worker, safe='')}", {"role": role})
    click.echo(f"{answer['id']} is now for: {answer['role']} (configured: {answer['configured_role']})")


def _configured_url() -> str:
    gateway = load_settings(environment=os.environ).gateway
    return base_url(gateway.host, gateway.port)
