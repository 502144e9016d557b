"""Who may ask: the managed keys, looked up by digest, and what holds where there are none.

`auto` asks for a key unless the gateway listens on loopback only; there, requests without one are anonymous, and keys
that nobody manages name a tenant by their digest for as long as no key was ever added. A key that is not known is
refused wherever keys exist or are asked for, but not where `auth` is off: keys that are known still name their tenant.

The file is looked at once a second at most, when a request comes; a change counts from then on. One that cannot be read
changes nothing: the keys that were known last go on.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from tokenworks.contract.auth import needs_key
from tokenworks.contract.config import GatewaySettings
from tokenworks.contract.errors import ConfigError, Unauthorized
from tokenworks.gateway.keys.key_file import Key, KeyFile, digest
from tokenworks.gateway.keys.tenants import Caller, caller_of, key_in

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
_WITHOUT: Final = "give an API key: send `Authorization: Bearer KEY`; `tokenworks key add TENANT` makes one"
_WRONG: Final = "this API key is not known here, or was revoked; `tokenworks key add TENANT` makes one"


class Keys:
    """One gateway's."""

    def __init__(self, file: KeyFile | None, settings: GatewaySettings) -> None:
        """`file` is None where there is no folder for keys. Raises ConfigError where they cannot be read."""
        self._file = file
        self._is_off = settings.auth == "off"
        self._is_required = needs_key(settings)
        self._by_digest: dict[str, Caller | None] = {}  # None: revoked
        self._version: tuple[int, ...] = ()
        self._look_s = 0.0
        if file is not None:
            self._load(file)
        if self._is_required and not any(self._by_digest.values()):
            _log.warning("no API key exists: every request is refused until `tokenworks key add TENANT` makes one")

    def caller(self, authorization: bytes | None) -> Caller:
        """Who bears this header; raises Unauthorized."""
        self._look()
        key = key_in(authorization)
        if key is None:
            if self._is_required:
                raise Unauthorized(_WITHOUT)
            return caller_of(None)
        if self._by_digest:
            known = self._by_digest.get(digest(key))
            if known is not None:
                return known
        if self._is_required or (self._by_digest and not self._is_off):
            raise Unauthorized(_WRONG)
        return caller_of(key)

    def _look(self) -> None:
        """Read the file again where it has changed."""
        now_s = time.monotonic()
        if self._file is None or now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_EVERY_S
        if self._file.version() != self._version:
            try:
                self._load(self._file)
            except ConfigError as error:
                _log.error("%s; the keys known so far go on", error.message)

    def _load(self, file: KeyFile) -> None:
        self._version = file.version()  # before reading: a change in between is found by the next look
        self._by_digest = {key.digest: _caller(key) for key in file.read()}


def _caller(key: Key) -> Caller | None:
    return None if key.revoked_s is not None else Caller(key.tenant, key.id, key.scenario)
