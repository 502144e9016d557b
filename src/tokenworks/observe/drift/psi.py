"""The population stability index: how far one sample's distribution lies from another's, and what chance alone makes.

PSI = sum over bins of (p - q) ln(p / q), p and q the shares of sample and reference (Siddiqi: "Credit Risk Scorecards",
2006, where 0.1 is a small shift and 0.25 a large one). Two samples of n and m from one distribution over k bins do not
have a PSI of 0: it is then distributed as (1/n + 1/m) chi-square(k - 1) (Yurdakul, Naranjo: "Statistical properties of
the population stability index", Journal of Risk Model Validation 14(4), 2020). So its expected value is
(k - 1)(1/n + 1/m), which is subtracted, and its 99.9 % quantile is the noise that it must exceed to mean anything.

Half a count is added to each bin (Krichevsky, Trofimov 1981), so that an empty bin is rare and not impossible: without
that, one value outside the reference's range would make the index infinite.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

ADDED: Final = 0.5
"""Count of each bin."""
_Z_999: Final = 3.0902  # the standard normal distribution's 99.9 % quantile


class Shift(msgspec.Struct, frozen=True):
    """How far a sample lies from its reference."""

    psi: float
    expected: float  # of two samples of this size from one distribution
    noise: float  # what one in a thousand of such pairs exceeds

    @property
    def excess(self) -> float:
        """What is left when chance's share is taken off; may be below 0."""
        return self.psi - self.expected


def shift(reference: np.ndarray, sample: np.ndarray) -> Shift:
    """The shift between two counts [bins] of the same bins; both must hold something."""
    total_reference, total = float(reference.sum()), float(sample.sum())
    q = (reference + ADDED) / (total_reference + ADDED * len(reference))
    p = (sample + ADDED) / (total + ADDED * len(sample))
    scale = 1 / total_reference + 1 / total
    freedom = int(np.count_nonzero(reference + sample)) - 1
    return Shift(
        psi=float(((p - q) * np.log(p / q)).sum()),
        expected=freedom * scale,
        noise=chi_square_999(freedom) * scale,
    )


def chi_square_999(freedom: int) -> float:
    """The 99.9 % quantile of chi-square, by Wilson and Hilferty's cube (1931): 3 % too large at 1 degree, 1 % above."""
    if freedom < 1:
        return 0.0
    spread = 2 / (9 * freedom)
    return freedom * float(1 - spread + _Z_999 * math.sqrt(spread)) ** 3


def edges(reference: np.ndarray, bins: int) -> np.ndarray:
    """Upper bounds, inclusive, of all bins but the last: quantiles of the reference, each once.

    Where much of the reference is its smallest value, what lies below that has a bin of its own: else a constant
    reference could not be told from anything smaller.
    """
    found = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    smallest = reference.min()
    return np.concatenate([[np.nextafter(smallest, -np.inf)], found]) if found[0] == smallest else found


def counts(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many values fall into each bin [len(bounds) + 1]."""
    return np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds) + 1)
