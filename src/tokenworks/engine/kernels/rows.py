"""What happens to a row between two matrix products, in one pass over it: norms, rotary embedding, the KV write.

PyTorch would run each as several operators with a temporary each: for 512 rows of a 0.6 B model these took a quarter of
a prefill step. Few rows are done on the calling thread, because waking a pool costs more than they do.
Shape suffixes: T rows, H query heads, K kv heads, D head_dim.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import torch
from torch import Tensor

from tokenworks.engine.kernels.bits import Array, bits_of, encode, narrow, plane_arrays, shift_of, widen
from tokenworks.engine.kv_cache import Plane

PARALLEL_ELEMENTS: Final = 1 << 15


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm (arXiv 1910.07467) of rows [T, width]; `weight` is float32 [width]."""
    out = torch.empty_like(x)
    kernel = _norm_parallel if x.numel() > PARALLEL_ELEMENTS else _norm_serial
    kernel(bits_of(x), weight.numpy(), np.float32(eps), shift_of(x.dtype), bits_of(out))
    return out


def add_rms_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add `delta` to `x` in place, and return the norm of the sum."""
    out = torch.empty_like(x)
    kernel = _add_norm_parallel if x.numel() > PARALLEL_ELEMENTS else _add_norm_serial
    kernel(bits_of(x), bits_of(delta), weight.numpy(), np.float32(eps), shift_of(x.dtype), bits_of(out))
    return out


class HeadPreparation:
    """Splits a row of merged query, key and value heads; norms and rotates the first two; stores key and value."""

    def __init__(self, num_heads: int, norms: tuple[Tensor, Tensor] | None, eps: float) -> None:
        self.norms = norms
        self._num_heads = num_heads
        self._has_norm = norms is not None
        nothing = torch.zeros(0)
        self._query_norm, self._key_norm = (weight.numpy() for weight in norms or (nothing, nothing))
        self._eps = np.float32(eps)

    def __call__(
        self, qkv_TD: Tensor, rope: Tensor, positions_T: Tensor, slots_T: Tensor, keys: Plane, values: Plane
    ) -> Tensor:
        """Rows [T, (H + 2K) * D] to queries [T, H, D]; keys and values go to their slots of [slot, K, D].

        `rope` is float32 [positions, 2, D / 2], cos and sin.
        """
        head_dim = keys.data.shape[2]
        query_THD = torch.empty(qkv_TD.shape[0], self._num_heads, head_dim, dtype=qkv_TD.dtype)
        kernel = _prepare_parallel if qkv_TD.numel() > PARALLEL_ELEMENTS else _prepare_serial
        kernel(
            bits_of(qkv_TD),
            self._has_norm,
            self._query_norm,
            self._key_norm,
            self._eps,
            rope.numpy(),
            positions_T.numpy(),
            slots_T.numpy(),
            shift_of(qkv_TD.dtype),
            bits_of(query_THD),
            *plane_arrays(keys),
            *plane_arrays(values),
        )
        return query_THD


@numba.njit(cache=True, nogil=True, fastmath=True)
def _scale_to_unit(row: Array, weight: Array, eps: np.float32) -> None:
    """float32 row to row / rms(row) * weight, in place."""
    total = np.float32(0)
    for d in range(row.shape[0]):
        total += row[d] * row[d]
    factor = np.float32(1) / np.sqrt(total / np.float32(row.shape[0]) + eps)
    for d in range(row.shape[0]):
        row[d] = row[d] * factor * weight[d]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _norm_row(x: Array, weight: Array, eps: np.float32, shift: np.uint32, out: Array) -> None:
    wide = np.empty(x.shape[0], np.uint32)
    widen(x, shift, wide)
    _scale_to_unit(wide.view(np.float32), weight, eps)
    narrow(wide, shift, out)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_norm_row(x: Array, delta: Array, weight: Array, eps: np.float32, shift: np.uint32, out: Array) -> None:
    wide, wide_delta = np.empty(x.shape[0], np.uint32), np.empty(x.shape[0], np.uint32)
    total, addend = wide.view(np.float32), wide_delta.view(np.float32)
    widen(x, shift, wide)
    widen(delta, shift, wide_delta)
    for d in range(total.shape[0]):
        total[d] += addend[d]
    narrow(wide, shift, x)
    _scale_to_unit(total, weight, eps)
    narrow(wide, shift, out)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _rotate(row: Array, cos: Array, sin: Array) -> None:
    """Turn element i with element i + D / 2, in place."""
    half = cos.shape[0]
    for d in range(half):
        first, second = row[d], row[d + half]
        row[d] = first * cos[d] - second * sin[d]
        row[d + half] = second * cos[d] + first * sin[d]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _prepare_row(
    qkv: Array,
    has_norm: bool,
    query_norm: Array,
    key_norm: Array,
    eps: np.float32,
    turn: Array,
    shift: np.uint32,
    query_HD: Array,
    slot: int,
    keys: Array,
    key_scales: Array | None,
    values: Array,
    value_scales: Array | None,
) -> None:
    num_heads, head_dim = query_HD.shape
    num_kv_heads = keys.shape[1]
    bits = np.empty(head_dim, np.uint32)
    wide = bits.view(np.float32)
    for h in range(num_heads + num_kv_heads):
        widen(qkv[h * head_dim : (h + 1) * head_dim], shift, bits)
        if has_norm:
            _scale_to_unit(wide, query_norm if h < num_heads else key_norm, eps)
        _rotate(wide, turn[0], turn[1])
        if h < num_heads:
            narrow(bits, shift, query_HD[h])
        elif key_scales is None:
            narrow(bits, shift, keys[slot, h - num_heads])
        else:
            key_scales[slot, h - num_heads] = encode(wide, keys[slot, h - num_heads])
    first_value = (num_heads + num_kv_heads) * head_dim
    for k in range(num_kv_heads):
        start = first_value + k * head_dim
        if value_scales is None:
            for d in range(head_dim):
                values[slot, k, d] = qkv[start + d]
        else:
            widen(qkv[start : start + head_dim], shift, bits)
            value_scales[slot, k] = encode(wide, values[slot, k])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _norm_serial(x: Array, weight: Array, eps: np.float32, shift: np.uint32, out: Array) -> None:
    for t in range(x.shape[0]):
        _norm_row(x[t], weight, eps, shift, out[t])


@numba.njit(cache=True, nogil=True, fastmath=True, parallel=True)
def _norm_parallel(x: Array, weight: Array, eps: np.float32, shift: np.uint32, out: Array) -> None:
    for t in numba.prange(x.shape[0]):
        _norm_row(x[t], weight, eps, shift, out[t])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_norm_serial(x: Array, delta: Array, weight: Array, eps: np.float32, shift: np.uint32, out: Array) -> None:
    for t in range(x.shape[0]):
        _add_norm_row(x[t], delta[t], weight, eps, shift, out[t])


@numba.njit(cache=True, nogil=True, fastmath=True, parallel=True)
def _add_norm_parallel(x: Array, delta: Array, weight: Array, eps: np.float32, shift: np.uint32, out: Array) -> None:
    for t in numba.prange(x.shape[0]):
        _add_norm_row(x[t], delta[t], weight, eps, shift, out[t])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _prepare_serial(
    qkv: Array,
    has_norm: bool,
    query_norm: Array,
    key_norm: Array,
    eps: np.float32,
    rope: Array,
    positions: Array,
    slots: Array,
    shift: np.uint32,
    query: Array,
    keys: Array,
    key_scales: Array | None,
    values: Array,
    value_scales: Array | None,
) -> None:
    for t in range(qkv.shape[0]):
        turn, kv = rope[positions[t]], (slots[t], keys, key_scales, values, value_scales)
        _prepare_row(qkv[t], has_norm, query_norm, key_norm, eps, turn, shift, query[t], *kv)


@numba.njit(cache=True, nogil=True, fastmath=True, parallel=True)
def _prepare_parallel(
    qkv: Array,
    has_norm: bool,
    query_norm: Array,
    key_norm: Array,
    eps: np.float32,
    rope: Array,
    positions: Array,
    slots: Array,
    shift: np.uint32,
    query: Array,
    keys: Array,
    key_scales: Array | None,
    values: Array,
    value_scales: Array | None,
) -> None:
    for t in numba.prange(qkv.shape[0]):
        turn, kv = rope[positions[t]], (slots[t], keys, key_scales, values, value_scales)
        _prepare_row(qkv[t], has_norm, query_norm, key_norm, eps, turn, shift, query[t], *kv)
