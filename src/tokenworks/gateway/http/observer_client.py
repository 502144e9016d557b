"""The gateway's line to the observer: one request over its socket, one whole answer back, bounded in time and size."""

from __future__ import annotations

from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import ObserverUnavailable
from tokenworks.observe.observer.address import socket_path, tcp_address

TIMEOUT_S: Final = 30.0  # of a question about a long window in a large ledger, on a busy machine
CONNECT_S: Final = 2.0
MAX_ANSWER_BYTES: Final = 32 << 20
MAX_CONNECTIONS: Final = 16


class Passed(NamedTuple):
    """What the observer answered."""

    status: int
    content_type: bytes
    body: bytes


class ObserverClient:
    """Asks one observer; lives on one event loop, and connects when it is first asked."""

    def __init__(self, settings: LedgerSettings) -> None:
        self._base = settings.address.rstrip("/") or "http://observer"
        self._path = None
        if settings.address:
            tcp_address(settings.address)
        else:
            self._path = socket_path(settings)
        self._is_off = not settings.address and self._path is None
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Passed:
        """The observer's answer, good or bad; raises ObserverUnavailable where there is none."""
        if self._is_off:
            raise ObserverUnavailable(
                "there is no ledger: it is switched off; leave out `--ledger-path off` to have one"
            )
        try:
            url = URL(self._base + path, encoded=True)
            async with self._open().request(method, url, data=body, headers=headers) as response:
                return await _read(response)
        except TimeoutError:
            raise ObserverUnavailable("the observer did not answer in time; ask for a shorter window") from None
        except aiohttp.ClientError as error:
            raise ObserverUnavailable(
                "the observer does not answer: it is starting, or not running (`tokenworks serve` starts and restarts "
                "it; where parts run by hand, so does `tokenworks observer`)"
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_S)
            self._session = aiohttp.ClientSession(connector=self._connector(), timeout=timeout, auto_decompress=False)
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        if self._path is None:
            return aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
        return aiohttp.UnixConnector(self._path, limit=MAX_CONNECTIONS)


async def _read(response: aiohttp.ClientResponse) -> Passed:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ObserverUnavailable("the observer's answer is too large to pass on; ask for less at once")
    return Passed(response.status, response.headers.get("content-type", "application/json").encode(), bytes(body))
