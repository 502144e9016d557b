"""Asks the gateway over HTTP who is ready; knows its `/health/ready` and nothing else of it."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final

from tokenworks.fleet.address import reachable_host
from tokenworks.fleet.events import GATEWAY

_TIMEOUT_S: Final = 0.5  # the supervisor waits this long at most while it could be restarting something


def ready_children(host: str, port: int) -> list[str]:
    """The children that are ready now: the gateway where it answers at all, and the workers and stores it lists."""
    connection = http.client.HTTPConnection(reachable_host(host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        body = json.loads(response.read() or b"{}")
    except (OSError, http.client.HTTPException, ValueError):
        return []
    finally:
        connection.close()
    return [GATEWAY, *_ids(body, "workers"), *_ids(body, "stores")]


def _ids(body: Any, key: str) -> list[str]:
    """The ids in `{"workers": ["w0", ...], "stores": ["kv0"], ...}`; none in anything else."""
    found = body.get(key) if isinstance(body, dict) else None
    return [entry for entry in found if isinstance(entry, str)] if isinstance(found, list) else []
