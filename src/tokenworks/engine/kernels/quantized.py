"""Products of rows with group-wise quantised weights, and the rounding of rows to int8 that goes before them.

A row is rounded where it is used: in each group of columns, to 255 steps of its largest magnitude / 127. A group's
product is then an exact int32 sum, and only the sum over groups is float32:

    y[t, n] = sum over groups g of  (sum over k in g of a[t, k] * w[n, k]) * (a_scale[t, g] * w_scale[n, g])

These loops are the portable form, and what a faster one is held to. Weights lie row by row. Four-bit weights lie two a
byte: byte j of a row holds column j in its lower half and column j + K / 2 in its upper half, each plus 8, so that
unpacking is two long loops. A weight row stays in the cache while all rows of the batch meet it. No fast maths: NaN and
infinities in a row must come out as such, and the order of sums is part of the result.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import torch
from torch import Tensor

from tokenworks.engine.kernels.bits import Array, bits_of, shift_of, widen

_SERIAL_PRODUCTS: Final = 1 << 16  # below this, waking another thread costs more than it does
_SERIAL_ROUNDING: Final = 1 << 14  # elements; the same
_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)


def round_rows(x: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Rows [T, K] to int8 [T, K] in -127..127 and float32 scales [T, K / group_size]: x ~= values * scale.

    Round to nearest, ties to even. A group that holds NaN or infinity gets such a scale.
    """
    values = torch.empty(x.shape, dtype=torch.int8)
    scales = torch.empty(x.shape[0], x.shape[1] // group_size)
    kernel = _round_rows_parallel if x.shape[0] > 1 and x.numel() > _SERIAL_ROUNDING else _round_rows_serial
    kernel(bits_of(x.contiguous()), shift_of(x.dtype), group_size, values.numpy(), scales.numpy())
    return values, scales


def multiply_int8(a: Tensor, a_scales: Tensor, w: Tensor, w_scales: Tensor) -> Tensor:
    """int8 rows [T, K] with int8 weights [N, K]: float32 [T, N]."""
    out = torch.empty(a.shape[0], w.shape[0])
    kernel = _int8_parallel if a.shape[0] * w.numel() > _SERIAL_PRODUCTS else _int8_serial
    kernel(_by_group(a, a_scales), a_scales.numpy(), _by_group(w, w_scales), w_scales.numpy(), out.numpy())
    return out


def multiply_int4(a: Tensor, a_scales: Tensor, packed: Tensor, w_scales: Tensor) -> Tensor:
    """int8 rows [T, K] with weights packed by `pack_int4` [N, K / 2]: float32 [T, N]."""
    out = torch.empty(a.shape[0], packed.shape[0])
    kernel = _int4_parallel if a.shape[0] * packed.numel() > _SERIAL_PRODUCTS else _int4_serial
    kernel(_by_group(a, a_scales), a_scales.numpy(), packed.numpy(), w_scales.numpy(), out.numpy())
    return out


def to_floats(stored: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Weights as they are stored ([N, K] int8, or [N, K / 2] packed) to float32 [N, K]."""
    out = torch.empty(stored.shape[0], stored.shape[1] * 8 // bits)
    by_group = _by_group(out, scales)
    if bits == 8:
        _int8_to_floats(_by_group(stored, scales), scales.numpy(), by_group)
    else:
        _int4_to_floats(stored.numpy(), scales.numpy(), by_group)
    return out


def _by_group(values: Tensor, scales: Tensor) -> Array:
    """[rows, columns] as [rows, groups, columns of a group]: indices from 0 are what lets the loops be vectorised."""
    return values.view(*scales.shape, values.shape[1] // scales.shape[1]).numpy()


def pack_int4(values: Tensor) -> Tensor:
    """int8 [N, K] in -8..7 to uint8 [N, K / 2], two a byte."""
    low, high = (values + 8).view(torch.uint8).chunk(2, dim=1)
    return low | (high << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """The reverse of `pack_int4`."""
    return torch.cat((packed & 15, packed >> 4), dim=1).view(torch.int8) - 8


@numba.njit(cache=True, nogil=True)
def _round_group(bits: Array, start: int, end: int, values: Array) -> np.float32:
    """Round the float32 `bits[start:end]`; its scale. The last of `bits` is scratch.

    Magnitudes compare as integers as they do as floats, and there NaN is the largest of all: it cannot get lost.
    """
    wide = bits.view(np.float32)
    top = np.uint32(0)
    for k in range(start, end):
        top = max(top, np.uint32(bits[k] & _MAGNITUDE))
    bits[-1] = top
    scale = np.float32(wide[-1] / np.float32(127))
    if scale == 0:
        values[start:end] = 0
        return scale
    for k in range(start, end):
        step = np.rint(wide[k] / scale)
        values[k] = np.int8(min(max(step, np.float32(-127)), np.float32(127)))  # beyond only where scale is subnormal
    return scale


@numba.njit(cache=True, nogil=True)
def _round_row(x: Array, shift: np.uint32, group_size: int, values: Array, scales: Array) -> None:
    bits = np.empty(x.shape[0] + 1, np.uint32)
    widen(x, shift, bits)
    for g in range(scales.shape[0]):
        scales[g] = _round_group(bits, g * group_size, (g + 1) * group_size, values)


@numba.njit(cache=True, nogil=True)
def _round_rows_serial(x: Array, shift: np.uint32, group_size: int, values: Array, scales: Array) -> None:
    for t in range(x.shape[0]):
        _round_row(x[t], shift, group_size, values[t], scales[t])


@numba.njit(cache=True, nogil=True, parallel=True)
def _round_rows_parallel(x: Array, shift: np.uint32, group_size: int, values: Array, scales: Array) -> None:
    for t in numba.prange(x.shape[0]):
        _round_row(x[t], shift, group_size, values[t], scales[t])


@numba.njit(cache=True, nogil=True)
def _dot(a: Array, a_scales: Array, w: Array, w_scales: Array) -> np.float32:
    """One output from a row and a weight row, int8 [groups, group size] each.

    `np.int32` around every sum: Numba would otherwise widen to 64 bits, which halves what a vector holds.
    """
    total = np.float32(0)
    for g in range(a.shape[0]):
        dot = np.int32(0)
        for k in range(a.shape[1]):
            dot = np.int32(dot + np.int32(np.int32(a[g, k]) * np.int32(w[g, k])))
        total += np.float32(dot) * (a_scales[g] * w_scales[g])
    return total


@numba.njit(cache=True, nogil=True)
def _unpack_row(packed: Array, values: Array) -> None:
    """One weight row of two a byte [K / 2] to int8 [K]."""
    half = packed.shape[0]
    low, high = values[:half], values[half:]
    for j in range(half):
        low[j] = np.int8(packed[j] & np.uint8(15)) - np.int8(8)
    for j in range(half):
        high[j] = np.int8(packed[j] >> np.uint8(4)) - np.int8(8)


@numba.njit(cache=True, nogil=True)
def _int8_output(a: Array, a_scales: Array, w: Array, w_scales: Array, out: Array) -> None:
    """One weight row with every row: out [T]."""
    for t in range(a.shape[0]):
        out[t] = _dot(a[t], a_scales[t], w, w_scales)


@numba.njit(cache=True, nogil=True)
def _int4_output(a: Array, a_scales: Array, packed: Array, w_scales: Array, out: Array) -> None:
    values = np.empty(a.shape[1] * a.shape[2], np.int8)
    _unpack_row(packed, values)
    _int8_output(a, a_scales, values.reshape(a.shape[1:]), w_scales, out)


@numba.njit(cache=True, nogil=True)
def _int8_serial(a: Array, a_scales: Array, w: Array, w_scales: Array, out: Array) -> None:
    for n in range(w.shape[0]):
        _int8_output(a, a_scales, w[n], w_scales[n], out[:, n])


@numba.njit(cache=True, nogil=True, parallel=True)
def _int8_parallel(a: Array, a_scales: Array, w: Array, w_scales: Array, out: Array) -> None:
    for n in numba.prange(w.shape[0]):
        _int8_output(a, a_scales, w[n], w_scales[n], out[:, n])


@numba.njit(cache=True, nogil=True)
def _int4_serial(a: Array, a_scales: Array, packed: Array, w_scales: Array, out: Array) -> None:
    for n in range(packed.shape[0]):
        _int4_output(a, a_scales, packed[n], w_scales[n], out[:, n])


@numba.njit(cache=True, nogil=True, parallel=True)
def _int4_parallel(a: Array, a_scales: Array, packed: Array, w_scales: Array, out: Array) -> None:
    for n in numba.prange(packed.shape[0]):
        _int4_output(a, a_scales, packed[n], w_scales[n], out[:, n])


@numba.njit(cache=True, nogil=True)
def _row_to_floats(values: Array, scales: Array, out: Array) -> None:
    """int8 [groups, group size] times the groups' scales."""
    for g in range(values.shape[0]):
        for k in range(values.shape[1]):
            out[g, k] = np.float32(values[g, k]) * scales[g]


@numba.njit(cache=True, nogil=True, parallel=True)
def _int8_to_floats(w: Array, scales: Array, out: Array) -> None:
    for n in numba.prange(w.shape[0]):
        _row_to_floats(w[n], scales[n], out[n])


@numba.njit(cache=True, nogil=True, parallel=True)
def _int4_to_floats(packed: Array, scales: Array, out: Array) -> None:
    for n in numba.prange(packed.shape[0]):
        values = np.empty(out.shape[1] * out.shape[2], np.int8)
        _unpack_row(packed[n], values)
        _row_to_floats(values.reshape(out.shape[1:]), scales[n], out[n])
