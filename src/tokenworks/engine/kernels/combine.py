"""Brings the results of a mixture of experts back to the rows that they are for.

A row's results are added in the order of its experts' weights, in float32, and rounded once: what a row gets does not
depend on how its results lie among those of other rows. One pass, where `index_add_` would take one for each expert.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from tokenworks.engine.kernels.bits import Array, bits_of, narrow, shift_of, widen
from tokenworks.engine.kernels.rows import PARALLEL_ELEMENTS


def combine(results: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Rows [T, width]: row t is the sum over j of `weights[t, j] * results[positions[t, j]]`.

    `results` is [T * k, width]; `positions` int64 [T, k]; `weights` float32 [T, k].
    """
    out = torch.empty(positions.shape[0], results.shape[1], dtype=results.dtype)
    kernel = _combine_parallel if results.numel() > PARALLEL_ELEMENTS else _combine_serial
    kernel(bits_of(results), positions.numpy(), weights.numpy(), shift_of(results.dtype), bits_of(out))
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)
def _combine_row(results: Array, positions: Array, weights: Array, shift: np.uint32, out: Array) -> None:
    wide, wide_total = np.empty(out.shape[0], np.uint32), np.zeros(out.shape[0], np.uint32)
    result, total = wide.view(np.float32), wide_total.view(np.float32)
    for j in range(positions.shape[0]):
        widen(results[positions[j]], shift, wide)
        for d in range(total.shape[0]):
            total[d] += weights[j] * result[d]
    narrow(wide_total, shift, out)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _combine_serial(results: Array, positions: Array, weights: Array, shift: np.uint32, out: Array) -> None:
    for t in range(out.shape[0]):
        _combine_row(results, positions[t], weights[t], shift, out[t])


@numba.njit(cache=True, nogil=True, fastmath=True, parallel=True)
def _combine_parallel(results: Array, positions: Array, weights: Array, shift: np.uint32, out: Array) -> None:
    for t in numba.prange(out.shape[0]):
        _combine_row(results, positions[t], weights[t], shift, out[t])
