"""How likely blocks are to be used again, by what they have shown: learnt from the uses that a tier sees.

Blocks fall into classes by history (how often they, or the conversation that they continue, were used before). For each
class it is counted how many entered it and after how long they were used again, in buckets of age that grow by half an
octave, from a second to weeks; old counts fade. `rate` is what keeping a block of some age is worth: the largest ratio,
over all times T to keep it, of its chance of being used within T to the time that it is expected to stay,

    max over T of  P(used within T | age) / E[min(time to use, T) | age]

uses per second. This is the Gittins index of the block (Gittins 1979), and what LHD (Beckmann, Chen and Cidon, NSDI
2018) estimates as hit density. It looks ahead, so that a block that was put down a second ago is not given up although
nobody answers within a second. Rates never rise with age within a class: there the least recently used goes first.

Where little was counted, all classes together speak; where nothing was, ages of equal logarithm are equally likely,
which is plain LRU.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Final

NUM_BUCKETS: Final = 40
FIRST_AGE_S: Final = 1.0
EDGES_S: Final = tuple(0.0 if b == 0 else FIRST_AGE_S * 2 ** ((b - 1) / 2) for b in range(NUM_BUCKETS + 1))
"""Bucket b covers ages from EDGES_S[b] to EDGES_S[b + 1]; the last one all beyond."""

PRIOR_CHANCE: Final = 0.5
"""Of being used again at all, before anything was seen."""

PRIOR_BLOCKS: Final = 64.0
"""How many blocks of its own a class must have seen to be believed as much as all classes together."""

MEMORY_EVENTS: Final = 1 << 17
"""Entries and uses after which a count has faded to 1/e."""

REBUILD_EVENTS: Final = 1024
"""Between two calculations of the rates."""


def bucket_of(age_s: float) -> int:
    """Which of the NUM_BUCKETS an age is in."""
    if age_s < FIRST_AGE_S:
        return 0
    return min(1 + int(2 * math.log2(age_s / FIRST_AGE_S)), NUM_BUCKETS - 1)


class ReuseModel:
    """Counts and rates of `num_classes` classes."""

    def __init__(self, num_classes: int) -> None:
        self._entered = [0.0] * num_classes
        self._used = [[0.0] * NUM_BUCKETS for _ in range(num_classes)]
        self._unit = 1.0  # what one event weighs: grows instead of all counts fading
        self._events = 0
        self._rates: list[list[float]] = []
        self._rebuild()

    def entered(self, history: int) -> None:
        """A block has come into this class: computed, or used and so moved on."""
        self._entered[history] += self._unit
        self._event()

    def used(self, history: int, age_s: float) -> None:
        """A block of this class was used, `age_s` after it came into it."""
        self._used[history][bucket_of(age_s)] += self._unit
        self._event()

    def rate(self, history: int, age_s: float) -> float:
        """Uses per second that keeping such a block gives, at best."""
        return self._rates[history][bucket_of(age_s)]

    def _event(self) -> None:
        self._events += 1
        self._unit *= 1 + 1 / MEMORY_EVENTS
        if self._events % REBUILD_EVENTS == 0:
            self._rebuild()

    def _rebuild(self) -> None:
        """O(classes x buckets^2), a millisecond or two."""
        self._normalize()
        even = [PRIOR_CHANCE / NUM_BUCKETS] * NUM_BUCKETS
        all_used = [sum(column) for column in zip(*self._used, strict=True)]
        together = _shares(sum(self._entered), all_used, even)
        shares = (_shares(entered, used, together) for entered, used in zip(self._entered, self._used, strict=True))
        self._rates = [best_rates(share) for share in shares]

    def _normalize(self) -> None:
        scale, self._unit = 1 / self._unit, 1.0
        self._entered = [count * scale for count in self._entered]
        self._used = [[count * scale for count in counts] for counts in self._used]


def _shares(entered: float, used: list[float], prior: list[float]) -> list[float]:
    """Of the blocks that enter a class: the share that is used again at each age."""
    total = max(entered, sum(used)) + PRIOR_BLOCKS
    return [(count + PRIOR_BLOCKS * share) / total for count, share in zip(used, prior, strict=True)]


def best_rates(shares: list[float]) -> list[float]:
    """For blocks that reach each bucket: the best rate of uses over the time to come, never rising with age."""
    used = [0.0, *accumulate(shares)]
    time_s = [0.0, *accumulate(_time_at_risk_s(shares, used))]
    rates = [
        max((used[end] - used[start]) / (time_s[end] - time_s[start]) for end in range(start + 1, NUM_BUCKETS + 1))
        for start in range(NUM_BUCKETS)
    ]
    return list(accumulate(reversed(rates), max))[::-1]


def _time_at_risk_s(shares: list[float], used: list[float]) -> list[float]:
    """Seconds that an entering block is expected to spend in each bucket, if it stays until it is used."""
    widths = [end - start for start, end in zip(EDGES_S, EDGES_S[1:], strict=False)]
    return [
        width * max(1e-9, 1 - before - share / 2) for width, share, before in zip(widths, shares, used, strict=False)
    ]
