"""Passes over one row of logits: its maxima, its powers and their sums, and the few tokens above a floor.

A vocabulary's row is half a megabyte: read from memory once, then from the second-level cache. So each pass is a loop
of vectors over stretches whose buffers stay in the first-level cache. No pass
lets the compiler reorder a sum, so that a row gives the same result in whatever code it was compiled into.

A power is 2 ** ((logit - top) * scale), 1 for the largest logit; with scale = log2(e) / temperature it is a token's
probability over that of the likeliest.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tokenworks.engine.kernels.bits import Array

STRETCH: Final = 1024
LOWEST: Final = np.float32(np.finfo(np.float32).min)
LOWEST_POWER: Final = np.float32(-126)  # powers of 2 end here: what lies below has the power 0
_COUNTED: Final = 128  # elements of which one is known to be above the floor, or none: these are skipped
_HALF: Final = np.float32(0.5)
# 2 ** f for f in [-1/2, 1/2]: the polynomial of least relative error (9e-8) among those that are 1 at 0.
_C1: Final = np.float32(6.93146978e-1)
_C2: Final = np.float32(2.40222421e-1)
_C3: Final = np.float32(5.55073374e-2)
_C4: Final = np.float32(9.67151265e-3)
_C5: Final = np.float32(1.32647271e-3)
_ONE: Final = np.float32(1)


@numba.njit(cache=True, nogil=True)
def group_maxima(row: Array) -> Array:
    """The largest logit of each group, STRETCH of them or one a token; group g is tokens g, g + STRETCH, ...

    Groups that are not stretches need no reduction across a vector's lanes. NaN is never the largest.
    """
    maxima = np.full(min(STRETCH, row.shape[0]), -np.inf, np.float32)
    for start in range(0, row.shape[0], STRETCH):
        part = row[start : start + STRETCH]
        for j in range(part.shape[0]):
            maxima[j] = part[j] if part[j] > maxima[j] else maxima[j]
    return maxima


@numba.njit(cache=True, nogil=True)
def largest(maxima: Array) -> Any:
    """The largest of all."""
    top = maxima[0]
    for j in range(1, maxima.shape[0]):
        top = maxima[j] if maxima[j] > top else top
    return top


@numba.njit(cache=True, nogil=True)
def place_of(row: Array, maxima: Array, top: np.float32) -> int:
    """The first token with the largest logit; 0 where there is none (a row of NaN)."""
    place = row.shape[0]
    for group in range(maxima.shape[0]):
        if maxima[group] == top:
            for token in range(group, place, STRETCH):
                if row[token] == top:
                    place = token
                    break
    return place if place < row.shape[0] else 0


def _reinterpret(typing_context: Any, bits: Any) -> Any:
    """The float32 with these bits (int32)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_float_of: Any = intrinsic(_reinterpret)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _powers(part: Array, top: np.float32, scale: np.float32, out: Array) -> None:
    """2 ** x = 2 ** n * 2 ** (x - n): the first factor is made of exponent bits, the second is a polynomial."""
    for j in range(part.shape[0]):
        x = (part[j] - top) * scale
        x = x if x > LOWEST_POWER else LOWEST_POWER  # takes NaN away, too
        n = np.int32(x - _HALF)
        f = x - np.float32(n)
        fraction = ((((_C5 * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _ONE
        out[j] = fraction * _float_of(np.int32((n + 127) << 23) if n > -126 else np.int32(0))


@numba.njit(cache=True, nogil=True)
def powers(values: Array, top: np.float32, scale: np.float32) -> Array:
    """float32: the power of each logit, none of which is above `top`."""
    out = np.empty(values.shape[0], np.float32)
    _powers(values, top, scale, out)
    return out


@numba.njit(cache=True, nogil=True)
def stretch_sums(values: Array, top: np.float32, scale: np.float32) -> Array:
    """float64: the sum of each stretch's powers, added up in pairs."""
    buffer = np.empty(STRETCH, np.float32)
    sums = np.empty((values.shape[0] + STRETCH - 1) // STRETCH, np.float64)
    for stretch in range(sums.shape[0]):
        part = values[stretch * STRETCH : (stretch + 1) * STRETCH]
        _powers(part, top, scale, buffer)
        buffer[part.shape[0] :] = 0
        sums[stretch] = _sum_in_pairs(buffer)
    return sums


@numba.njit(cache=True, nogil=True)
def _sum_in_pairs(values: Array) -> Any:
    """The sum of STRETCH values, which it overwrites."""
    width = STRETCH // 2
    while width:
        low, high = values[:width], values[width : 2 * width]
        for j in range(width):
            low[j] += high[j]
        width //= 2
    return values[0]


@numba.njit(cache=True, nogil=True)
def collect(row: Array, floor: np.float32) -> tuple[Array, Array]:
    """Tokens (int32, rising) whose logits are at least `floor`, and these logits."""
    counts = np.empty((row.shape[0] + _COUNTED - 1) // _COUNTED, np.int32)
    total = 0
    for block in range(counts.shape[0]):
        counts[block] = _count(row[block * _COUNTED : (block + 1) * _COUNTED], floor)
        total += counts[block]
    token_ids, values = np.empty(total + 1, np.int32), np.empty(total + 1, np.float32)
    found = np.uint64(0)  # unsigned: an index that might be negative costs a comparison
    for block in range(counts.shape[0]):
        if counts[block]:
            part = row[block * _COUNTED : (block + 1) * _COUNTED]
            for j in range(part.shape[0]):  # written before it is known to count: so there is no branch to mispredict
                token_ids[found], values[found] = np.int32(block * _COUNTED + j), part[j]
                found += np.uint64(part[j] >= floor)
    return token_ids[:total], values[:total]


@numba.njit(cache=True, nogil=True)
def _count(part: Array, floor: np.float32) -> np.int32:
    found = np.int32(0)
    for j in range(part.shape[0]):
        found = np.int32(found + np.int32(part[j] >= floor))
    return found
