"""Where our own spans go: our setting, or the names in the environment that every OpenTelemetry exporter knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from tokenworks.contract.config import ExportSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.http_address import http_address

_PATH: Final = "/v1/traces"


class Target(msgspec.Struct, frozen=True):
    """Where spans go, and with which headers."""

    url: str
    headers: dict[str, str] = {}


def target_of(settings: ExportSettings, environment: Mapping[str, str]) -> Target | None:
    """The collector; None where none is named.

    `environment` is asked for OpenTelemetry's own names where our setting is empty, and for the headers always (a
    token has no place in a file of settings). Raises ConfigError for what is no HTTP address.
    """
    base = settings.otlp_endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    traces = "" if settings.otlp_endpoint else environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    url = traces or (base.rstrip("/").removesuffix(_PATH) + _PATH if base else "")
    if not url:
        return None
    if http_address(url) is None:
        raise ConfigError(f"{url!r} is no address to send spans to; write http://HOST:4318 (OTLP over HTTP, not gRPC)")
    names = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
    pairs = [pair.partition("=") for name in names for pair in environment.get(name, "").split(",") if "=" in pair]
    return Target(url, {name.strip(): unquote(value.strip()) for name, _, value in pairs})
