"""How long a sequence waits that no worker can take: until when, by a monotonic clock.

A worker that dies is started again, which takes a few seconds: meanwhile clients wait instead of being told to come
back, those whose sequences it had and those who ask only now. Where no worker was there lately (the system is just
starting, or somebody has taken the last one away for good) those who ask are told so at once.
"""

from __future__ import annotations

import math
from typing import Final

LOST_LEASES: Final = 6
"""A lost worker's place is taken again within this many leases, or not soon: a process starts, loads the weights and
measures itself, perhaps on a machine that has other work. A client that does not want to wait so long goes away."""
REFUSED_LEASES: Final = 0.3
"""Where everybody who is there has refused: time to be asked once more, not more, for the client could do that too."""
NEW_LEASES: Final = 1.5
"""After the last worker was lost: how long who asks only then is kept. Less than what has begun, which cannot be had
elsewhere: a client that is told has its own retries, and perhaps another gateway."""
MAX_NEW: Final = 1024
"""Sequences that wait at a time: with more of them a worker that comes back would be late for all."""


class Patience:
    """One gateway's."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._lost_s = -math.inf  # when a worker was lost, or left, last

    def worker_lost(self, now_s: float) -> None:
        """One is not there any more; it may come back."""
        self._lost_s = now_s

    def for_lost(self, now_s: float) -> float:
        """Of a sequence whose worker is gone."""
        return now_s + LOST_LEASES * self._lease_s

    def for_refused(self, now_s: float) -> float:
        """Of a sequence that all who are there have refused."""
        return now_s + REFUSED_LEASES * self._lease_s

    def for_new(self, now_s: float, num_waiting: int) -> float | None:
        """Of a sequence that comes while nobody is there and others wait; None: it does not."""
        until_s = self._lost_s + NEW_LEASES * self._lease_s
        return until_s if until_s > now_s and num_waiting < MAX_NEW else None
