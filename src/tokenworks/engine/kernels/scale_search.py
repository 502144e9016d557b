"""Rounding of weights to four bits: in each group of columns, the scale that leaves the smallest squared error.

Rounding to the largest magnitude / 7 wastes levels on one weight. Here the largest magnitude is put at each of `LEVELS`
steps, on either side of zero (there is a -8, but no 8); what the best scale for the rounded values is follows by least
squares, and the error it leaves is |w|^2 - (w.v)^2 / (v.v), so the candidate with the largest (w.v)^2 / (v.v) wins.
The winner's scale is rounded to float16, as it is stored, and the values are rounded once more against that.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import torch
from torch import Tensor

from tokenworks.engine.kernels.bits import Array, bits_of, shift_of, widen

GROUP: Final = 32
"""Columns of a group; known to the compiler, so that a group's loop becomes two vector steps."""

LEVELS: Final = np.arange(5.5, 9.75, 0.25, dtype=np.float32)
_LOWEST: Final = np.float32(-8)
_HIGHEST: Final = np.float32(7)


def round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [N, K] to int8 [N, K] in -8..7 and float32 scales [N, K / 32], each a float16 number.

    A scale is 0 for a group of zeros, or of numbers too small for a float16 scale.
    """
    bits, shift = bits_of(weight.contiguous()), shift_of(weight.dtype)
    found = torch.empty(weight.shape[0], weight.shape[1] // GROUP)
    _search(bits, shift, LEVELS, found.numpy())
    scales = found.half().float()
    values = torch.empty(weight.shape, dtype=torch.int8)
    _round(bits, shift, scales.numpy(), values.numpy())
    return values, scales


@numba.njit(cache=True, nogil=True, fastmath=True)
def _fit(w: Array, inverse: np.float32) -> tuple[np.float32, np.float32]:
    """(w.v, v.v) for the values v that `w * inverse` rounds to."""
    product, square = np.float32(0), np.float32(0)
    for k in range(GROUP):
        v = min(max(np.rint(w[k] * inverse), _LOWEST), _HIGHEST)
        product += w[k] * v
        square += v * v
    return product, square


@numba.njit(cache=True, nogil=True)
def _best_scale(w: Array, levels: Array) -> np.float32:
    """Not finite where a weight is not."""
    top, total = np.float32(0), np.float32(0)
    for k in range(GROUP):
        top = max(top, abs(w[k]))
        total += abs(w[k])
    best_gain, best_scale = np.float32(0), np.float32(0)
    if not np.isfinite(total):
        return total
    if top < np.float32(1e-30):
        return best_scale
    for level in levels:
        for sign in (np.float32(1), np.float32(-1)):
            product, square = _fit(w, sign * level / top)
            gain = (product / top) * (product / top) / square  # in units of top: squares of tiny weights vanish
            if gain > best_gain:
                best_gain, best_scale = gain, product / square
    return best_scale


@numba.njit(cache=True, nogil=True, parallel=True)
def _search(bits: Array, shift: np.uint32, levels: Array, scales: Array) -> None:
    for n in numba.prange(bits.shape[0]):
        row = np.empty(bits.shape[1], np.uint32)
        widen(bits[n], shift, row)
        wide = row.view(np.float32).reshape(scales.shape[1], GROUP)
        for g in range(scales.shape[1]):
            scales[n, g] = _best_scale(wide[g], levels)


@numba.njit(cache=True, nogil=True, parallel=True)
def _round(bits: Array, shift: np.uint32, scales: Array, values: Array) -> None:
    for n in numba.prange(bits.shape[0]):
        row = np.empty(bits.shape[1], np.uint32)
        widen(bits[n], shift, row)
        wide, rounded = row.view(np.float32).reshape(scales.shape[1], GROUP), values[n].reshape(scales.shape[1], GROUP)
        for g in range(scales.shape[1]):
            scale = scales[n, g] if scales[n, g] != 0 else np.float32(np.inf)
            for k in range(GROUP):
                rounded[g, k] = np.int8(min(max(np.rint(wide[g, k] / scale), _LOWEST), _HIGHEST))
