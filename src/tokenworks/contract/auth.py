"""Who needs an API key: said once, for the gateway that asks for it and for whoever tells people about it."""

from __future__ import annotations

from ipaddress import ip_address

from tokenworks.contract.config import GatewaySettings, LedgerSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.folders import state_folder


def needs_key(settings: GatewaySettings) -> bool:
    """Whether a gateway refuses requests without a key; `auto` asks for one unless it listens on loopback only."""
    return settings.auth == "required" or (settings.auth == "auto" and not is_loopback(settings.host))


def check_keys_have_a_place(settings: GatewaySettings, ledger: LedgerSettings) -> None:
    """Raises ConfigError where nobody could ever be let in."""
    if needs_key(settings) and state_folder(ledger) is None:
        raise ConfigError(
            f"every request to {settings.host} needs an API key and there is no folder for keys (ledger.path is off): "
            "give one with --ledger-path, or let everybody in with --auth off"
        )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may be resolved to anything
