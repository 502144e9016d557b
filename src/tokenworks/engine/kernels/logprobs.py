"""Log probabilities of one token and of the likeliest of each row of raw logits."""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np

from tokenworks.engine.kernels.bits import Array
from tokenworks.engine.kernels.boundary import boundary
from tokenworks.engine.kernels.row_scan import collect, group_maxima, largest, stretch_sums
from tokenworks.engine.kernels.sampling import SERIAL_ELEMENTS

_LOG2E: Final = np.float32(1.4426950408889634)


def log_probabilities(rows: Array, which: Array, token_ids: Array, count: int) -> tuple[Array, Array, Array]:
    """For row `which[i]` of float32 logits [S, V]: that of `token_ids[i]`, and the `count` likeliest in falling order.

    Gives float64 [I], token ids int64 [I, count] (-1 where fewer have a finite logit), and float64 [I, count]. A row
    with an infinite logit, as damaged weights give it, has no likeliest ones.
    """
    count = min(count, rows.shape[1])
    chosen = np.empty(len(which))
    top_ids, top = np.full((len(which), count), -1), np.full((len(which), count), -np.inf)
    kernel = _describe_serial if len(which) * rows.shape[1] < SERIAL_ELEMENTS else _describe_parallel
    kernel(rows, which, token_ids, chosen, top_ids, top)
    return chosen, top_ids, top


@numba.njit(cache=True, nogil=True)
def _describe(row: Array, token_id: int, top_ids: Array, top: Array) -> Any:
    """Fill the row's likeliest, and return the log probability of the token."""
    maxima = group_maxima(row)
    highest = largest(maxima)
    log_sum = highest + np.log(stretch_sums(row, highest, _LOG2E).sum())
    if top.shape[0] and highest < np.inf:
        # As many groups' maxima as are wanted are at least this one; more groups than wanted, or each a token.
        floor = boundary(maxima, np.ones(maxima.shape[0], np.float32), float(top.shape[0]))[0]
        _take_largest(*collect(row, floor), log_sum, top_ids, top)
    return row[token_id] - log_sum


@numba.njit(cache=True, nogil=True)
def _take_largest(token_ids: Array, values: Array, log_sum: float, top_ids: Array, top: Array) -> None:
    """The first of equals first; overwrites the values."""
    for place in range(min(top.shape[0], values.shape[0])):
        best = 0
        for i in range(values.shape[0]):
            best = i if values[i] > values[best] else best
        top_ids[place], top[place] = token_ids[best], values[best] - log_sum
        values[best] = -np.inf


@numba.njit(cache=True, nogil=True)
def _describe_serial(rows: Array, which: Array, token_ids: Array, chosen: Array, top_ids: Array, top: Array) -> None:
    for i in range(which.shape[0]):
        chosen[i] = _describe(rows[which[i]], token_ids[i], top_ids[i], top[i])


@numba.njit(cache=True, nogil=True, parallel=True)
def _describe_parallel(rows: Array, which: Array, token_ids: Array, chosen: Array, top_ids: Array, top: Array) -> None:
    for i in numba.prange(which.shape[0]):
        chosen[i] = _describe(rows[which[i]], token_ids[i], top_ids[i], top[i])
