"""What the log says of a tier: that it fails and why, once, and that it is back. Pure.

A tier that fails is tried again every 30 s at most for as long as it is away, which may be a weekend.
"""

from __future__ import annotations

import re
from typing import Final

from tokenworks.contract.kv import Tier

_VARIES: Final = re.compile(r"[0-9a-f]{32}|[\d,.]+")  # names of blocks, and numbers


class TierNews:
    """Of all tiers of a store."""

    def __init__(self) -> None:
        self._failing: dict[Tier, tuple[str, float]] = {}  # why, without what varies, and since when

    def heard(self, tier: Tier, error: str, is_up: bool, now_s: float) -> str:
        """What to say after a task ended, with `error` where it failed, and the tier `is_up` or not; empty: nothing.

        The same failure of another block, or with other numbers in its words, is no news.
        """
        before = self._failing.get(tier)
        if error:
            kind = _VARIES.sub("", error)
            self._failing[tier] = (kind, now_s if before is None else before[1])
            return error if before is None or before[0] != kind else ""
        if before is None or not is_up:
            return ""
        del self._failing[tier]
        return f"the {tier.value} tier works again, after {now_s - before[1]:.0f} s"
