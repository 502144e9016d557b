"""What the store asks of a tier below its own memory: bytes by name, called from I/O threads, never from the loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName


class TierError(TokenworksError):
    """A tier cannot do it now (full, gone, read-only, too slow); the message says what to do about it."""

    code = "kv_tier_failed"


class PutRefused(TierError):
    """A tier takes nothing in now (full, read-only); what it holds can still be read."""

    code = "kv_tier_full"


class BlockTier(Protocol):
    """Keeps sealed blocks by name. Thread-safe; every method may raise TierError and may take as long as it takes."""

    def put(self, name: BlockName, block: memoryview) -> None:
        """Keep a copy of `block`; afterwards `get` finds the whole of it, or nothing."""

    def get(self, name: BlockName, into: memoryview) -> int:
        """Read a block to the start of `into`; its length, or 0 where there is none of that name (or a longer one)."""

    def delete(self, names: Iterable[BlockName]) -> None:
        """Forget these; names that are not there are ignored."""

    def names(self) -> Iterable[tuple[BlockName, int]]:
        """What is held from before, with each block's bytes, least recently used first; for a start.

        A remote tier, which other hosts fill too, gives no order and may take minutes: ask it `held` instead.
        """

    def held(self, names: Sequence[BlockName]) -> dict[BlockName, int]:
        """Which of these are held, and each one's bytes, in one round trip; for a tier that others fill too.

        One name may stand for blocks of several lengths, where unlike engines share what they compute.
        """

    def close(self) -> None:
        """Flush what must survive, and let go."""
