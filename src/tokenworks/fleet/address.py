"""Where this machine reaches a server that listens on some host."""

from __future__ import annotations


def base_url(host: str, port: int) -> str:
    """Over HTTP."""
    reachable = reachable_host(host)
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def reachable_host(host: str) -> str:
    """A wildcard is no address to call."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
