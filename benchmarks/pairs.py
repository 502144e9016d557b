"""Differences within pairs of turns that follow each other, with an interval: what a shared machine leaves of them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

SAMPLES: Final = 2000
TRIMMED: Final = 0.2
"""Of the differences, at each end: turns in which the machine did something else."""

Pair = tuple[float, float]
"""Without, and with."""


class Difference(NamedTuple):
    """Of `with` to `without`, in their unit; the middle 95 % of samples drawn from the pairs."""

    low: float
    found: float
    high: float


def difference(pairs: Sequence[Pair]) -> Difference:
    """The trimmed mean, and what chance could have made of it (percentile bootstrap over pairs)."""
    draw = random.Random(1)
    drawn = sorted(trimmed(draw.choices(pairs, k=len(pairs))) for _ in range(SAMPLES))
    return Difference(drawn[SAMPLES // 40], trimmed(pairs), drawn[-SAMPLES // 40])


def trimmed(pairs: Sequence[Pair]) -> float:
    """The mean of the differences without the outer ones."""
    differences = sorted(with_it - without for without, with_it in pairs)
    cut = int(TRIMMED * len(differences))
    return statistics.mean(differences[cut : len(differences) - cut])
