"""A remote tier on S3 or anything that speaks its protocol (MinIO, Ceph, R2, ...): one object a block, PREFIX/NAME.

An object appears whole or not at all. Who removes objects in the end is the bucket's lifecycle rule. Keys come from
the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) or from the machine's role. Connecting may
take 1 s, the connection may be silent for 5 s, a request may take 30 s altogether, and one that failed is tried once
more. Everything that goes wrong is a TierError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from tokenworks.contract.kv import BlockName
from tokenworks.kv.tiers.address import name_in, options, shown
from tokenworks.kv.tiers.tier import BlockTier, TierError

if TYPE_CHECKING:  # they exist for type checkers only
    from obstore.store import ClientConfig, RetryConfig, S3Config

CONNECT_S: Final = 1.0
SILENCE_S: Final = 5.0
REQUEST_S: Final = 30.0
_PIECE_BYTES: Final = 1 << 20  # read at a time, so that a block is not held twice
_AT_ONCE: Final = 32  # questions on their way
_INSTANCE_METADATA: Final = "169.254.169.254"  # where the library asks for keys if the environment has none


class S3Tier(BlockTier):
    """Blocks in a bucket. Connects when it is first used."""

    def __init__(self, url: str) -> None:
        """`url`: s3, as `check_remote` allows it."""
        self._shown = shown(url)
        with self._explained():
            self._store = _open_store(url)

    def put(self, name: BlockName, block: memoryview) -> None:
        with self._explained():
            # In one piece: parts of an upload that broke would stay in the bucket, unseen and paid for.
            obstore.put(self._store, name.hex(), block, use_multipart=False)

    def get(self, name: BlockName, into: memoryview) -> int:
        with self._explained():
            try:
                found = obstore.get(self._store, name.hex())
            except FileNotFoundError:
                return 0
            if found.meta["size"] > len(into):
                return 0
            return _copy(found.stream(min_chunk_size=_PIECE_BYTES), into)

    def delete(self, names: Iterable[BlockName]) -> None:
        paths = [name.hex() for name in names]
        with self._explained():
            if paths:
                obstore.delete(self._store, paths)

    def names(self) -> Iterator[tuple[BlockName, int]]:
        """What all hosts have put there, in no order; lists the whole prefix."""
        with self._explained():
            for page in obstore.list(self._store):
                for found in page:
                    name = name_in(found["path"])
                    if name is not None:
                        yield name, found["size"]

    def held(self, names: Sequence[BlockName]) -> dict[BlockName, int]:
        with self._explained():
            return asyncio.run(self._held(names))

    def close(self) -> None:
        pass  # the library closes idle connections itself

    async def _held(self, names: Sequence[BlockName]) -> dict[BlockName, int]:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def size(name: BlockName) -> int:
            async with turn:
                try:
                    return (await obstore.head_async(self._store, name.hex()))["size"]
                except FileNotFoundError:
                    return 0

        sizes = await asyncio.gather(*map(size, names))
        return {name: size for name, size in zip(names, sizes, strict=True) if size}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises TierError instead of the library's errors."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise TierError(f"KV blocks in {self._shown}: {_explain(error)}") from error


def _open_store(url: str) -> S3Store:
    parts, chosen = urlsplit(url), options(url)
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=SILENCE_S),
        "timeout": timedelta(seconds=REQUEST_S),
    }
    if chosen.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    retry: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=REQUEST_S)}
    # What is not chosen here may stand in the environment: AWS_REGION, AWS_ENDPOINT_URL.
    places: S3Config = {}
    if "endpoint" in chosen:
        places["endpoint"] = chosen["endpoint"]
    if "region" in chosen:
        places["region"] = chosen["region"]
    prefix = parts.path.strip("/") or None
    return S3Store(parts.netloc, prefix=prefix, config=places, client_options=client, retry_config=retry)


def _copy(pieces: Iterable[bytes], into: memoryview) -> int:
    """Copy the pieces, one after the other, to the start of `into`; their bytes together."""
    copied = 0
    for piece in pieces:
        into[copied : copied + len(piece)] = piece
        copied += len(piece)
    return copied


def _explain(error: Exception) -> str:
    """What to do; the library's own words go on for a page, of which the first line is kept."""
    words = str(error).partition("\n")[0]
    match error:
        case UnauthenticatedError() | PermissionDeniedError() | PermissionError():
            return f"check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy. {words}"
        case FileNotFoundError():
            return f"make the bucket, or correct kv.remote. {words}"
    if _INSTANCE_METADATA in words:
        return f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: there are none, and this machine has no role. {words}"
    return f"start the server, or correct kv.remote. {words}"
