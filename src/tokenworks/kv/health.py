"""Whether a tier answers, how fast, and at what cost: learnt from what it did lately. Pure; times are handed in."""

from __future__ import annotations

from typing import Final

from tokenworks.kv.protocol import TierSpeed

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 30.0
KEPT_SHARE: Final = 0.8
"""What a sample leaves of the ones before it: the last five reads make up two thirds of a speed."""


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
    """A tier's latency and bytes a second, exponentially weighted.

    Reads that overlap share the tier: a read counts from the end of the one before it, if that is later than its own
    start, so that bytes over seconds is what the tier as a whole delivers. The latency is not counted twice.
    """

    def __init__(self) -> None:
        self._latency_s = 0.0
        self._num_bytes = 0.0
        self._seconds = 0.0
        self._last_end_s = 0.0
        self.last_read_s = float("-inf")  # when the last read or probe ended

    def answered(self, latency_s: float) -> None:
        """An empty round trip took so long."""
        kept = KEPT_SHARE if self._latency_s else 0.0
        self._latency_s = kept * self._latency_s + (1 - kept) * latency_s

    def read(self, num_bytes: int, start_s: float, end_s: float) -> None:
        """A read of `num_bytes` ran from `start_s` to `end_s`."""
        elapsed_s = end_s - max(start_s, self._last_end_s)
        self._last_end_s = self.last_read_s = max(end_s, self._last_end_s)
        self._num_bytes = KEPT_SHARE * self._num_bytes + num_bytes
        self._seconds = KEPT_SHARE * self._seconds + max(elapsed_s - self._latency_s, elapsed_s / 4, 0.0)

    def speed(self, oldest_start_s: float | None, waiting_bytes: int, now_s: float) -> TierSpeed:
        """As measured; no faster than a read that is still under way since `oldest_start_s` shows it to be."""
        rate = self._num_bytes / self._seconds if self._seconds > 0 else 0.0
        if rate and oldest_start_s is not None and now_s > oldest_start_s:
            slowest_s = now_s - max(oldest_start_s, self._last_end_s)
            rate = min(rate, waiting_bytes / slowest_s) if slowest_s > 0 else rate
        return TierSpeed(self._latency_s, rate)
