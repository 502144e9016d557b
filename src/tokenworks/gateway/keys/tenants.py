"""Whose request it is, and whose cached blocks it may find.

A tenant is who a managed key names (`keys.py`). Where keys are not asked for, it is whoever bears one: its name is then
a digest of the key, so that no key stands in a log or travels to a worker. Names of KV blocks begin with a salt;
requests with unlike salts find none of each other's blocks, in no tier, so that nobody can learn by timing what another
has asked.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.request import Scenario

ANONYMOUS: Final = "anonymous"
MAX_SALT_CHARS: Final = 256
_NO_KEYS: Final = frozenset({"", "none", "EMPTY"})  # what clients send where a server wants no key
_NAME_BYTES: Final = 16
_SEPARATOR: Final = "\n"  # which no tenant's name has, so that no tenant and salt are read as another's


class Caller(msgspec.Struct, frozen=True):
    """Who asks."""

    tenant: str
    key: str = ""  # the id of a managed key; empty: none
    scenario: Scenario = Scenario.ONLINE  # of requests that do not say


UNKNOWN: Final = Caller(ANONYMOUS)


def key_in(authorization: bytes | None) -> str | None:
    """The key that an `Authorization` header bears; None: none that means anything."""
    scheme, _, key = (authorization or b"").decode("latin-1").strip().partition(" ")
    key = key.strip()
    return None if scheme.lower() != "bearer" or key in _NO_KEYS else key


def caller_of(key: str | None) -> Caller:
    """Who bears a key that nobody manages."""
    if key is None:
        return UNKNOWN
    return Caller(blake2b(key.encode("latin-1"), digest_size=_NAME_BYTES).hexdigest())


def salt_for(tenant: str, cache_salt: str | None, *, is_sharing: bool) -> str:
    """What the names of a request's blocks begin with; `cache_salt` is the client's own, within its tenant."""
    if cache_salt is not None and not 1 <= len(cache_salt) <= MAX_SALT_CHARS:
        raise InvalidRequest(
            f"`cache_salt` has {len(cache_salt)} characters; give 1 to {MAX_SALT_CHARS}", param="cache_salt"
        )
    whose = "" if is_sharing else tenant
    return whose if cache_salt is None else f"{whose}{_SEPARATOR}{cache_salt}"
