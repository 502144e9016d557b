"""How much of a held prefix to fetch, how long to wait for it, and what was learnt from the fetches before. Pure.

A request is about to compute a prompt whose first blocks some tier holds. Fetching `n` of them takes `F(n)`, and leaves
a rest that takes `R(n)` to compute; `S(n) = R(0) - R(n)` is what they save. All are predictions: F from measured
speeds, corrected by what fetches really took (`TransferModel`), R from the worker's card.

**Waiting.** After `k` blocks have come, the last of them at `a(k)` seconds after the fetch began, the request waits for
the next one no longer than until

    D = min(w R(0) + b S(k) + g,  a(k) + max(b (S(n) - S(k)), g))      w = 0.04, b = 0.8, g = 5 ms

and then computes what has not come. The first term is the promise: **a request takes at most 5 % (and g) longer than it
would have without the store, whatever the tiers do, if computing really takes 0.8 of its prediction or more.** Proof:
let computing take x of what is predicted, x >= b. The request starts to compute at t <= w R(0) + b S(k) + g and ends at
t + x R(k), with R(0) = S(k) + R(k):

    t + x R(k) - 1.05 x R(0) - g  <=  w R(0) + b S(k) + x R(k) - 1.05 x R(0)
                                   =  (w - 0.05 x) R(0) + (b - x) S(k)  <=  0        since 0.05 x >= 0.05 b = w.

A tier that stops after its first blocks is covered: what they saved may be waited away, not more. The second term does
better than the promise: once a wait has lasted as long as all that could still come would save, it cannot pay any more,
even if it all came now (the rule of ski rental, at most twice the best in hindsight; Karlin et al. 1988).
`g` is there because no loop is exact to the millisecond; it matters where computing takes less than 0.1 s.

**Planning.** `n` is the one that maximises `b S(n) - F(n)` among those whose blocks are predicted to come in time by
the promise: a fetch that would be cut off is not begun. Nor does the second term cut it off if predictions come true:
stopping before block `i` was no better, so `F(n) - F(i-1) <= b (S(n) - S(i-1))`, and block `i` takes no longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from tokenworks.contract.kv import Tier

WAIT_SHARE: Final = 0.04
"""Of what computing everything would take: how long is waited for nothing."""

BELIEVED: Final = 0.8
"""Of what blocks are predicted to save: 1.25 times as fast is the least that moving must be."""

GRACE_S: Final = 0.005
"""What a loop's turns and messages take, whatever the sizes."""

FIRST_MARGIN: Final = math.log(1.5)
"""How far off a tier's predictions are thought to be before the first truth, in log space."""

UP: Final = 1 / 2
DOWN: Final = 1 / 8
"""Share of the difference that the correction goes towards a fetch that was slower, or faster, than predicted."""

HALF_LIFE_S: Final = 60.0
"""Of what was learnt: a tier that was slow is tried again, and the store measures speeds of its own meanwhile."""

LARGEST_LOG_RATIO: Final = math.log(1000)


class Speed(Protocol):
    """How fast a tier is read: bytes / bytes_per_s + latency_s is one block's time; 0 bytes_per_s: not measured."""

    @property
    def latency_s(self) -> float: ...
    @property
    def bytes_per_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What to do about a held prefix, and what is expected of it."""

    tiers: tuple[Tier, ...]  # of the blocks to fetch; none: compute everything
    block_s: tuple[float, ...]  # each one's predicted time, before what was learnt
    saved_s: tuple[float, ...]  # what the first 0, 1, ... of them are predicted to save
    predicted_fetch_s: float  # of all blocks to fetch, with what was learnt and its margin
    predicted_recompute_s: float  # of the whole prompt beyond what the worker has, if nothing is fetched

    @property
    def count(self) -> int:
        """Blocks to fetch: the first so many of the held prefix."""
        return len(self.tiers)


class Prompt(NamedTuple):
    """What has to be computed, if nothing is fetched."""

    cached_tokens: int  # that the worker has itself
    new_tokens: int  # beyond these; the held blocks are the first of them
    block_tokens: int


def plan_fetch(
    tiers: Sequence[Tier],
    speeds: Mapping[Tier, Speed],
    block_bytes: int,
    prompt: Prompt,
    prefill_s: Callable[[int, int], float],
    model: TransferModel,
    now_s: float,
) -> FetchPlan:
    """How many of the blocks held in `tiers` (in order, from the first that the worker lacks) to fetch.

    `prefill_s(new, context)`: predicted seconds to compute `new` tokens after `context`. O(blocks).
    """
    block_s = _block_times(tiers, speeds, block_bytes)
    corrected_s = [seconds * model.factor(tier, now_s) for tier, seconds in zip(tiers, block_s, strict=False)]
    recompute_s = _prefill(prompt, 0, prefill_s)
    saved_s, fetch_s = [0.0], [0.0]
    for seconds in corrected_s:
        if fetch_s[-1] + seconds > _promise(recompute_s, saved_s[-1]):
            break
        fetch_s.append(fetch_s[-1] + seconds)
        saved_s.append(max(saved_s[-1], recompute_s - _prefill(prompt, len(saved_s), prefill_s)))
    count = max(range(len(saved_s)), key=lambda n: (BELIEVED * saved_s[n] - fetch_s[n], -n))
    return FetchPlan(
        tuple(tiers[:count]), tuple(block_s[:count]), tuple(saved_s[: count + 1]), fetch_s[count], recompute_s
    )


def _block_times(tiers: Sequence[Tier], speeds: Mapping[Tier, Speed], block_bytes: int) -> list[float]:
    """Seconds of each block, up to the first of a tier that has not been measured."""
    times: list[float] = []
    for tier in tiers:
        speed = speeds.get(tier)
        if speed is None or speed.bytes_per_s <= 0:
            break
        times.append(speed.latency_s + block_bytes / speed.bytes_per_s)
    return times


def _prefill(prompt: Prompt, blocks: int, prefill_s: Callable[[int, int], float]) -> float:
    """Predicted seconds of what is left after the first `blocks` have come."""
    fetched = blocks * prompt.block_tokens
    left = prompt.new_tokens - fetched
    assert left >= 0, f"{blocks} blocks of {prompt.block_tokens} for {prompt.new_tokens} tokens"
    return prefill_s(left, prompt.cached_tokens + fetched) if left else 0.0


def _promise(recompute_s: float, saved_s: float) -> float:
    """Seconds after the start at which waiting on would break the promise."""
    return WAIT_SHARE * recompute_s + BELIEVED * saved_s + GRACE_S


class Fetch:
    """One fetch under way: what has come, and how long to wait for the next block."""

    def __init__(self, plan: FetchPlan, now_s: float) -> None:
        self.plan = plan
        self.started_s = now_s
        self.num_arrived = 0  # without a gap, from the first on
        self._times_s = [0.0]  # since the start, of each arrival

    @property
    def is_complete(self) -> bool:
        """Whether everything has come."""
        return self.num_arrived == self.plan.count

    @property
    def actual_s(self) -> float:
        """From the start to the last arrival."""
        return self._times_s[-1]

    @property
    def deadline_s(self) -> float:
        """The instant, on the clock of `now_s`, at which to compute what has not come."""
        saved_s = self.plan.saved_s
        promise_s = _promise(self.plan.predicted_recompute_s, saved_s[self.num_arrived])
        rest_s = max(BELIEVED * (saved_s[-1] - saved_s[self.num_arrived]), GRACE_S)
        return self.started_s + min(promise_s, self._times_s[-1] + rest_s)

    def arrived(self, count: int, now_s: float) -> None:
        """The next `count` blocks, in order, are whole and in place."""
        self.num_arrived += count
        assert self.num_arrived <= self.plan.count, f"{self.num_arrived} of {self.plan.count} blocks"
        since_s, until_s = self._times_s[-1], max(now_s - self.started_s, self._times_s[-1])
        self._times_s += [since_s + (until_s - since_s) * (at + 1) / count for at in range(count)]

    def waited_s(self, now_s: float) -> dict[Tier, float]:
        """What each tier was waited for, from the start until now: up to each arrival, its own, then the next one's."""
        ends_s = [*self._times_s[1:], max(now_s - self.started_s, self._times_s[-1])]
        waited: dict[Tier, float] = {}
        for at, (since_s, until_s) in enumerate(pairwise([0.0, *ends_s])):
            tier = self.plan.tiers[min(at, self.plan.count - 1)]
            waited[tier] = waited.get(tier, 0.0) + until_s - since_s
        return waited

    def observations(self, now_s: float) -> list[tuple[Tier, float, float]]:
        """(tier, predicted seconds, actual seconds) of what came, and of a wait that has outlasted its prediction."""
        seen: dict[Tier, list[float]] = {}
        spans = [later - earlier for earlier, later in pairwise(self._times_s)]
        for tier, predicted_s, actual_s in zip(self.plan.tiers, self.plan.block_s, spans, strict=False):
            sums = seen.setdefault(tier, [0.0, 0.0])
            sums[0] += predicted_s
            sums[1] += actual_s
        found = [(tier, predicted_s, actual_s) for tier, (predicted_s, actual_s) in seen.items()]
        if not self.is_complete:
            waited_s, next_s = now_s - self.started_s - self.actual_s, self.plan.block_s[self.num_arrived]
            found += [(self.plan.tiers[self.num_arrived], next_s, waited_s)] if waited_s > next_s else []
        return found


@dataclass(slots=True)
class _Correction:
    """Of one tier, in log space: 0 is a prediction that came true."""

    mean: float = 0.0
    margin: float = FIRST_MARGIN  # mean distance of truths from the mean
    learnt_s: float = 0.0  # when


@dataclass(slots=True)
class TierTruth:
    """Predicted beside actual, since the start: what is shown of a tier."""

    fetches: int = 0
    predicted_s: float = 0.0  # as corrected when it was learnt
    actual_s: float = 0.0


@dataclass(slots=True)
class TransferModel:
    """By how much each tier's fetches differ from what its measured speed says; fades, so that tiers get a new try."""

    truths: dict[Tier, TierTruth] = field(default_factory=dict)
    _corrections: dict[Tier, _Correction] = field(default_factory=dict)

    def factor(self, tier: Tier, now_s: float) -> float:
        """What to multiply a predicted time with: the usual ratio of truth to prediction, and a margin on top."""
        mean, margin = self._faded(tier, now_s)
        return math.exp(mean + margin)

    def learn(self, fetch: Fetch, now_s: float) -> None:
        """A fetch has ended, or is given up."""
        for tier, predicted_s, actual_s in fetch.observations(now_s):
            self._learn(tier, predicted_s, actual_s, now_s)

    def _learn(self, tier: Tier, predicted_s: float, actual_s: float, now_s: float) -> None:
        mean, margin = self._faded(tier, now_s)
        truth = self.truths.setdefault(tier, TierTruth())
        truth.fetches += 1
        truth.predicted_s += predicted_s * math.exp(mean)
        truth.actual_s += actual_s
        ratio = math.log(max(actual_s, 1e-9) / max(predicted_s, 1e-9))
        off = min(max(ratio, -LARGEST_LOG_RATIO), LARGEST_LOG_RATIO) - mean
        share = UP if off > 0 else DOWN
        margin += share * (abs(off) - margin)
        self._corrections[tier] = _Correction(mean + share * off, margin, now_s)

    def _faded(self, tier: Tier, now_s: float) -> tuple[float, float]:
        known = self._corrections.get(tier)
        if known is None:
            return 0.0, FIRST_MARGIN
        keep = 0.5 ** (max(0.0, now_s - known.learnt_s) / HALF_LIFE_S)
        return known.mean * keep, FIRST_MARGIN + (known.margin - FIRST_MARGIN) * keep
