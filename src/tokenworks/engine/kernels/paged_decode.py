"""Attention of one new token per sequence over its paged KV, read once, in the order in which it lies in memory.

The context of each row is cut into splits of fixed size; threads share the (row, split) items, each gives a partial
softmax (maximum, sum, weighted values), and these are then merged. The cut depends on the row alone, so that a row's
result does not depend on who else is in the batch. bf16 is widened to float32 on the way (its bits are the upper
half of a float32's), int8 codes to whole numbers: their scale meets a key's finished product and a value's weight, once
a head, not once an element. All sums are float32. Floor: the bytes of the rows' KV over the memory bandwidth.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from torch import Tensor

from tokenworks.engine.batch import DecodeRows
from tokenworks.engine.kernels.bits import Array, bits_of, narrow, plane_arrays, shift_of, widen
from tokenworks.engine.kv_cache import KVCache

SERIAL_ELEMENTS: Final = 1 << 16  # of keys: below this, waking another thread costs more than it does
_LOWEST: Final = -1e30  # below any score; no infinities, which fast maths may not see


def paged_decode(
    query_THD: Tensor, cache: KVCache, layer: int, decode: DecodeRows, window: int | None, out_THD: Tensor
) -> None:
    """Attention of decode rows [T, H, D] into `out_THD`; row t attends to its last `window` tokens (all where None)."""
    splits = decode.splits(window)
    num_heads, head_dim = query_THD.shape[1:]
    shift = shift_of(query_THD.dtype)
    partial_values = np.empty((len(splits.rows), num_heads, head_dim), np.float32)
    partial_stats = np.empty((len(splits.rows), num_heads, 2), np.float32)
    is_small = splits.num_tokens * cache.spec.num_kv_heads * head_dim <= SERIAL_ELEMENTS
    kernel = _partials_serial if is_small else _partials_parallel
    kernel(
        bits_of(query_THD),
        *plane_arrays(cache.keys(layer)),
        *plane_arrays(cache.values(layer)),
        shift,
        decode.blocks,
        cache.spec.block_tokens,
        splits.rows,
        splits.starts,
        splits.ends,
        partial_values,
        partial_stats,
    )
    _merge(splits.rows, partial_values, partial_stats, shift, bits_of(out_THD))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_scaled(total: Array, a: Array, scale: np.float32) -> None:
    for d in range(total.shape[0]):
        total[d] += scale * a[d]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _softmax_in_place(scores: Array, stats: Array) -> None:
    """Scores [H, tokens] to exp(score - max); max and sum go to stats [H, 2]."""
    for h in range(scores.shape[0]):
        top = np.float32(_LOWEST)
        for t in range(scores.shape[1]):
            top = max(top, scores[h, t])
        total = np.float32(0)
        for t in range(scores.shape[1]):
            scores[h, t] = np.exp(scores[h, t] - top)
            total += scores[h, t]
        stats[h, 0], stats[h, 1] = top, total


@numba.njit(cache=True, nogil=True, fastmath=True)
def _scaled_query(query: Array, shift: np.uint32, out: Array) -> None:
    """One row's heads [H, D] as float32, divided by sqrt(D)."""
    num_heads, head_dim = query.shape
    bits = np.empty(head_dim, np.uint32)
    wide = bits.view(np.float32)
    scale = np.float32(1 / np.sqrt(head_dim))
    for h in range(num_heads):
        widen(query[h], shift, bits)
        for d in range(head_dim):
            out[h, d] = wide[d] * scale


@numba.njit(cache=True, nogil=True, fastmath=True)
def _scores(query: Array, keys: Array, scales: Array | None, shift: np.uint32, slots: Array, scores: Array) -> None:
    """Products of float32 query heads [H, D] with the keys in `slots`, to scores [H, tokens].

    Indexes a token's heads as a whole: a slice per token and head would cost more than the arithmetic.
    """
    head_dim = query.shape[1]
    num_kv_heads = keys.shape[1]
    groups = query.shape[0] // num_kv_heads
    bits = np.empty(head_dim, np.uint32)
    wide = bits.view(np.float32)
    for t in range(slots.shape[0]):
        token = keys[slots[t]]
        for k in range(num_kv_heads):
            if scales is None:
                for d in range(head_dim):
                    bits[d] = np.uint32(token[k, d]) << shift
            else:
                for d in range(head_dim):
                    wide[d] = np.float32(token[k, d])
            for h in range(k * groups, (k + 1) * groups):
                total = np.float32(0)
                for d in range(head_dim):
                    total += query[h, d] * wide[d]
                scores[h, t] = total if scales is None else total * scales[slots[t], k]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _weighted_values(
    scores: Array, values: Array, scales: Array | None, shift: np.uint32, slots: Array, out: Array
) -> None:
    """Sum of the values in `slots`, weighted by scores [H, tokens], to out [H, D]."""
    head_dim = out.shape[1]
    num_kv_heads = values.shape[1]
    groups = out.shape[0] // num_kv_heads
    bits = np.empty(head_dim, np.uint32)
    wide = bits.view(np.float32)
    out[:] = 0
    for t in range(slots.shape[0]):
        token = values[slots[t]]
        for k in range(num_kv_heads):
            if scales is None:
                for d in range(head_dim):
                    bits[d] = np.uint32(token[k, d]) << shift
            else:
                for d in range(head_dim):
                    wide[d] = np.float32(token[k, d])
            for h in range(k * groups, (k + 1) * groups):
                weight = scores[h, t] if scales is None else scores[h, t] * scales[slots[t], k]
                for d in range(head_dim):
                    out[h, d] += weight * wide[d]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _one_split(
    query: Array,
    keys: Array,
    key_scales: Array | None,
    values: Array,
    value_scales: Array | None,
    shift: np.uint32,
    slots: Array,
    out: Array,
    stats: Array,
) -> None:
    """Partial attention of one row [H, D] over the tokens in `slots`."""
    scaled = np.empty(query.shape, np.float32)
    scores = np.empty((query.shape[0], slots.shape[0]), np.float32)
    _scaled_query(query, shift, scaled)
    _scores(scaled, keys, key_scales, shift, slots, scores)
    _softmax_in_place(scores, stats)
    _weighted_values(scores, values, value_scales, shift, slots, out)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _slots(table: Array, start: int, end: int, block_tokens: int) -> Array:
    """Where tokens [start, end) of a sequence lie."""
    slots = np.empty(end - start, np.int64)
    for t in range(end - start):
        slots[t] = table[(start + t) // block_tokens] * np.int64(block_tokens) + (start + t) % block_tokens
    return slots


@numba.njit(cache=True, nogil=True, fastmath=True)
def _partials_serial(
    query: Array,
    keys: Array,
    key_scales: Array | None,
    values: Array,
    value_scales: Array | None,
    shift: np.uint32,
    blocks: Array,
    block_tokens: int,
    rows: Array,
    starts: Array,
    ends: Array,
    out: Array,
    stats: Array,
) -> None:
    """Every piece's partial attention: out [pieces, H, D], stats [pieces, H, 2]."""
    for i in range(rows.shape[0]):
        slots = _slots(blocks[rows[i]], starts[i], ends[i], block_tokens)
        _one_split(query[rows[i]], keys, key_scales, values, value_scales, shift, slots, out[i], stats[i])


@numba.njit(cache=True, nogil=True, fastmath=True, parallel=True)
def _partials_parallel(
    query: Array,
    keys: Array,
    key_scales: Array | None,
    values: Array,
    value_scales: Array | None,
    shift: np.uint32,
    blocks: Array,
    block_tokens: int,
    rows: Array,
    starts: Array,
    ends: Array,
    out: Array,
    stats: Array,
) -> None:
    """The same, shared by the threads."""
    for i in numba.prange(rows.shape[0]):
        slots = _slots(blocks[rows[i]], starts[i], ends[i], block_tokens)
        _one_split(query[rows[i]], keys, key_scales, values, value_scales, shift, slots, out[i], stats[i])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _merge_head(partial: Array, stats: Array, merged: Array) -> None:
    top = np.float32(_LOWEST)
    for i in range(stats.shape[0]):
        top = max(top, stats[i, 0])
    total = np.float32(0)
    merged[:] = 0
    for i in range(stats.shape[0]):
        weight = np.exp(stats[i, 0] - top)
        total += weight * stats[i, 1]
        _add_scaled(merged, partial[i], weight)
    for d in range(merged.shape[0]):
        merged[d] /= total


@numba.njit(cache=True, nogil=True, fastmath=True)
def _merge(rows: Array, partial: Array, stats: Array, shift: np.uint32, out: Array) -> None:
    """Combine the splits of each row into out [T, H, D]."""
    bits = np.empty(out.shape[2], np.uint32)
    merged = bits.view(np.float32)
    first = 0
    while first < rows.shape[0]:
        last = first
        while last < rows.shape[0] and rows[last] == rows[first]:
            last += 1
        for h in range(out.shape[1]):
            _merge_head(partial[first:last, h], stats[first:last, h], merged)
            narrow(bits, shift, out[rows[first], h])
        first = last
