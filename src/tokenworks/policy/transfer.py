"""How much of a held prefix to fetch, and how long to wait for it. Pure.

A request is about to compute a prompt whose first blocks some tier holds. Fetching `n` of them takes `F(n)`, and leaves
a rest that takes `R(n)` to compute; `S(n) = R(0) - R(n)` is what they save. All are predictions: F from measured
speeds and what fetches really took beside them (`TransferModel`), R from the worker's card.

**Waiting.** The clock starts when the store is asked what its tiers hold; `a(0)` is when it has said so, `a(k)` when
`k` blocks had come. The request waits for the next one no longer than until

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

**Planning.** A fetch may go in several ways (`TransferModel.outlooks`), each with its chance and its F. In each of them
fetching `n` gains `b S(n) - F(n)`, or `b S(k) - D` where block `k + 1` would come too late for the promise; `n` is the
one whose gain is the greatest on average. So a tier that is late now and then is fetched from as long as what comes is
worth what is waited in vain, and one that is late each time is not. Where F is known, no fetch is begun that would be
cut off: the promise would cut it off at a loss, and the second term does not, since stopping before block `i` was no
better: `F(n) - F(i-1) <= b (S(n) - S(i-1))`, and block `i` takes no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from tokenworks.contract.kv import Tier
from tokenworks.policy.transfer_model import Observation, TransferModel

WAIT_SHARE: Final = 0.04
"""Of what computing everything would take: how long is waited for nothing."""

BELIEVED: Final = 0.8
"""Of what blocks are predicted to save: 1.25 times as fast is the least that moving must be."""

GRACE_S: Final = 0.005
"""What a loop's turns and messages take, whatever the sizes."""


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
    predicted_fetch_s: float  # of all blocks to fetch, as the fetches before usually went
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
    spent_s: float = 0.0,
) -> FetchPlan:
    """How many of the blocks held in `tiers` (in order, from the first that the worker lacks) to fetch.

    `prefill_s(new, context)`: predicted seconds to compute `new` tokens after `context`. `spent_s`: what asking for
    the tiers has taken. O(blocks).
    """
    block_s = _block_times(tiers, speeds, block_bytes)
    recompute_s = _prefill(prompt, 0, prefill_s)
    saved_s = [0.0]
    for count in range(1, len(block_s) + 1):
        saved_s.append(max(saved_s[-1], recompute_s - _prefill(prompt, count, prefill_s)))
    gains = [0.0] * len(saved_s)
    for chance, ratios in model.outlooks(tiers[: len(block_s)], now_s):
        times_s = [seconds * ratios[tier] for tier, seconds in zip(tiers, block_s, strict=False)]
        for count, gain in enumerate(_gains(times_s, saved_s, recompute_s, spent_s)):
            gains[count] += chance * gain
    count = max(range(len(gains)), key=lambda n: (gains[n], -n))
    usual = {tier: model.usual(tier, now_s) for tier in set(tiers[:count])}
    fetch_s = sum(seconds * usual[tier] for tier, seconds in zip(tiers[:count], block_s, strict=False))
    return FetchPlan(tuple(tiers[:count]), tuple(block_s[:count]), tuple(saved_s[: count + 1]), fetch_s, recompute_s)


def _gains(times_s: Sequence[float], saved_s: Sequence[float], recompute_s: float, spent_s: float) -> list[float]:
    """Seconds that fetching 0, 1, ... blocks gains if they take so long; less than nothing where one is cut off."""
    gains, clock_s = [0.0], spent_s
    for at, seconds in enumerate(times_s):
        if clock_s + seconds > promise_s(recompute_s, saved_s[at]):
            ends_s = [_deadline(recompute_s, saved_s[at], more_s, clock_s) for more_s in saved_s[at + 1 :]]
            return gains + [BELIEVED * saved_s[at] - max(end_s, clock_s) + spent_s for end_s in ends_s]
        clock_s += seconds
        gains.append(BELIEVED * saved_s[at + 1] - clock_s + spent_s)
    return gains


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


def promise_s(recompute_s: float, saved_s: float = 0.0) -> float:
    """When waiting on would break the promise, if what has come saves `saved_s`."""
    return WAIT_SHARE * recompute_s + BELIEVED * saved_s + GRACE_S


def _deadline(recompute_s: float, saved_s: float, all_saved_s: float, arrived_s: float) -> float:
    """D: what has come, the last of it at `arrived_s`, saves `saved_s` of what all would, `all_saved_s`."""
    rest_s = max(BELIEVED * (all_saved_s - saved_s), GRACE_S)
    return min(promise_s(recompute_s, saved_s), arrived_s + rest_s)


class Fetch:
    """One fetch under way: what has come, and how long to wait for the next block.

    It begins with the question what the tiers hold, `spent_s` before now.
    """

    def __init__(self, plan: FetchPlan, now_s: float, spent_s: float = 0.0) -> None:
        self.plan = plan
        self.num_arrived = 0  # without a gap, from the first on
        self._started_s = now_s - spent_s
        self._times_s = [spent_s]  # since the start: of the plan, then of each arrival

    @property
    def is_complete(self) -> bool:
        """Whether everything has come."""
        return self.num_arrived == self.plan.count

    @property
    def deadline_s(self) -> float:
        """The instant, on the clock of `now_s`, at which to compute what has not come."""
        saved_s = self.plan.saved_s
        return self._started_s + _deadline(
            self.plan.predicted_recompute_s, saved_s[self.num_arrived], saved_s[-1], self._times_s[-1]
        )

    def expected_s(self, index: int) -> float:
        """The instant at which this block is predicted to come."""
        share = sum(self.plan.block_s[: index + 1]) / sum(self.plan.block_s)
        return self._started_s + self._times_s[0] + share * self.plan.predicted_fetch_s

    def arrived(self, count: int, now_s: float) -> None:
        """The next `count` blocks, in order, are whole and in place."""
        self.num_arrived += count
        assert self.num_arrived <= self.plan.count, f"{self.num_arrived} of {self.plan.count} blocks"
        since_s, until_s = self._times_s[-1], self._since_start_s(now_s)
        self._times_s += [since_s + (until_s - since_s) * (at + 1) / count for at in range(count)]

    def waited_s(self, now_s: float) -> dict[Tier, float]:
        """What each tier was waited for, from the start until now: up to each arrival, its own, then the next one's."""
        ends_s = [*self._times_s[1:], self._since_start_s(now_s)]
        waited: dict[Tier, float] = {}
        for at, (since_s, until_s) in enumerate(pairwise([0.0, *ends_s])):
            tier = self.plan.tiers[min(at, self.plan.count - 1)]
            waited[tier] = waited.get(tier, 0.0) + until_s - since_s
        return waited

    def _since_start_s(self, now_s: float) -> float:
        """No less than at the last arrival, whatever the clock says."""
        return max(now_s - self._started_s, self._times_s[-1])

    def observations(self, now_s: float) -> list[Observation]:
        """Of each tier what came, and a wait that has outlasted its prediction.

        What was waited beyond the deadline is not the tier's: nobody looked, since a step ran or the worker itself did
        not get the processor.
        """
        seen: dict[Tier, list[float]] = {}
        spans = [later - earlier for earlier, later in pairwise(self._times_s)]
        for tier, predicted_s, actual_s in zip(self.plan.tiers, self.plan.block_s, spans, strict=False):
            sums = seen.setdefault(tier, [0.0, 0.0])
            sums[0] += predicted_s
            sums[1] += actual_s
        found = [Observation(tier, predicted_s, actual_s) for tier, (predicted_s, actual_s) in seen.items()]
        if not self.is_complete:
            until_s = self._since_start_s(min(now_s, self.deadline_s))
            waited_s, next_s = until_s - self._times_s[-1], self.plan.block_s[self.num_arrived]
            late = Observation(self.plan.tiers[self.num_arrived], next_s, waited_s, is_late=True)
            found += [late] if waited_s > next_s else []
        return found
