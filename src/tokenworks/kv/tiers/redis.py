"""A remote tier on Redis or Valkey: one string a block, under `tokenworks:kv:1:NAME`, shared by many hosts.

The server does its own eviction (`maxmemory`, `maxmemory-policy allkeys-lru`), so a block that was there may be gone:
`get` is the only truth. Nobody waits long: connecting may take 1 s, taking a block 5 s, any silence 5 s, giving a block
30 s; a connection that broke is made again once. A server slower than that counts as down, as no block of it would come
in time. Everything that goes wrong is a TierError; the password never stands in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tokenworks.contract.kv import BlockName
from tokenworks.kv.tiers.address import name_in, shown
from tokenworks.kv.tiers.bulk_reply import read_bulk
from tokenworks.kv.tiers.tier import BlockTier, PutRefused, TierError

PREFIX: Final = b"tokenworks:kv:1:"
CONNECT_S: Final = 1.0
SILENCE_S: Final = 5.0
REQUEST_S: Final = 30.0
_SCAN_KEYS: Final = 1000


class RedisTier(BlockTier):
    """Blocks in a Redis server. Connects when it is first used."""

    def __init__(self, url: str, silence_s: float = SILENCE_S) -> None:
        """`url`: redis, rediss, valkey or unix, as `check_remote` allows it; `silence_s`: the longest of the server."""
        self._shown = shown(url)
        self._client = redis.Redis.from_url(
            url.replace("valkey://", "redis://", 1),
            protocol=2,  # in 3 the server may push messages between answers
            socket_connect_timeout=CONNECT_S,
            socket_timeout=silence_s,
            # Only a connection that broke: the server may have restarted. One that is slow would be slow again.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError, ConnectionError)),
        )

    def put(self, name: BlockName, block: memoryview) -> None:
        with self._explained():
            self._client.set(_key(name), block)

    def get(self, name: BlockName, into: memoryview) -> int:
        # One byte more than fits: a value that is too long is seen, and not fetched to its end.
        question = ("GETRANGE", _key(name), 0, len(into))
        with self._explained():
            try:
                num_bytes = self._ask(question, into)
            except (redis.ConnectionError, ConnectionError):
                num_bytes = self._ask(question, into)  # the server may have restarted since the last question
            if num_bytes is None:
                # Too long, or an error, which redis-py knows how to tell from the others.
                self._client.strlen(_key(name))
        return num_bytes or 0

    def delete(self, names: Iterable[BlockName]) -> None:
        keys = [_key(name) for name in names]
        if keys:
            with self._explained():
                self._client.unlink(*keys)

    def names(self) -> Iterator[tuple[BlockName, int]]:
        """What all hosts have put there, in no order; walks through the whole server."""
        with self._explained():
            cursor = 0
            while True:
                cursor, keys = self._client.scan(cursor, match=PREFIX + b"*", count=_SCAN_KEYS)
                yield from self._sizes(cast(list[bytes], keys))
                if cursor == 0:
                    return

    def held(self, names: Sequence[BlockName]) -> dict[BlockName, int]:
        with self._explained(), self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.strlen(_key(name))  # 0 where there is none
            return {name: size for name, size in zip(names, pipeline.execute(), strict=True) if size}

    def close(self) -> None:
        # Those in use are left to their threads: the library breaks in odd ways where a connection goes under it.
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _ask(self, question: tuple[str | bytes | int, ...], into: memoryview) -> int | None:
        """See `read_bulk`. A connection that did not end well is closed: no late answer is another's."""
        connection: Any = self._client.connection_pool.get_connection()
        num_bytes = None
        try:
            connection.send_command(*question)
            num_bytes = read_bulk(connection._sock, into, REQUEST_S)
        finally:
            if num_bytes is None:
                connection.disconnect()
            self._client.connection_pool.release(connection)
        return num_bytes

    def _sizes(self, keys: list[bytes]) -> Iterator[tuple[BlockName, int]]:
        with self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.strlen(key)
            sizes = pipeline.execute() if keys else []
        for key, num_bytes in zip(keys, sizes, strict=True):
            name = name_in(key[len(PREFIX) :].decode(errors="replace"))
            if name is not None:
                yield name, num_bytes

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises TierError instead of the library's errors."""
        try:
            yield
        except (redis.RedisError, OSError) as error:
            refused, what = _explain(error)
            raise (PutRefused if refused else TierError)(f"KV blocks in {self._shown}: {what}") from error


def _key(name: BlockName) -> bytes:
    return PREFIX + name.hex().encode()


def _explain(error: redis.RedisError | OSError) -> tuple[bool, str]:
    """Whether only writing is refused, and what to do."""
    match error:
        case redis.exceptions.OutOfMemoryError():
            return True, "it is full: raise `maxmemory`, or let it evict with `maxmemory-policy allkeys-lru`"
        case redis.ReadOnlyError():
            return True, "it is a read-only replica: set kv.remote to the primary"
        case redis.AuthenticationError() | redis.exceptions.NoPermissionError():
            return False, f"it refuses this user or password ({error}): correct them in kv.remote"
        case redis.exceptions.BusyLoadingError():
            return False, "it is still loading its data: it will be tried again"
        case redis.TimeoutError() | TimeoutError():
            return False, "it was silent for too long: it, or the way to it, is overloaded"
        case redis.ConnectionError() | ConnectionError():
            return False, f"it cannot be reached ({error}): start it, or correct kv.remote"
    return False, f"it answered: {error}"
