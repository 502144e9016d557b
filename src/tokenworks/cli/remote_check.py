"""Whether the KV store's remote tier answers from this machine: asked as the store would ask it."""

from __future__ import annotations

import time
from typing import Final

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.kv import NAME_BYTES
from tokenworks.fleet.finding import Finding, Verdict
from tokenworks.kv.tiers.address import shown
from tokenworks.kv.tiers.open import open_remote
from tokenworks.kv.tiers.tier import TierError

_WHAT: Final = "remote server"
_NOBODYS: Final = bytes(NAME_BYTES)  # the name of a block that nobody has


def check_remote_answers(url: str) -> Finding | None:
    """A look for one block that is not there; None where the address or a package is wrong, which others tell.

    A tier that is down keeps nobody from serving, so it is a warning.
    """
    try:
        tier = open_remote(url)
        start_s = time.monotonic()
        tier.held([_NOBODYS])
        tier.close()
    except ConfigError:
        return None
    except TierError as error:
        return Finding(_WHAT, Verdict.WARN, error.message, "until it answers, blocks stay on this host")
    answered_ms = 1000 * (time.monotonic() - start_s)
    return Finding(_WHAT, Verdict.OK, f"{shown(url)} answers, in {answered_ms:.0f} ms")
