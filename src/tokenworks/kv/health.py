"""Whether a tier answers, how fast, and at what cost: learnt from what it did lately. Pure; times are handed in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.kv.protocol import TierSpeed

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 30.0
KEPT_SHARE: Final = 0.8
"""What a sample of a latency, or of a write, leaves of the ones before it."""

SPELLS: Final = 5
"""Three slow ones in a row make a slow tier, three fast ones a fast one."""
LONGEST_SPELL: Final = 8
"""Reads, where there is always one under way."""
SURPRISE: Final = 4
"""Times as slow as usual: worth a look."""
FIRST_PROBE_S: Final = 0.5
PROBE_EVERY_S: Final = 30.0
"""A tier that is not read from is probed after 0.5, 1, 2, 4 s and so on."""

TOLD_EVERY_S: Final = 2.0
TOLD_SOON_S: Final = 0.25
CHANGED: Final = 2.0
"""Times as fast, or as slow: told soon."""


class Health:
    """Up until an attempt fails; tried again after 1 s, 2 s, 4 s and so on up to 30 s."""

    def __init__(self) -> None:
        self.is_up = True
        self._wait_s = FIRST_RETRY_S
        self._retry_at_s = 0.0

    def failed(self, now_s: float) -> None:
        """An attempt failed. Several that were under way together count once."""
        if not self.is_up and now_s < self._retry_at_s:
            return
        self.is_up = False
        self._retry_at_s = now_s + self._wait_s
        self._wait_s = min(2 * self._wait_s, LAST_RETRY_S)

    def succeeded(self) -> None:
        """An attempt went well."""
        self.is_up = True
        self._wait_s = FIRST_RETRY_S

    def may_try(self, now_s: float) -> bool:
        """Whether an attempt makes sense now."""
        return self.is_up or now_s >= self._retry_at_s


class WriteMeter:
    """What writing to a tier takes of a processor, exponentially weighted."""

    def __init__(self) -> None:
        self._s_per_byte = 0.0

    def wrote(self, num_bytes: int, cpu_s: float) -> None:
        """A block was written."""
        now = cpu_s / num_bytes
        self._s_per_byte = KEPT_SHARE * self._s_per_byte + (1 - KEPT_SHARE) * now if self._s_per_byte else now

    def cpu_s(self, num_bytes: int) -> float:
        """Of a block so large; 0: not measured yet."""
        return self._s_per_byte * num_bytes


class SpeedMeter:
    """A tier's latency, exponentially weighted, and its bytes a second: the middle one of the last few *spells*.

    A spell is a read, or some that overlap: what they bring together over the time from the first to the last is what
    the tier as a whole delivers. The latency is not counted twice. The middle, because a store that does not get the
    processor for a moment, or is stopped, takes a hundred times as long for one read, and that says nothing about the
    next. After such a one the tier is probed soon, in case nobody reads from it any more.
    """

    def __init__(self) -> None:
        self._latency_s = 0.0
        self._spells: deque[_Spell] = deque(maxlen=SPELLS)
        self._last_end_s = 0.0
        self._probe_wait_s = FIRST_PROBE_S
        self.last_read_s = float("-inf")  # when the last read or probe ended

    def answered(self, latency_s: float) -> None:
        """An empty round trip took so long."""
        kept = KEPT_SHARE if self._latency_s else 0.0
        self._latency_s = kept * self._latency_s + (1 - kept) * latency_s

    def read(self, num_bytes: int, start_s: float, end_s: float) -> None:
        """A read or a probe of `num_bytes` ran from `start_s` to `end_s`; without bytes it says nothing of the rate."""
        is_probe = self.wants_probe(start_s)
        is_apart = start_s >= self._last_end_s
        elapsed_s = end_s - max(start_s, self._last_end_s)
        self._last_end_s = self.last_read_s = max(end_s, self._last_end_s)
        if num_bytes:
            self._add(num_bytes, max(elapsed_s - self._latency_s, elapsed_s / 4, 0.0), is_apart)
        is_slow = bool(self._spells) and SURPRISE * self._spells[-1].bytes_per_s < self._middle()
        if is_slow and not is_probe:
            self._probe_wait_s = FIRST_PROBE_S
        elif is_probe and not is_slow:
            self._probe_wait_s = min(2 * self._probe_wait_s, PROBE_EVERY_S)

    def _add(self, num_bytes: int, seconds: float, is_apart: bool) -> None:
        if is_apart or not self._spells or self._spells[-1].num_reads == LONGEST_SPELL:
            self._spells.append(_Spell())
        self._spells[-1].add(num_bytes, seconds)

    def wants_probe(self, now_s: float) -> bool:
        """Whether it is time for one: the tier has not been read from for long, or was slow when it was."""
        return now_s - self.last_read_s >= self._probe_wait_s

    def speed(self, oldest_start_s: float | None, waiting_bytes: int, now_s: float) -> TierSpeed:
        """As measured; no faster than a read that is still under way since `oldest_start_s` shows it to be."""
        rate = self._middle()
        if rate and oldest_start_s is not None and now_s > oldest_start_s:
            slowest_s = now_s - max(oldest_start_s, self._last_end_s)
            rate = min(rate, waiting_bytes / slowest_s) if slowest_s > 0 else rate
        return TierSpeed(self._latency_s, rate)

    def _middle(self) -> float:
        """Of two in the middle the slower one; 0 where nothing was read, or in no time that a clock can tell."""
        rates = sorted(spell.bytes_per_s for spell in self._spells if spell.seconds > 0)
        return rates[(len(rates) - 1) // 2] if rates else 0.0


@dataclass(slots=True)
class _Spell:
    """Reads that overlap."""

    num_reads: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    def add(self, num_bytes: int, seconds: float) -> None:
        """One more has ended, so long after the one before."""
        self.num_reads += 1
        self.num_bytes += num_bytes
        self.seconds += seconds

    @property
    def bytes_per_s(self) -> float:
        """All of it over all of the time."""
        return self.num_bytes / self.seconds if self.seconds > 0 else math.inf


class SpeedNews:
    """When workers are to be told how fast the tiers are: now and then, and soon where one has changed."""

    def __init__(self) -> None:
        self._told_s = float("-inf")
        self._told: Mapping[Tier, TierSpeed] = {}

    def is_due(self, speeds: Mapping[Tier, TierSpeed], now_s: float) -> bool:
        """Whether to tell these; then they are taken for told."""
        waited_s = now_s - self._told_s
        is_due = waited_s >= TOLD_EVERY_S or (waited_s >= TOLD_SOON_S and self._has_changed(speeds))
        if is_due:
            self._told_s, self._told = now_s, speeds
        return is_due

    def _has_changed(self, speeds: Mapping[Tier, TierSpeed]) -> bool:
        return any(
            not speed.bytes_per_s / CHANGED <= self._told[tier].bytes_per_s <= speed.bytes_per_s * CHANGED
            for tier, speed in speeds.items()
        )
