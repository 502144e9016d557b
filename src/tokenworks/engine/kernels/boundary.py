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


@numba.njit(cache=True, nogil=True)
def boundary(values: Array, weights: Array, limit: float) -> tuple[np.float32, int]:
    """The smallest logit that is kept, and how many of those equal to it are, first ones first.

    Kept is what has less than `limit` of weight before it in falling order, and always the first. `values` is float32
    [n], n > 0, without NaN; -inf is taken for the lowest finite number.
    """
    before = 0.0
    while True:
        low, high = _range(values)
        if low == high:
            return low, _count_ties(weights, before, limit)
        scale = (_BINS - 1) / (np.float64(high) - np.float64(low))
        sums = _binned(values, weights, high, scale)
        bin_at = 0
        while bin_at < _BINS - 1 and before + sums[bin_at] < limit:
            before += sums[bin_at]
            bin_at += 1
        values, weights = _members(values, weights, high, scale, bin_at)


@numba.njit(cache=True, nogil=True)
def keep(values: Array, token_ids: Array, lowest: np.float32, num_ties: int) -> int:
    """Move what the boundary keeps to the front, in order; how many these are."""
    kept = 0
    for i in range(values.shape[0]):
        is_tie = values[i] == lowest
        is_kept = values[i] > lowest or (is_tie and num_ties > 0)
        num_ties -= is_tie
        values[kept], token_ids[kept] = values[i], token_ids[i]
        kept += is_kept
    return kept


@numba.njit(cache=True, nogil=True)
def _range(values: Array) -> tuple[np.float32, np.float32]:
    low = high = max(values[0], LOWEST)
    for i in range(1, values.shape[0]):
        value = max(values[i], LOWEST)
        low, high = min(low, value), max(high, value)
    return low, high


@numba.njit(cache=True, nogil=True)
def _count_ties(weights: Array, before: float, limit: float) -> int:
    kept = 0
    while kept < weights.shape[0] and (kept == 0 or before < limit):
        before += weights[kept]
        kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _bin_of(value: np.float32, high: np.float32, scale: float) -> int:
    """Never falls as the value does, and differs for the highest and the lowest."""
    return min(int((np.float64(high) - np.float64(max(value, LOWEST))) * scale + 0.5), _BINS - 1)


@numba.njit(cache=True, nogil=True)
def _binned(values: Array, weights: Array, high: np.float32, scale: float) -> Array:
    sums = np.zeros(_BINS, np.float64)
    for i in range(values.shape[0]):
        sums[_bin_of(values[i], high, scale)] += weights[i]
    return sums


@numba.njit(cache=True, nogil=True)
def _members(values: Array, weights: Array, high: np.float32, scale: float, bin_at: int) -> tuple[Array, Array]:
    count = 0
    for i in range(values.shape[0]):
        count += _bin_of(values[i], high, scale) == bin_at
    some_values, some_weights = np.empty(count, values.dtype), np.empty(count, weights.dtype)
    count = 0
    for i in range(values.shape[0]):
        if _bin_of(values[i], high, scale) == bin_at:
            some_values[count], some_weights[count] = values[i], weights[i]
            count += 1
    return some_values, some_weights
