"""What is answered to this machine alone: `/admin`, `/observe` and the dashboard.

Being here is the permission. A page of somebody else's, open in a browser here, is not here: it could reach this
address under a name of its own that leads to 127.0.0.1 (DNS rebinding), and is refused by that name.
"""

from __future__ import annotations

from ipaddress import ip_address

from tokenworks.contract.errors import Forbidden
from tokenworks.gateway.http.exchange import Exchange


def check_is_local(exchange: Exchange, what: str) -> None:
    """Raises Forbidden for a connection from elsewhere, and for one that asks for another host than this."""
    if not exchange.is_local:
        raise Forbidden(
            f"{what} is answered on this machine only; ask at 127.0.0.1 on the gateway's host, from elsewhere through "
            "a tunnel (ssh -L 8000:127.0.0.1:8000 HOST)"
        )
    if not _names_this_machine(exchange.host):
        raise Forbidden(f"{what} is answered to http://127.0.0.1 and http://localhost only, not to this name of it")


def _names_this_machine(host: str) -> bool:
    """Whether the Host header is an address or localhost; names of others may lead anywhere."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").lower()
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
