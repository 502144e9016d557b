"""Drift: which features of traffic and answers moved against a reference window, by how much, from what to what.

A feature has moved when its PSI is above what chance makes (`psi.Shift.noise`) and what is left after chance's share is
above the threshold; and when that holds still if values within 5 % of a bin's bound (and counts within 3 tokens) may
lie on either side of it (`nearby`): one more digit in every prompt is no drift, though it may carry half of
them over a bound. Chance is reckoned for independent requests; real traffic comes in bursts and conversations and
moves more than that by itself, which is what the threshold is for. Traffic also has its hours: compare whole days, or
the same hour of another day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from tokenworks.observe.drift.bins import Bin, grew_most, range_label
from tokenworks.observe.drift.nearby import counts_nearby
from tokenworks.observe.drift.psi import Shift, counts, edges, shift
from tokenworks.observe.drift.traffic_sample import COUNTS, NUMBERS, WORDS, Run, sampled
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.policy.top_names import OTHER

THRESHOLD: Final = 0.2
MIN_VALUES: Final = 50  # on either side; below that PSI says nothing
_BINS: Final = 10
_NEAR: Final = 0.05  # of a value; nobody cares for less
_NEAR_COUNT: Final = 3.0  # of tokens, where that is more
_MAX_WORDS: Final = 20
MAX_RECORDS: Final = 20_000  # of each window; chance's part of PSI is then below 0.001


class Sizes(NamedTuple):
    """Requests that ended in each window, however many of them were looked at."""

    requests: int
    reference_requests: int


class FeatureDrift(msgspec.Struct, frozen=True):
    """What became of one feature."""

    feature: str
    moved: bool
    would_move: bool  # if values that moved by next to nothing counted too
    psi: float
    nearby_psi: float  # the least, where values near a bin's bound may lie on either side of it
    expected: float  # by chance alone
    noise: float  # one in a thousand such pairs exceeds it by chance
    num_before: int  # values, as is the next
    num_after: int
    before: str  # what it was like, for people
    after: str
    change: str  # the word or the range whose share grew most, and from what to what
    bins: list[Bin]

    @property
    def is_near(self) -> bool:
        """Whether nearly all of it is within next to nothing of where it was, though not in the same bins."""
        return self.would_move and not self.moved


def drift(
    ledger: Ledger,
    window: Window,
    reference: Window,
    *,
    threshold: float = THRESHOLD,
    max_records: int = MAX_RECORDS,
) -> list[FeatureDrift]:
    """Every feature that both windows know enough of, those that moved most first; raises LedgerError."""
    return compare(sampled(ledger, reference, max_records), sampled(ledger, window, max_records), threshold)


def sizes(ledger: Ledger, window: Window, reference: Window) -> Sizes:
    """How much there is to compare; raises LedgerError."""
    num, num_reference = (sum(cell.requests for cell in ledger.cells(side).values()) for side in (window, reference))
    return Sizes(num, num_reference)


def compare(before: list[Run], after: list[Run], threshold: float = THRESHOLD) -> list[FeatureDrift]:
    """The same for two samples."""
    found: list[FeatureDrift] = []
    for name, numbers in NUMBERS.items():
        old, new = (np.fromiter(numbers(runs), np.float64) for runs in (before, after))
        if min(len(old), len(new)) >= MIN_VALUES:
            found.append(_numbers(name, old, new, threshold))
    for name, words in WORDS.items():
        old_words, new_words = Counter(words(before)), Counter(words(after))
        if min(old_words.total(), new_words.total()) >= MIN_VALUES:
            found.append(_words(name, old_words, new_words, threshold))
    return sorted(found, key=lambda each: (not each.moved, each.expected - each.psi))


def _numbers(name: str, before: np.ndarray, after: np.ndarray, threshold: float) -> FeatureDrift:
    bounds = edges(before, _BINS)
    old, new = counts(before, bounds), counts(after, bounds)
    nearby = counts_nearby(before, after, bounds, _reach(bounds, is_count=name in COUNTS))
    first, last = grew_most(old / old.sum(), nearby / nearby.sum())
    change = _growth(
        range_label(bounds, first, last), *(each[first : last + 1].sum() / each.sum() for each in (old, new))
    )
    labels = [range_label(bounds, at, at) for at in range(len(old))]
    return _feature(name, threshold, labels, (old, new, nearby), (_quantiles(before), _quantiles(after), change))


def _reach(bounds: np.ndarray, *, is_count: bool) -> np.ndarray:
    """How far from each bound a value is as good as at it [bounds]."""
    reach: np.ndarray = np.maximum(np.abs(bounds) * _NEAR, _NEAR_COUNT if is_count else 0.0)
    return reach


def _words(name: str, before: Counter[str], after: Counter[str], threshold: float) -> FeatureDrift:
    """A word that the reference hardly has is in its rest: OTHER."""
    labels = [word for word, _ in before.most_common(_MAX_WORDS)]
    old, new = (np.array([each[word] for word in labels] + [_rest(each, labels)]) for each in (before, after))
    shares = {word: (before[word] / before.total(), count / after.total()) for word, count in after.most_common()}
    grown = max(shares, key=lambda word: shares[word][1] - shares[word][0])
    change = _growth(grown, *shares[grown])
    told = (_shares(before), _shares(after), change)
    return _feature(name, threshold, [*labels, OTHER], (old, new, new), told)


def _rest(found: Counter[str], labels: Iterable[str]) -> int:
    return found.total() - sum(found[word] for word in labels)


def _feature(
    name: str,
    threshold: float,
    labels: Sequence[str],
    counted: tuple[np.ndarray, np.ndarray, np.ndarray],
    told: tuple[str, str, str],
) -> FeatureDrift:
    """`counted` is then, now, and now with what is near a bound on its better side; `told` then, now, and what grew."""
    old, new, nearby = counted
    found, at_least = shift(old, new), shift(old, nearby)
    shares = zip(labels, (old / old.sum()).tolist(), (new / new.sum()).tolist(), strict=True)
    return FeatureDrift(
        feature=name,
        moved=has_moved(found, threshold) and has_moved(at_least, threshold),
        would_move=has_moved(found, threshold),
        psi=found.psi,
        nearby_psi=at_least.psi,
        expected=found.expected,
        noise=found.noise,
        num_before=int(old.sum()),
        num_after=int(new.sum()),
        before=told[0],
        after=told[1],
        change=told[2],
        bins=[Bin(*each) for each in shares],
    )


def has_moved(found: Shift, threshold: float) -> bool:
    """Whether a shift is more than chance, and more than is tolerated."""
    return found.psi > found.noise and found.excess > threshold


def _growth(what: str, before: float, after: float) -> str:
    return f"{what}: {before:.0%} -> {after:.0%}"


def _quantiles(values: np.ndarray) -> str:
    p50, p90 = np.quantile(values, [0.5, 0.9])
    return f"P50 {p50:.4g}, P90 {p90:.4g}"


def _shares(found: Counter[str]) -> str:
    return ", ".join(f"{word} {count / found.total():.0%}" for word, count in found.most_common(3))
