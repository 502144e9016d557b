"""Who is told of alerts, as the settings have it; checked when the system starts, not when the first alert is due.

Imports nothing heavy: `tokenworks serve` asks it before it starts anything.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from tokenworks.contract.config import AlertReceiver, AlertSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.http_address import http_address

Kind = Literal["webhook", "dingtalk", "wecom", "pagerduty"]
PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"


class Receiver(NamedTuple):
    """Who is told."""

    kind: Kind
    url: str
    secret: str = ""
    source: str = "tokenworks"  # which system it is about: a host's name
    severities: tuple[str, ...] = AlertReceiver().severities  # what is told


def receivers_of(alerts: AlertSettings, environment: Mapping[str, str]) -> list[Receiver]:
    """All who are told; none: nobody. Raises ConfigError."""
    return [_receiver(where, stated, environment) for where, stated in _stated(alerts)]


def _stated(alerts: AlertSettings) -> Iterator[tuple[str, AlertReceiver]]:
    """Each receiver, and what messages call its place: `[alerts]` itself, then the entries of its list."""
    if alerts.kind != "off":
        yield "alerts", AlertReceiver(kind=alerts.kind, url=alerts.url, secret_variable=alerts.secret_variable)
    elif alerts.url:
        raise ConfigError("alerts.url is set and alerts.kind is off; say what kind of receiver it is")
    for index, receiver in enumerate(alerts.receivers):
        yield f"alerts.receivers[{index}]", receiver


def _receiver(where: str, stated: AlertReceiver, environment: Mapping[str, str]) -> Receiver:
    secret = _secret(where, stated.secret_variable, environment)
    url = stated.url or (PAGERDUTY_URL if stated.kind == "pagerduty" else "")
    if not url:
        raise ConfigError(f"{where}.kind is {stated.kind} and {where}.url is empty; give the address to send to")
    if http_address(url) is None:
        raise ConfigError(f"{where}.url is not an address such as https://HOST/PATH")  # not shown: it may hold a token
    if stated.kind == "pagerduty" and not secret:
        raise ConfigError(
            f"PagerDuty needs a routing key; name the environment variable with it in {where}.secret_variable"
        )
    return Receiver(stated.kind, url, secret, socket.gethostname(), stated.severities)


def _secret(where: str, name: str, environment: Mapping[str, str]) -> str:
    if not name:
        return ""
    if not environment.get(name):
        raise ConfigError(f"{where}.secret_variable names {name}, which is not set in the environment")
    return environment[name]
