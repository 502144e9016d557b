"""`/dashboard`: one page and one script, as they lie in the package, to this machine alone.

The page may load and ask nothing but this gateway: its policy forbids the browser everything else, markup that somebody
smuggled in as a tenant's name included. Its one style sheet is allowed by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final, NamedTuple

from tokenworks.contract.errors import NotFound
from tokenworks.gateway.http.exchange import Exchange
from tokenworks.gateway.http.local import check_is_local
from tokenworks.gateway.http.service import Service

_STYLE: Final = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


class _File(NamedTuple):
    body: bytes
    content_type: bytes


def _load(name: str, content_type: str) -> _File:
    return _File((files("tokenworks") / "dashboard" / name).read_bytes(), content_type.encode())


def content_policy(page: bytes) -> bytes:
    """The Content-Security-Policy of a page with its style sheets in it."""
    hashes = [base64.b64encode(hashlib.sha256(style).digest()).decode() for style in _STYLE.findall(page)]
    styles = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'self'; style-src {styles}; img-src data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ).encode()


_FILES: Final = {
    "": _load("index.html", "text/html; charset=utf-8"),
    "script.js": _load("script.js", "text/javascript; charset=utf-8"),
}
_HEADERS: Final = (
    (b"content-security-policy", content_policy(_FILES[""].body)),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


async def root(service: Service, exchange: Exchange) -> None:
    """`GET /`: a browser, in which somebody has opened the address, is led on; a program is told where the API is."""
    if "text/html" not in exchange.accept:
        raise NotFound("there is nothing at / here; the API is under /v1, the dashboard at /dashboard")
    await exchange.respond(b"", 307, b"text/plain", (b"location", b"/dashboard"))


async def page(service: Service, exchange: Exchange) -> None:
    """`GET /dashboard`."""
    await _send(exchange, _FILES[""])


async def script(service: Service, exchange: Exchange) -> None:
    """`GET /dashboard/script.js`."""
    await _send(exchange, _FILES["script.js"])


async def _send(exchange: Exchange, file: _File) -> None:
    check_is_local(exchange, "/dashboard")
    await exchange.respond(file.body, 200, file.content_type, *_HEADERS)
