"""`tokenworks role`: what a running worker is for, changed while it runs."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import quote

import click

from tokenworks.contract.config import GatewaySettings
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.loader import load_settings
from tokenworks.contract.wire import Role
from tokenworks.fleet.health import base_url

_TIMEOUT_S: Final = 10.0
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the gateway answers this machine only


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
    url = url or _configured_url()
    answer = _put(f"{url.rstrip('/')}/admin/workers/{quote(worker, safe='')}", {"role": role})
    click.echo(f"{answer['id']} is now for: {answer['role']} (configured: {answer['configured_role']})")


def _configured_url() -> str:
    gateway = load_settings(environment=os.environ).gateway
    return base_url(gateway.host, gateway.port)


def _put(url: str, body: dict[str, str]) -> Any:
    """The gateway's answer; raises TokenworksError with its message, or with what to do where there is none."""
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), method="PUT")
        with _OPENER.open(request, timeout=_TIMEOUT_S) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise TokenworksError(_message_in(error)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)  # what urllib wraps
        where = url.partition("/admin/")[0]
        raise TokenworksError(f"no gateway answers at {where} ({reason}); give its address with --url") from error


def _message_in(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.load(error)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return f"HTTP status {error.code}: this is not a Tokenworks gateway, or an older one"
