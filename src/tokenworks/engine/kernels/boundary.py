"""Where the falling order of some logits is cut, found without sorting them.

Both top-k and top-p keep the largest logits until enough weight has gone before: weights of 1 and a limit of k, or
probabilities and a limit of p. The logits are thrown into bins by value; only the bin in which the limit is reached is
looked at again, until all in it are equal. Each round is linear, and leaves about one in a hundred.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from tokenworks.engine.kernels.bits import Array
from tokenworks.engine.kernels.row_scan import LOWEST

_BINS: Final = 256
_LANES: Final = 128


@numba.njit(cache=True, nogil=True)
def boundary(values: Array, weights: Array, limit: float) -> tuple[np.float32, int]:
    """The smallest logit that is kept, and how many of those equal to it are, first ones first.

    Kept is what has less than `limit` of weight before it in falling order, and always the first. `values` is float32
    [n], n > 0, without NaN and without +inf, in whose one bin it would stay for ever; -inf is taken for the lowest
    finite number.
    """
    before = 0.0
    while True:
        low, high = _range(values)
        if low == high:
            return low, _count_ties(weights, before, limit)
        bins = _bins(values, low, high)
        sums = _weight_of(bins, weights)
        reached = 0
        while reached < _BINS - 1 and before + sums[reached] < limit:
            before += sums[reached]
            reached += 1
        values, weights = _members(values, weights, bins, reached)


@numba.njit(cache=True, nogil=True)
def keep(values: Array, token_ids: Array, lowest: np.float32, num_ties: int) -> int:
    """Move what the boundary keeps to the front, in order; how many these are."""
    kept = np.uint64(0)
    for i in range(values.shape[0]):
        value, token_id = values[i], token_ids[i]
        values[kept], token_ids[kept] = value, token_id
        if value == lowest:
            kept += np.uint64(num_ties > 0)
            num_ties -= 1
        else:
            kept += np.uint64(value > lowest)
    return int(kept)


@numba.njit(cache=True, nogil=True)
def _range(values: Array) -> tuple[np.float32, np.float32]:
    """Lowest and highest; lanes first, because the reduction of one variable is not made a loop of vectors."""
    lows, highs = np.full(_LANES, np.inf, np.float32), np.full(_LANES, LOWEST, np.float32)
    for start in range(0, values.shape[0], _LANES):
        part = values[start : start + _LANES]
        for j in range(part.shape[0]):
            lows[j] = part[j] if part[j] < lows[j] else lows[j]
            highs[j] = part[j] if part[j] > highs[j] else highs[j]
    return max(lows.min(), LOWEST), highs.max()


@numba.njit(cache=True, nogil=True)
def _bins(values: Array, low: np.float32, high: np.float32) -> Array:
    """uint8: 0 for the highest value, never falling as values do, the last one for the lowest (hence the rounding)."""
    scale = (_BINS - 1) / (np.float64(high) - np.float64(low))
    bins = np.empty(values.shape[0], np.uint8)
    for i in range(values.shape[0]):
        value = values[i] if values[i] > LOWEST else LOWEST
        bins[i] = np.uint8(np.int32((np.float64(high) - np.float64(value)) * scale + 0.5))
    return bins


@numba.njit(cache=True, nogil=True)
def _weight_of(bins: Array, weights: Array) -> Array:
    sums = np.zeros(_BINS, np.float64)
    for i in range(bins.shape[0]):
        sums[bins[i]] += weights[i]
    return sums


@numba.njit(cache=True, nogil=True)
def _members(values: Array, weights: Array, bins: Array, wanted: int) -> tuple[Array, Array]:
    some_values, some_weights = np.empty(values.shape[0], values.dtype), np.empty(values.shape[0], weights.dtype)
    count = 0
    for i in range(bins.shape[0]):
        if bins[i] == wanted:
            some_values[count], some_weights[count] = values[i], weights[i]
            count += 1
    return some_values[:count], some_weights[:count]


@numba.njit(cache=True, nogil=True)
def _count_ties(weights: Array, before: float, limit: float) -> int:
    kept = 0
    while kept < weights.shape[0] and (kept == 0 or before < limit):
        before += weights[kept]
        kept += 1
    return kept
