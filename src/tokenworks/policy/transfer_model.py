"""What the last fetches from each tier really took, and so what may come of the next one. Pure.

Of each fetch the *ratio* is kept: what a tier took, over what its measured speed said. The next fetch is expected to go
as the last one did with a chance of 1/2, as the one before it with 1/4, and so on; what was learnt fades with time to a
ratio of 1.5, by which predictions are thought to be off where nothing is known.

So a fetch that is late among others that came is a chance, not a verdict: on a machine that does other work a store is
late now and then without being slow, since it did not get the processor. `plan_fetch` weighs what a fetch may save
against what a wait in vain costs, a twentieth of the prompt: as long as one in two comes it pays, after five in a row
that did not it does not. How fast a tier itself is the store measures, and tells.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from tokenworks.contract.kv import Tier

UNKNOWN: Final = 1.5
"""The ratio where nothing is known."""

NUM_KEPT: Final = 8
"""Fetches of a tier: the last of them has a chance of 1/128."""

HALF_LIFE_S: Final = 60.0
"""Of what was learnt: a tier that was slow is tried again, and the store measures speeds of its own meanwhile."""

LASTS: Final = 2.0
"""What has kept one waiting in vain is thought to take twice as long in all: who waits longer may still get it."""

LARGEST_RATIO: Final = 1000.0

LEAST_CHANCE: Final = 1e-6
"""Of what is considered: less is rounding."""


class Observation(NamedTuple):
    """What came from a tier in one fetch, or how long it was waited for."""

    tier: Tier
    predicted_s: float  # by its measured speed
    actual_s: float
    is_late: bool = False  # it had not come by then


class Outlook(NamedTuple):
    """One way in which a coming fetch may go."""

    chance: float  # of all outlooks together: 1
    ratios: Mapping[Tier, float]


@dataclass(slots=True)
class _Past:
    """One tier's last fetches."""

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_KEPT))  # the newest first
    learnt_s: float = 0.0  # when

    def chances(self, now_s: float) -> list[tuple[float, float]]:
        """(chance, ratio), newest first, then that nothing is known."""
        keep = 0.5 ** (max(0.0, now_s - self.learnt_s) / HALF_LIFE_S) if self.ratios else 0.0
        shares = [0.5 ** (at + 1) for at in range(len(self.ratios))]
        if len(shares) == NUM_KEPT:
            shares[-1] *= 2
        known = [(keep * share, ratio) for share, ratio in zip(shares, self.ratios, strict=True)]
        return [*known, (1.0 - sum(chance for chance, _ in known), UNKNOWN)]


class TransferModel:
    """By how much each tier's fetches differ from what its measured speed says."""

    def __init__(self) -> None:
        self._pasts: dict[Tier, _Past] = {}

    def learn(self, observations: Iterable[Observation], now_s: float) -> None:
        """A fetch has ended, or is given up: of each tier what came, or how long it was waited for, or both."""
        ratios: dict[Tier, float] = {}
        for seen in observations:
            lasts = LASTS if seen.is_late else 1.0
            ratio = lasts * max(seen.actual_s, 1e-9) / max(seen.predicted_s, 1e-9)
            ratios[seen.tier] = max(ratios.get(seen.tier, 0.0), min(max(ratio, 1 / LARGEST_RATIO), LARGEST_RATIO))
        for tier, ratio in ratios.items():
            past = self._pasts.setdefault(tier, _Past())
            past.ratios.appendleft(ratio)
            past.learnt_s = now_s

    def usual(self, tier: Tier, now_s: float) -> float:
        """The ratio that is as likely exceeded as not."""
        by_ratio = sorted((ratio, chance) for chance, ratio in self._chances(tier, now_s))
        sums = accumulate(chance for _, chance in by_ratio)
        return next(ratio for (ratio, _), sum_ in zip(by_ratio, sums, strict=True) if sum_ >= 0.5 - 1e-9)

    def outlooks(self, tiers: Iterable[Tier], now_s: float) -> list[Outlook]:
        """All that may come of a fetch from these tiers; what was seen last of one goes with what was of another."""
        chances = {tier: self._chances(tier, now_s) for tier in dict.fromkeys(tiers)}
        ends = {tier: list(accumulate(chance for chance, _ in each)) for tier, each in chances.items()}
        found: list[Outlook] = []
        for since, until in pairwise([0.0, *sorted({end for each in ends.values() for end in each})]):
            if until - since > LEAST_CHANCE:
                at = (since + until) / 2
                ratios = {tier: each[bisect(ends[tier], at)][1] for tier, each in chances.items()}
                found.append(Outlook(until - since, ratios))
        return found

    def _chances(self, tier: Tier, now_s: float) -> list[tuple[float, float]]:
        return self._pasts.get(tier, _Past()).chances(now_s)
