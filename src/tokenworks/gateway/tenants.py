"""Whose request it is, and whose cached blocks it may find.

Until keys are managed, a tenant is whoever bears a key: its name is a digest of the key, so that no key stands in a log
or travels to a worker. Names of KV blocks begin with a salt; requests with unlike salts find none of each other's
blocks, in no tier, so that nobody can learn by timing what another has asked.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from tokenworks.contract.errors import InvalidRequest

ANONYMOUS: Final = "anonymous"
MAX_SALT_CHARS: Final = 256
_NO_KEYS: Final = frozenset({"", "none", "EMPTY"})  # what clients send where a server wants no key
_NAME_BYTES: Final = 16


def tenant_of(authorization: bytes | None) -> str:
    """The tenant that an `Authorization` header stands for."""
    scheme, _, key = (authorization or b"").decode("latin-1").strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or key in _NO_KEYS:
        return ANONYMOUS
    return blake2b(key.encode("latin-1"), digest_size=_NAME_BYTES).hexdigest()


def salt_for(tenant: str, cache_salt: str | None, *, is_sharing: bool) -> str:
    """What the names of a request's blocks begin with; `cache_salt` is the client's own, within its tenant."""
    if cache_salt is not None and not 1 <= len(cache_salt) <= MAX_SALT_CHARS:
        raise InvalidRequest(
            f"`cache_salt` has {len(cache_salt)} characters; give 1 to {MAX_SALT_CHARS}", param="cache_salt"
        )
    whose = "" if is_sharing else tenant
    return whose if cache_salt is None else f"{whose}:{cache_salt}"
