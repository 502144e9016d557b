"""How likely blocks are to be used again, by what they have shown: learnt from the uses that a tier sees.

Blocks fall into classes by history (how often they, or the conversation that they continue, were used before) and by
what they cost, which says how deep they lie. For each class it is counted how many entered it and after how long they
were used again, in buckets of age that grow by half an octave, from a second to days; old counts fade. `rate` is what
keeping a block of some age is worth: the largest ratio, over all times T to keep it, of its chance of being used within
T to the time that it is expected to stay,

    max over T of  P(used within T | age) / E[min(time to use, T) | age]

uses per second. This is the Gittins index of the block (Gittins 1979), and what LHD (Beckmann, Chen and Cidon, NSDI
2018) estimates as hit density. It looks ahead, so that a block that was put down a second ago is not given up although
nobody answers within a second. Rates never rise with age within a class: there the least recently used goes first.

Where little was counted of a class, all of its history speak, and then all together; where nothing was, ages of equal
logarithm are equally likely, which is plain LRU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

NUM_BUCKETS: Final = 40
FIRST_AGE_S: Final = 1.0
EDGES_S: Final = tuple(0.0 if b == 0 else FIRST_AGE_S * 2 ** ((b - 1) / 2) for b in range(NUM_BUCKETS + 1))
"""Bucket b covers ages from EDGES_S[b] to EDGES_S[b + 1]; the last one all beyond."""

PRIOR_CHANCE: Final = 0.5
"""Of being used again at all, before anything was seen."""

PRIOR_BLOCKS: Final = 64.0
"""How many blocks of its own a class must have seen to be believed as much as the larger class that it is part of."""

MEMORY_EVENTS: Final = 1 << 17
"""Entries and uses after which a count has faded to 1/e."""

REBUILD_EVENTS: Final = 1024
"""Between two calculations of the rates."""


def bucket_of(age_s: float) -> int:
    """Which of the NUM_BUCKETS an age is in."""
    if age_s < FIRST_AGE_S:
        return 0
    return min(1 + int(2 * math.log2(age_s / FIRST_AGE_S)), NUM_BUCKETS - 1)


class Kind(NamedTuple):
    """A class of blocks."""

    history: int  # uses before
    octave: int  # of what computing it takes, per byte


@dataclass(slots=True)
class _Counts:
    """Of one class, or of several together."""

    entered: float = 0.0
    used: list[float] = field(default_factory=lambda: [0.0] * NUM_BUCKETS)

    def add(self, other: _Counts) -> None:
        """Count these too."""
        self.entered += other.entered
        self.used = [mine + theirs for mine, theirs in zip(self.used, other.used, strict=True)]

    def scale(self, factor: float) -> None:
        """Count everything so many times."""
        self.entered *= factor
        self.used = [count * factor for count in self.used]


class ReuseModel:
    """Counts and rates of all classes that were seen."""

    def __init__(self) -> None:
        self._counts: dict[Kind, _Counts] = {}
        self._unit = 1.0  # what one event weighs: grows instead of all counts fading
        self._events = 0
        self._rates: dict[Kind, list[float]] = {}
        self._history_rates: dict[int, list[float]] = {}  # for kinds that have just been met
        self._all_rates: list[float] = []
        self._rebuild()

    def entered(self, kind: Kind) -> None:
        """A block has come into this class: computed, or used and so moved on."""
        self._of(kind).entered += self._unit
        self._event()

    def used(self, kind: Kind, age_s: float) -> None:
        """A block of this class was used, `age_s` after it came into it."""
        self._of(kind).used[bucket_of(age_s)] += self._unit
        self._event()

    def rate(self, kind: Kind, age_s: float) -> float:
        """Uses per second that keeping such a block gives, at best."""
        rates = self._rates.get(kind) or self._history_rates.get(kind.history) or self._all_rates
        return rates[bucket_of(age_s)]

    def _of(self, kind: Kind) -> _Counts:
        counts = self._counts.get(kind)
        if counts is None:
            counts = self._counts[kind] = _Counts()
        return counts

    def _event(self) -> None:
        self._events += 1
        self._unit *= 1 + 1 / MEMORY_EVENTS
        if self._events % REBUILD_EVENTS == 0:
            self._rebuild()

    def _rebuild(self) -> None:
        """O(classes x buckets^2), some milliseconds. A class leans on its history's, and that on all together."""
        everything, by_history = _Counts(), dict[int, _Counts]()
        for kind, counts in self._counts.items():
            counts.scale(1 / self._unit)
            everything.add(counts)
            by_history.setdefault(kind.history, _Counts()).add(counts)
        self._unit = 1.0
        even = [PRIOR_CHANCE / NUM_BUCKETS] * NUM_BUCKETS
        together = _shares(everything, even)
        middle = {history: _shares(counts, together) for history, counts in by_history.items()}
        self._all_rates = best_rates(together)
        self._history_rates = {history: best_rates(shares) for history, shares in middle.items()}
        self._rates = {kind: best_rates(_shares(c, middle[kind.history])) for kind, c in self._counts.items()}


def _shares(counts: _Counts, prior: list[float]) -> list[float]:
    """Of the blocks that enter a class: the share that is used again at each age."""
    total = max(counts.entered, sum(counts.used)) + PRIOR_BLOCKS
    return [(count + PRIOR_BLOCKS * share) / total for count, share in zip(counts.used, prior, strict=True)]


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
