"""`tokenworks role`: what a running worker is for, changed while it runs."""

from __future__ import annotations

from urllib.parse import quote

import click

from tokenworks.contract.config import GatewaySettings
from tokenworks.contract.wire import Role


@click.command()
@click.argument("worker")
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.option(
    "--url",
    default=f"http://{GatewaySettings().host}:{GatewaySettings().port}",
    show_default=True,
    help="Where the gateway answers; ask on its own machine.",
)
def role(worker: str, role: str, url: str) -> None:
    """Change what WORKER is for: both, prefill or decode.

    The gateway acts on it from the next request on; what the worker runs goes on, and nothing restarts. The role lasts
    until the gateway is restarted; `role` in [[workers]] of tokenworks.toml is what it begins with.

    \b
    Examples:
      tokenworks role w0 prefill
      tokenworks role w1 decode --url http://127.0.0.1:8001
    """
    from tokenworks.cli.gateway_request import put

    answer = put(f"{url.rstrip('/')}/admin/workers/{quote(worker, safe='')}", {"role": role})
    click.echo(f"{answer['id']} is now for: {answer['role']} (configured: {answer['configured_role']})")
