"""The API keys of this machine, as they lie in the state folder: whose each is, and never the key itself.

`keys.json` holds a digest of each key. A key is 256 random bits, so that a plain fast hash is enough: there is nothing
to guess that a slow or keyed one would protect, and a lookup by digest takes no time that depends on how near a guess
is. A revoked key stays in the file, for records go on naming its id.

Writers take turns (`keys.lock`) and replace the file whole, readable by its owner alone; a reader sees the old or the
new one. Tenants named here are data wherever they go: anything printable is allowed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.request import Scenario
from tokenworks.gateway.keys.tenants import ANONYMOUS

KEY_PREFIX: Final = "tw-"
MAX_NAME_CHARS: Final = 64
MAX_NOTE_CHARS: Final = 256
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 4
_DIGEST_BYTES: Final = 32


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key, without itself."""

    id: str
    digest: str
    tenant: str
    created_s: int  # since 1970
    scenario: Scenario = Scenario.ONLINE
    note: str = ""
    revoked_s: int | None = None


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[Key] = []


class KeyFile:
    """The file in one state folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self._lock = folder / "keys.lock"

    def read(self) -> list[Key]:
        """All keys, the oldest first; raises ConfigError where the file cannot be read or is damaged."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content).keys
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"cannot read the API keys in {self.path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.path} is damaged ({error}): put a copy back, or remove it and add keys"
            ) from error

    def version(self) -> tuple[int, ...]:
        """Unlike after every change."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def add(self, tenant: str, scenario: Scenario, note: str) -> tuple[Key, str]:
        """A new key: its entry, and the key itself, which is nowhere else; raises ConfigError."""
        check_tenant(tenant)
        check_text(note, "note", MAX_NOTE_CHARS)
        secret = KEY_PREFIX + secrets.token_hex(_SECRET_BYTES)
        with self._changing() as keys:
            key = Key(_free_id(keys), digest(secret), tenant, int(time.time()), scenario, note)
            keys.append(key)
        return key, secret

    def revoke(self, key_id: str) -> Key:
        """It opens nothing any more; raises ConfigError where there is no such key."""
        with self._changing() as keys:
            for at, key in enumerate(keys):
                if key.id == key_id:
                    keys[at] = msgspec.structs.replace(key, revoked_s=key.revoked_s or int(time.time()))
                    return keys[at]
        raise ConfigError(f"there is no key {key_id!r}; `tokenworks key list` shows the ids")

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, to be changed; they are written when the block ends well."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = self.read()
                yield keys
                self._write(keys)
        except OSError as error:
            raise ConfigError(f"cannot write the API keys in {self.path}: {error.strerror}") from error

    def _write(self, keys: list[Key]) -> None:
        encoded = msgspec.json.format(msgspec.json.encode(_Content(keys)))
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with open(temporary, "wb", opener=_private) as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def digest(secret: str) -> str:
    """What is kept of a key."""
    return blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def check_tenant(tenant: str) -> None:
    """Raises ConfigError where a tenant cannot be named so."""
    if tenant == ANONYMOUS:
        raise ConfigError(f"{ANONYMOUS!r} is the tenant of requests without a key; choose another name")
    if not tenant.strip():
        raise ConfigError(f"the tenant has no name; give 1 to {MAX_NAME_CHARS} printable characters")
    check_text(tenant, "tenant", MAX_NAME_CHARS)


def check_text(text: str, what: str, most_chars: int) -> None:
    """Raises ConfigError for what is too long or would not stay on its line."""
    if len(text) > most_chars or not text.isprintable():
        raise ConfigError(
            f"the {what} {text[:most_chars]!r} cannot be used; give at most {most_chars} printable characters"
        )


def _free_id(keys: list[Key]) -> str:
    taken = {key.id for key in keys}
    while (name := secrets.token_hex(_ID_BYTES)) in taken:
        pass
    return name


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
