"""Sorts the rows of a mixture of experts by expert, and brings the experts' results back to the rows.

Each is one call where PyTorch takes several operators; its dozen for sorting cost 0.2 ms a layer at one row, as much as
reading 2 MB of weights. A row's results are added in the order of its experts' weights, in float32, and rounded once:
what a row gets does not depend on how its results lie among those of other rows. Shape suffixes: T rows, E experts,
k experts a row, P = T * k pairs of a row and an expert.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from tokenworks.engine.kernels.bits import Array, bits_of, narrow, shift_of, widen
from tokenworks.engine.kernels.rows import PARALLEL_ELEMENTS


def sort_by_expert(chosen_Tk: Tensor, num_experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """Pairs sorted by expert, then by row: a counting sort, O(P + E).

    Returns each sorted pair's row, int64 [P]; where each pair of `chosen_Tk` went, int64 [T, k]; and where each
    expert's pairs start, E + 1 numbers.
    """
    positions_Tk = torch.empty_like(chosen_Tk)
    rows_P = torch.empty(chosen_Tk.numel(), dtype=torch.int64)
    starts = np.zeros(num_experts + 1, np.int64)
    _sort(chosen_Tk.numpy(), starts, rows_P.numpy(), positions_Tk.numpy())
    return rows_P, positions_Tk, starts.tolist()


def combine(results: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Rows [T, width]: row t is the sum over j of `weights[t, j] * results[positions[t, j]]`.

    `results` is [T * k, width]; `positions` int64 [T, k]; `weights` float32 [T, k].
    """
    out = torch.empty(positions.shape[0], results.shape[1], dtype=results.dtype)
    kernel = _combine_parallel if results.numel() > PARALLEL_ELEMENTS else _combine_serial
    kernel(bits_of(results), positions.numpy(), weights.numpy(), shift_of(results.dtype), bits_of(out))
    return out


@numba.njit(cache=True, nogil=True)
def _sort(chosen: Array, starts: Array, rows: Array, positions: Array) -> None:
    num_rows, num_per_row = chosen.shape
    for t in range(num_rows):
        for j in range(num_per_row):
            starts[chosen[t, j] + 1] += 1
    for e in range(starts.shape[0] - 1):
        starts[e + 1] += starts[e]
    free = starts[:-1].copy()
    for t in range(num_rows):
        for j in range(num_per_row):
            position = free[chosen[t, j]]
            free[chosen[t, j]] += 1
            rows[position] = t
            positions[t, j] = position


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
