"""Asks a running gateway to change something."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

from tokenworks.contract.errors import TokenworksError

_TIMEOUT_S: Final = 10.0
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the gateway answers this machine only


def put(url: str, body: dict[str, str]) -> Any:
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
