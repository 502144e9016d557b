"""Drift: which features of traffic and answers moved against a reference window, by how much, from what to what.

A feature has moved when its PSI is above what chance makes (`psi.Shift.noise`) and what is left after chance's share is
above the threshold. Chance is reckoned for independent requests; real traffic comes in bursts and conversations and
moves more than that by itself, which is what the threshold is for. Traffic also has its hours: compare whole days, or
the same hour of another day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from tokenworks.observe.drift.psi import Shift, counts, edges, shift
from tokenworks.observe.drift.traffic_sample import NUMBERS, WORDS, Run, sampled
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.policy.top_names import OTHER

THRESHOLD: Final = 0.2
MIN_VALUES: Final = 50  # on either side; below that PSI says nothing
_BINS: Final = 10
_MAX_WORDS: Final = 20
MAX_RECORDS: Final = 20_000  # of each window; chance's part of PSI is then below 0.001


class Bin(msgspec.Struct, frozen=True):
    """One range of a number, or one word, and its share then and now."""

    label: str
    before: float
    after: float


class Sizes(NamedTuple):
    """Requests that ended in each window, however many of them were looked at."""

    requests: int
    reference_requests: int


class FeatureDrift(msgspec.Struct, frozen=True):
    """What became of one feature."""

    feature: str
    moved: bool
    psi: float
    expected: float  # by chance alone
    noise: float  # one in a thousand such pairs exceeds it by chance
    num_before: int  # values, as is the next
    num_after: int
    before: str  # what it was like, for people
    after: str
    bins: list[Bin]


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
    labels = [f"up to {bound:.4g}" for bound in bounds] + [f"above {bounds[-1]:.4g}"]
    old, new = counts(before, bounds), counts(after, bounds)
    return _feature(name, threshold, labels, old, new, (_quantiles(before), _quantiles(after)))


def _words(name: str, before: Counter[str], after: Counter[str], threshold: float) -> FeatureDrift:
    """A word that the reference hardly has is in its rest: OTHER."""
    labels = [word for word, _ in before.most_common(_MAX_WORDS)]
    old, new = (np.array([each[word] for word in labels] + [_rest(each, labels)]) for each in (before, after))
    return _feature(name, threshold, [*labels, OTHER], old, new, (_shares(before), _shares(after)))


def _rest(found: Counter[str], labels: Iterable[str]) -> int:
    return found.total() - sum(found[word] for word in labels)


def _feature(
    name: str, threshold: float, labels: Sequence[str], old: np.ndarray, new: np.ndarray, told: tuple[str, str]
) -> FeatureDrift:
    found = shift(old, new)
    shares = zip(labels, (old / old.sum()).tolist(), (new / new.sum()).tolist(), strict=True)
    return FeatureDrift(
        feature=name,
        moved=has_moved(found, threshold),
        psi=found.psi,
        expected=found.expected,
        noise=found.noise,
        num_before=int(old.sum()),
        num_after=int(new.sum()),
        before=told[0],
        after=told[1],
        bins=[Bin(*each) for each in shares],
    )


def has_moved(found: Shift, threshold: float) -> bool:
    """Whether a shift is more than chance, and more than is tolerated."""
    return found.psi > found.noise and found.excess > threshold


def _quantiles(values: np.ndarray) -> str:
    p50, p90 = np.quantile(values, [0.5, 0.9])
    return f"P50 {p50:.4g}, P90 {p90:.4g}"


def _shares(found: Counter[str]) -> str:
    return ", ".join(f"{word} {count / found.total():.0%}" for word, count in found.most_common(3))
