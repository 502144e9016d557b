"""The foreign server, seen through HTTP: what it lists, one answer in one, one answer as a stream of bytes.

Every way in which it can disappoint is one of four errors, told apart because each leads elsewhere: nobody there, too
busy, this request cannot be run, and everything else. Knows nothing of gateways and nothing of what the bytes mean.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from tokenworks.contract.errors import TokenworksError

T = TypeVar("T")

CONNECT_S: Final = 5.0  # to open a connection; reading an answer has no limit, since a queue may be long
LOOK_S: Final = 5.0  # for what a living server answers at once
IDLE_CONNECTION_S: Final = 4.0  # below the 5 s after which common servers close one, just as it may be picked
BUSY: Final = (429, 503)
NO_ENTRY: Final = (401, 403)
MAX_ERROR_BYTES: Final = 64 << 10


class UpstreamError(TokenworksError):
    """The foreign server did not do what it was asked."""

    code = "upstream_failed"


class UpstreamDown(UpstreamError):
    """Nobody listens at the address."""


class UpstreamBusy(UpstreamError):
    """The server takes no more work now."""


class UpstreamRefusal(UpstreamError):
    """The server cannot run this request as it is."""


class UpstreamFault(UpstreamError):
    """The connection broke, or the answer cannot be understood."""


class ListedModel(msgspec.Struct, frozen=True):
    """What of an entry of `/models` matters here."""

    id: str
    owned_by: str = ""
    max_model_len: int | None = None


class _ModelList(msgspec.Struct, frozen=True):
    data: list[ListedModel]


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Window(msgspec.Struct, frozen=True):
    n_ctx: int


class _Properties(msgspec.Struct, frozen=True):
    default_generation_settings: _Window


class Upstream:
    """One server; `last_heard_s` is the monotonic time of the last sign of life."""

    def __init__(self, session: aiohttp.ClientSession, streams: aiohttp.ClientSession, url: str) -> None:
        self.url = url.rstrip("/")
        self.last_heard_s = 0.0
        self._session = session
        self._streams = streams  # uses no connection twice

    async def models(self) -> list[ListedModel]:
        """The models that it lists; raises UpstreamError."""
        return decode_answer(await self._ask("GET", f"{self.url}/models"), _ModelList).data

    async def token_ids(self, body: dict[str, Any]) -> list[int] | None:
        """Its own tokens of a text, where it tells; the path is beside, not under, `/v1`."""
        try:
            return decode_answer(await self._ask("POST", f"{self._root}/tokenize", body), _Tokens).tokens
        except UpstreamError:
            return None

    async def window(self) -> int | None:
        """The context of llama.cpp's server, which does not say it in `/models`."""
        try:
            answer = await self._ask("GET", f"{self._root}/props")
            return decode_answer(answer, _Properties).default_generation_settings.n_ctx
        except UpstreamError:
            return None

    async def complete(self, body: dict[str, Any]) -> bytes:
        """The whole answer to a completion request; raises UpstreamError."""
        async with self._request("POST", f"{self.url}/completions", body) as response:
            return await response.read()

    async def stream(self, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed answer as they come; raises UpstreamError. Closing it closes the connection.

        So does its end: llama.cpp's server closes the connection behind a stream without saying so, and the next
        request on it would break. A new one costs a round trip.
        """
        async with self._request("POST", f"{self.url}/completions", body, self._streams) as response:
            if response.content_type != "text/event-stream":
                raise UpstreamFault(f"{self.url} answered {response.content_type} where a stream was asked for")
            async for chunk in response.content.iter_any():
                self.last_heard_s = time.monotonic()
                yield chunk

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=LOOK_S)
        async with self._request(method, url, body, timeout=timeout) as response:
            return await response.read()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        body: dict[str, Any] | None = None,
        session: aiohttp.ClientSession | None = None,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer's head, with a good status; what fails until the end of the block is an UpstreamError too."""
        session = self._session if session is None else session
        try:
            async with session.request(method, url, json=body, allow_redirects=False, **options) as response:
                if response.status != 200:
                    raise refusal(url, response.status, await response.content.read(MAX_ERROR_BYTES))
                self.last_heard_s = time.monotonic()
                yield response
        except aiohttp.ClientConnectorError as error:
            raise UpstreamDown(f"nobody answers at {url}: {error.os_error}") from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UpstreamFault(f"the connection to {url} broke: {error or type(error).__name__}") from error


@asynccontextmanager
async def open_upstream(url: str, api_key: str = "") -> AsyncIterator[Upstream]:
    """A server at this base URL, such as http://10.0.0.7:8000/v1."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)  # the server does the queueing
    new = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    async with (
        aiohttp.ClientSession(connector=kept, headers=headers, timeout=timeout) as session,
        aiohttp.ClientSession(connector=new, headers=headers, timeout=timeout) as streams,
    ):
        yield Upstream(session, streams, url)


def refusal(url: str, status: int, body: bytes) -> UpstreamError:
    """The error that a bad status stands for, in the server's own words."""
    message, param = error_message(body)
    told = f"{url} answered {status}: {message}" if message else f"{url} answered {status}"
    if status in BUSY:
        return UpstreamBusy(told)
    if status in NO_ENTRY:
        return UpstreamFault(f"{told}; put its API key into an environment variable and name that in `key_variable`")
    if 400 <= status < 500:
        return UpstreamRefusal(message or told, param=param)
    return UpstreamFault(told)


def error_message(body: bytes) -> tuple[str, str | None]:
    """Message and parameter of an OpenAI error body, wrapped in `error` or not; else the start of the text."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body[:300].decode("utf-8", "replace").strip(), None
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return str(error), None
    message, param = error.get("message") or error.get("detail") or error, error.get("param")
    return str(message), param if isinstance(param, str) and param else None


def decode_answer(answer: bytes, kind: type[T]) -> T:
    """The answer as `kind`; raises UpstreamFault."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFault(f"the answer is not what OpenAI's API says: {error}: {answer[:200]!r}") from error
