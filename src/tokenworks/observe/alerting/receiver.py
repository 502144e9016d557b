"""Who is told of alerts, as the settings have it; checked when the system starts, not when the first alert is due.

Imports nothing heavy: `tokenworks serve` asks it before it starts anything.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from tokenworks.contract.config import AlertSettings
from tokenworks.contract.errors import ConfigError

Kind = Literal["webhook", "dingtalk", "wecom", "pagerduty"]
PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"


class Receiver(NamedTuple):
    """Who is told."""

    kind: Kind
    url: str
    secret: str = ""
    source: str = "tokenworks"  # which system it is about: a host's name


def receiver_of(alerts: AlertSettings, environment: Mapping[str, str]) -> Receiver | None:
    """Who is told; None: nobody. Raises ConfigError."""
    if alerts.kind == "off":
        if alerts.url:
            raise ConfigError("alerts.url is set and alerts.kind is off; say what kind of receiver it is")
        return None
    secret = _secret(alerts, environment)
    url = alerts.url or (PAGERDUTY_URL if alerts.kind == "pagerduty" else "")
    if not url:
        raise ConfigError(f"alerts.kind is {alerts.kind} and alerts.url is empty; give the address to send to")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("alerts.url is not an address such as https://HOST/PATH")  # not shown: it may hold a token
    if alerts.kind == "pagerduty" and not secret:
        raise ConfigError("PagerDuty needs a routing key; name the environment variable with it in secret_variable")
    return Receiver(alerts.kind, url, secret, socket.gethostname())


def _secret(alerts: AlertSettings, environment: Mapping[str, str]) -> str:
    name = alerts.secret_variable
    if not name:
        return ""
    if not environment.get(name):
        raise ConfigError(f"alerts.secret_variable names {name}, which is not set in the environment")
    return environment[name]
