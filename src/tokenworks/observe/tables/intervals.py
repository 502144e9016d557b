"""How sure a figure is: intervals from what was measured, without assuming that requests are independent.

They are not: the requests of one bad second share their fate, and a formula for independent ones calls every second
comparison significant. So a window is cut into slices, and how much more a figure varies between slices than chance
would have it (the design effect, Kish 1965) shrinks the number of requests that count (the effective number).

- A proportion: Wilson's score interval (1927) on the effective number; sensible at 0 and 1 too.
- A percentile: the interval of the proportion below it, read off the sketch again (Woodruff 1952; with independent
  requests these are the order statistics), widened by the sketch's own error.
- A sum over a sum (throughput, hit rate, cost per token): the linearised variance of a ratio (Cochran 1977, 6.4) on the
  logarithm.
- The difference of two: MOVER (Zou and Donner 2008), from both intervals alone; for ratios, on logarithms.

Everything is closed form, so the same question has the same answer twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from tokenworks.observe.sketch import ERROR, Sketch

FEWEST_SLICES: Final = 5
"""Slices with something in them, below which nothing can be said of how much slices vary."""


class Estimate(NamedTuple):
    """A figure, and between which bounds it lies with the confidence that was asked for."""

    value: float
    low: float
    high: float


def proportion(above: Sequence[float], below: Sequence[float], confidence: float) -> Estimate | None:
    """Of counts by slice; None: too little to say."""
    x, n = _with_something(above, below)
    if len(n) < FEWEST_SLICES:
        return None
    share = x.sum() / n.sum()
    return Estimate(share, *_wilson(share, _effective(x, n, share), _t(confidence, len(n) - 1)))


def percentile(sketches: Sequence[Sketch], share: float, confidence: float) -> Estimate | None:
    """Of a sketch by slice, in its unit; None: too little to say of so rare an event."""
    sketches = [sketch for sketch in sketches if len(sketch)]
    if len(sketches) < FEWEST_SLICES:
        return None
    whole = Sketch()
    for sketch in sketches:
        whole.merge(sketch)
    value = whole.quantile(share)
    n = np.array([len(sketch) for sketch in sketches], dtype=np.float64)
    x = n - np.array([sketch.count_above(value) for sketch in sketches])
    effective = _effective(x, n, x.sum() / n.sum())
    if share**effective > (1 - confidence) / 2:  # likely enough, none of them lay above the true one
        return None
    low, high = _wilson(share, effective, _t(confidence, len(n) - 1))
    return Estimate(value, whole.quantile(low) * (1 - ERROR), whole.quantile(high) * (1 + ERROR))


def quotient(above: Sequence[float], below: Sequence[float], confidence: float) -> Estimate | None:
    """Of sums by slice, above all zero; None: too little to say, or there is nothing above."""
    x, n = _with_something(above, below)
    if len(n) < FEWEST_SLICES or not x.any():
        return None
    ratio = x.sum() / n.sum()
    error = math.sqrt(_variance(x, n, ratio)) / ratio
    factor = math.exp(min(_t(confidence, len(n) - 1) * error, 700.0))
    return Estimate(ratio, ratio / factor, ratio * factor)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Second less first."""
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    value = second.value - first.value
    return Estimate(value, value - down, value + up)


def ratio(first: Estimate, second: Estimate) -> Estimate | None:
    """Second over first; None where a bound is 0."""
    if min(first.low, second.low) <= 0:
        return None
    logarithms = (Estimate(*map(math.log, estimate)) for estimate in (first, second))
    return Estimate(*map(math.exp, difference(*logarithms)))


def _with_something(above: Sequence[float], below: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, n = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return x[n > 0], n[n > 0]


def _variance(x: np.ndarray, n: np.ndarray, ratio: float) -> float:
    """Of sum(x) / sum(n), slices being what is independent."""
    return float(len(n) / (len(n) - 1) * np.square(x - ratio * n).sum() / n.sum() ** 2)


def _effective(x: np.ndarray, n: np.ndarray, share: float) -> float:
    """How many independent ones would say as much; never more than there are."""
    count = float(n.sum())
    independent = share * (1 - share) / count
    return count / max(1.0, _variance(x, n, share) / independent) if independent else count


def _wilson(share: float, count: float, t: float) -> tuple[float, float]:
    middle = share + t * t / (2 * count)
    reach = t * math.sqrt(share * (1 - share) / count + (t / (2 * count)) ** 2)
    whole = 1 + t * t / count
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def _t(confidence: float, freedom: int) -> float:
    """Student's t, two-sided: Hill's expansion around the normal quantile, within 2 % from 4 degrees of freedom on."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4),
    )
    return z + sum(terms)
