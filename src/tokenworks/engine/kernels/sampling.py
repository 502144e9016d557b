"""One token of each row of logits: the likeliest, or a draw from the tempered distribution or from a part of it.

A row is worked on by one thread from start to end, so that its token depends on nothing but the row and its settings.
Few rows are done on the calling thread: the pool sleeps between steps, and waking it costs more than a row. The draw
is inverse-transform sampling in the order of token ids: sums of stretches tell the stretch, a scan of it the token.
What min-p, top-k and top-p rule out lies below one value (some of its equals, too), so nothing is sorted: a floor that
is surely low enough leaves few candidates, and the exact cut is found among these.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np

from tokenworks.engine.kernels.bits import Array
from tokenworks.engine.kernels.boundary import boundary, keep
from tokenworks.engine.kernels.row_scan import (
    LOWEST,
    LOWEST_POWER,
    STRETCH,
    collect,
    group_maxima,
    largest,
    place_of,
    powers,
    stretch_sums,
)

SETTINGS: Final = np.dtype(
    [
        ("temperature", np.float64),  # 0 is greedy
        ("min_p", np.float64),  # 0 is off
        ("top_k", np.int64),  # 0 is off
        ("top_p", np.float64),  # 1 is off
        ("uniform", np.float64),  # in [0, 1): what the draw turns into a token
    ]
)
"""Of one row."""

SERIAL_ELEMENTS: Final = 1 << 19
_LOG2E: Final = 1.4426950408889634
_STEEPEST: Final = 1e30  # a colder temperature is no other than this one: there are no two float32 logits so close
_SLACK: Final = 0.9  # a floor below the exact one by more than rounding


def choose(rows: Array, settings: Array) -> list[int]:
    """The token of each row of float32 logits [S, V], by SETTINGS [S].

    A row whose largest logit is not finite gives the first that equals it.
    """
    tokens = np.empty(len(rows), np.int64)
    kernel = _choose_serial if rows.size < SERIAL_ELEMENTS else _choose_parallel
    kernel(rows, settings, tokens)
    chosen: list[int] = tokens.tolist()
    return chosen


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _choose_row(row: Array, settings: Any) -> Any:
    maxima = group_maxima(row)
    top = largest(maxima)
    if settings.temperature == 0 or not np.isfinite(top):
        return place_of(row, maxima, top)
    scale = min(_LOG2E / settings.temperature, _STEEPEST)
    if settings.min_p == 0 and settings.top_k == 0 and settings.top_p == 1:
        return _draw(row, top, np.float32(scale), stretch_sums(row, top, np.float32(scale)), settings.uniform)
    return _draw_truncated(row, maxima, top, scale, settings)


@numba.njit(cache=True, nogil=True)
def _draw(values: Array, top: np.float32, scale: np.float32, sums: Array, uniform: float) -> int:
    """The first index whose cumulative share exceeds `uniform`; never one whose power is 0."""
    target = uniform * sums.sum()
    start, chosen = 0.0, 0
    before = 0.0
    for stretch in range(sums.shape[0]):
        if sums[stretch] > 0:
            start, chosen = before, stretch
        before += sums[stretch]
        if before > target:
            break
    part = values[chosen * STRETCH : (chosen + 1) * STRETCH]
    return chosen * STRETCH + _draw_within(powers(part, top, scale), target - start)


@numba.njit(cache=True, nogil=True)
def _draw_within(weights: Array, target: float) -> int:
    before, chosen = 0.0, 0
    for i in range(weights.shape[0]):
        if weights[i] > 0:
            chosen = i
        before += weights[i]
        if before > target:
            break
    return chosen


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw_truncated(row: Array, maxima: Array, top: Any, scale: float, settings: Any) -> Any:
    """Draw from what min-p, then top-k, then top-p leave; top-p is of the mass that the others left."""
    narrow = np.float32(scale)
    mass = 0.0
    floor = max(top + LOWEST_POWER / scale, np.float64(LOWEST))
    if settings.min_p > 0:
        floor = max(floor, top + np.log2(settings.min_p) / scale)
    if settings.top_k > 0:
        floor = max(floor, _floor_of_top_k(maxima, settings.top_k))
    elif settings.min_p == 0:
        mass = stretch_sums(row, top, narrow).sum()
        floor = max(floor, _floor_of_top_p(mass / row.shape[0], top, scale, settings.top_p))
    token_ids, values = collect(row, np.float32(floor))
    if 0 < settings.top_k < values.shape[0]:
        lowest, num_ties = boundary(values, np.ones(values.shape[0], np.float32), float(settings.top_k))
        values = values[: keep(values, token_ids, lowest, num_ties)]
    if settings.top_p < 1:
        weights = powers(values, top, narrow)
        mass = mass if mass > 0 else _sum(weights)
        lowest, num_ties = boundary(values, weights, settings.top_p * mass)
        values = values[: keep(values, token_ids, lowest, num_ties)]
    return token_ids[_draw(values, top, narrow, stretch_sums(values, top, narrow), settings.uniform)]


@numba.njit(cache=True, nogil=True)
def _floor_of_top_k(maxima: Array, top_k: int) -> float:
    """Below the k-th largest logit: k groups hold one that is at least the k-th largest of the groups' maxima."""
    if top_k > maxima.shape[0]:
        return np.float64(LOWEST)
    return np.float64(boundary(maxima, np.ones(maxima.shape[0], np.float32), float(top_k))[0])


@numba.njit(cache=True, nogil=True)
def _floor_of_top_p(mean: float, top: np.float32, scale: float, top_p: float) -> Any:
    """Below the last that top-p keeps: all with powers under (1 - p) * the mean have less than 1 - p of the mass."""
    return top + np.log2((1 - top_p) * mean * _SLACK) / scale


@numba.njit(cache=True, nogil=True)
def _sum(weights: Array) -> float:
    total = 0.0
    for i in range(weights.shape[0]):
        total += weights[i]
    return total


@numba.njit(cache=True, nogil=True)
def _choose_serial(rows: Array, settings: Array, tokens: Array) -> None:
    for s in range(rows.shape[0]):
        tokens[s] = _choose_row(rows[s], settings[s])


@numba.njit(cache=True, nogil=True, parallel=True)
def _choose_parallel(rows: Array, settings: Array, tokens: Array) -> None:
    for s in numba.prange(rows.shape[0]):
        tokens[s] = _choose_row(rows[s], settings[s])
