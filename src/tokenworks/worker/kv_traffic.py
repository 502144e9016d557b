"""Counts what a worker exchanges with its host's KV store: what `Load.kv` says.

The step loop counts; the heartbeat's thread reads `snapshot`, which is frozen and replaced as a whole.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from tokenworks.contract.kv import Tier
from tokenworks.contract.wire import KVTraffic, TierTraffic
from tokenworks.kv.format import BlockFault
from tokenworks.policy.transfer import Fetch


class TrafficCounts:
    """Since the worker started."""

    def __init__(self) -> None:
        self.snapshot = KVTraffic()
        self._published_blocks = 0
        self._published_bytes = 0
        self._declined_blocks = 0
        self._fetched: dict[Tier, TierTraffic] = {}
        self._faults: Counter[str] = Counter()

    def published(self, num_bytes: int) -> None:
        """A block has been written to the store."""
        self._published_blocks += 1
        self._published_bytes += num_bytes

    def declined(self, count: int) -> None:
        """Blocks that the store holds are computed all the same."""
        self._declined_blocks += count

    def fault(self, fault: BlockFault, count: int = 1) -> None:
        """Blocks that were promised are not used."""
        self._faults[fault.value] += count

    def fetched(self, fetch: Fetch, block_bytes: int, now_s: float) -> None:
        """A fetch has ended, whatever came of it."""
        for seen in fetch.observations(now_s):
            self._add(seen.tier, TierTraffic(predicted_s=seen.predicted_s, actual_s=seen.actual_s))
        saved_s = fetch.plan.saved_s
        for at, tier in enumerate(fetch.plan.tiers[: fetch.num_arrived]):
            self._add(tier, TierTraffic(1, block_bytes, recompute_s=saved_s[at + 1] - saved_s[at]))

    def _add(self, tier: Tier, more: TierTraffic) -> None:
        known = self._fetched.get(tier, TierTraffic())
        sums = zip(msgspec.structs.astuple(known), msgspec.structs.astuple(more), strict=True)
        self._fetched[tier] = TierTraffic(*(a + b for a, b in sums))

    def publish_snapshot(self, is_attached: bool) -> None:
        """Let the heartbeat see what has been counted."""
        self.snapshot = KVTraffic(
            is_attached=is_attached,
            published_blocks=self._published_blocks,
            published_bytes=self._published_bytes,
            fetched=dict(self._fetched),
            faults=dict(self._faults),
            declined_blocks=self._declined_blocks,
        )
