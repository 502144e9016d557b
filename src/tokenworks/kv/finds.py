"""Look-ups that clients have asked for: how much of a chain is held, and where. Pure.

What this host knows of is answered at once; names that only the remote tier may hold wait for its answer, for
`MAX_LOOKUP_S` at most.

Invariant: every `Find` is answered once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tokenworks.contract.kv import BlockName, Tier
from tokenworks.kv.protocol import Find, Found
from tokenworks.kv.stock import MAX_LOOKUP_S, Stock

MAX_LOOKUP_NAMES: Final = 512


class _OpenFind(msgspec.Struct, frozen=True):
    """A `Find` that waits for the remote tier."""

    client: bytes
    message: Find
    until_s: float


class Finds:
    """Of all clients; `answer(client, found)` sends one."""

    def __init__(self, stock: Stock, answer: Callable[[bytes, Found], None]) -> None:
        self.misses = 0  # names that were asked for and are held nowhere
        self._stock = stock
        self._answer = answer
        self._open: dict[int, _OpenFind] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, client: bytes, message: Find, num_bytes: int, now_s: float) -> None:
        """A client asks; its blocks have `num_bytes`."""
        rest = message.names[len(self._prefix(message.names)) :][:MAX_LOOKUP_NAMES]
        self._count += 1
        self._open[self._count] = _OpenFind(client, message, now_s + MAX_LOOKUP_S)
        if not rest or not self._stock.look_up(rest, num_bytes, message.recompute_s, self._count, now_s):
            self.end(self._count, now_s)

    def end(self, key: int, now_s: float) -> None:
        """The remote tier has answered, or will not; nothing where the look-up is over already."""
        find = self._open.pop(key, None)
        if find is not None:
            tiers = self._prefix(find.message.names)
            self.misses += len(find.message.names) - len(tiers)
            if 0 < find.message.recompute_s < math.inf:
                self._stock.learn(find.message.names[: len(tiers)], find.message.recompute_s, now_s)
            self._answer(find.client, Found(find.message.request, tiers))

    def tick(self, now_s: float) -> None:
        """Time has passed."""
        for key in [key for key, find in self._open.items() if now_s >= find.until_s]:
            self.end(key, now_s)

    def _prefix(self, names: Sequence[BlockName]) -> list[Tier]:
        tiers: list[Tier] = []
        for name in names:
            tier = self._stock.nearest(name)
            if tier is None:
                break
            tiers.append(tier)
        return tiers
