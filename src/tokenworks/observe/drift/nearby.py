"""The least PSI that a sample has where values near a bin's bound may count on either side of it.

Bins are hard: where half of all prompts have 203 tokens and a bin ends there, one more digit carries them all into the
next one, and PSI cries. What such a sample must have moved at least is found by moving counts instead of values. As
many values above a bound, and within its reach, may count below it as the reference has, in proportion, below it and
within its reach: more cannot have come from there. Likewise the other way. That is a tube for the cumulative counts.
PSI is a convex function of each bin's count over its expected one, and of all ways through a tube the taut string makes
every sum of such functions least (Barlow et al.: "Statistical inference under order restrictions", 1972; Davies, Kovac:
"Local extremes, runs, strings and multiresolution", Annals of Statistics 29(1), 2001).
"""

from __future__ import annotations

import numpy as np

from tokenworks.observe.drift.psi import ADDED, counts


def counts_nearby(reference: np.ndarray, values: np.ndarray, bounds: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Counts of `values` [len(bounds) + 1], as near as may be in proportion to those of `reference`.

    `reach` [bounds] is how far from a bound a value may count on its other side. Counts need not be whole.
    """
    added = ADDED * np.arange(len(bounds) + 2)  # as `psi.shift` does, so that its PSI is what is made least
    low, high = _tube(reference, values, bounds, reach)
    places = np.concatenate([[0.0], np.cumsum(counts(reference, bounds))])
    return np.diff(taut_string(places + added, low + added, high + added)) - ADDED


def _tube(
    reference: np.ndarray, values: np.ndarray, bounds: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many values may count up to each bound, at least and at most [len(bounds) + 2]: none to all."""
    num = len(values)
    below, up_to, within = (_up_to(values, at) for at in (bounds - reach, bounds, bounds + reach))
    shares = [_up_to(reference, at) / len(reference) for at in (bounds - reach, bounds, bounds + reach)]
    fewest = up_to - np.minimum(up_to - below, num * (shares[2] - shares[1]))
    most = up_to + np.minimum(within - up_to, num * (shares[1] - shares[0]))
    low = np.maximum.accumulate(np.concatenate([[0.0], fewest, [num]]))
    high = np.minimum.accumulate(np.concatenate([[0.0], most, [num]])[::-1])[::-1]
    return low, high


def _up_to(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), bounds, side="right")


def taut_string(places: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The shortest way through the points (places, low to high), at which low = high at both ends; O(n^2).

    `places` rise, `low` and `high` do not fall.
    """
    way = low.astype(np.float64)
    at = 0
    while at < len(places) - 1:
        to, slope = _straight(places, low - way[at], high - way[at], at)
        way[at + 1 : to + 1] = way[at] + slope * (places[at + 1 : to + 1] - places[at])
        at = to
    return way


def _straight(places: np.ndarray, low: np.ndarray, high: np.ndarray, at: int) -> tuple[int, float]:
    """How far a straight line from `at` gets before it must bend, and its slope."""
    least, most = -np.inf, np.inf
    least_to = most_to = at
    for to in range(at + 1, len(places)):
        run = places[to] - places[at]
        down, up = low[to] / run, high[to] / run
        if down > most:
            return most_to, most
        if up < least:
            return least_to, least
        if up <= most:
            most, most_to = up, to
        if down >= least:
            least, least_to = down, to
    return len(places) - 1, least
