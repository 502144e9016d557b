"""Attention of one new token per sequence over its paged KV, read once, in the order in which it lies in memory.

The context of each row is cut into splits of fixed size; threads share the (row, split) items, each gives a partial
softmax (maximum, sum, weighted values), and these are then merged. The cut depends on the row alone, so that a row's
result does not depend on who else is in the batch. bf16 is widened to float32 on the way (its bits are the upper
half of a float32's), and all sums are float32. Floor: the bytes of the rows' KV over the memory bandwidth.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenworks.engine.batch import StepBatch
from tokenworks.engine.kv_cache import KVCache

SPLIT_TOKENS: Final = 128
_LOWEST: Final = -1e30  # below any score; no infinities, which fast maths may not see

Array = NDArray[Any]


def paged_decode(
    query_THD: Tensor, cache: KVCache, layer: int, batch: StepBatch, window: int | None, out_THD: Tensor
) -> None:
    """Attention of decode rows [T, H, D] into `out_THD`; row t attends to its last `window` tokens (all where None)."""
    lengths = batch.decode_lengths
    firsts = np.zeros_like(lengths) if window is None else np.maximum(lengths - window, 0)
    rows, starts = _items(firsts, lengths)
    num_heads, head_dim = query_THD.shape[1:]
    partial_values = np.empty((len(rows), num_heads, head_dim), np.float32)
    partial_stats = np.empty((len(rows), num_heads, 2), np.float32)
    out = np.empty(query_THD.shape, np.float32)
    _partials(
        (query_THD.float() * head_dim**-0.5).numpy(),
        _bits(cache.keys(layer)),
        _bits(cache.values(layer)),
        np.uint32(16 if cache.data.dtype == torch.bfloat16 else 0),
        batch.decode_blocks,
        cache.spec.block_tokens,
        rows,
        starts,
        np.minimum(starts + SPLIT_TOKENS, lengths[rows]),
        partial_values,
        partial_stats,
    )
    _merge(rows, partial_values, partial_stats, out)
    out_THD.copy_(torch.from_numpy(out))


def _bits(tensor: Tensor) -> Array:
    """The tensor's memory as unsigned integers of its element size."""
    return tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint32).numpy()


def _items(firsts: Array, lengths: Array) -> tuple[Array, Array]:
    """Row and first token of every split; a row's splits follow each other."""
    counts = -(-(lengths - firsts) // SPLIT_TOKENS)
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)
    within = np.arange(len(rows), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts).astype(np.int32)
    return rows, firsts[rows] + within * np.int32(SPLIT_TOKENS)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _widen(bits: Array, shift: np.uint32, into: Array) -> None:
    for d in range(bits.shape[0]):
        into[d] = np.uint32(bits[d]) << shift


@numba.njit(cache=True, nogil=True, fastmath=True)
def _dot(a: Array, b: Array) -> np.float32:
    total = np.float32(0)
    for d in range(a.shape[0]):
        total += a[d] * b[d]
    return total


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
def _one_split(
    query: Array, keys: Array, values: Array, shift: np.uint32, slots: Array, out: Array, stats: Array
) -> None:
    """Partial attention of one row [H, D] over the tokens in `slots`."""
    num_heads, head_dim = query.shape
    num_kv_heads = keys.shape[1]
    groups = num_heads // num_kv_heads
    bits = np.empty(head_dim, np.uint32)
    wide = bits.view(np.float32)
    scores = np.empty((num_heads, slots.shape[0]), np.float32)
    for t in range(slots.shape[0]):
        for k in range(num_kv_heads):
            _widen(keys[slots[t], k], shift, bits)
            for h in range(k * groups, (k + 1) * groups):
                scores[h, t] = _dot(query[h], wide)
    _softmax_in_place(scores, stats)
    out[:] = 0
    for t in range(slots.shape[0]):
        for k in range(num_kv_heads):
            _widen(values[slots[t], k], shift, bits)
            for h in range(k * groups, (k + 1) * groups):
                _add_scaled(out[h], wide, scores[h, t])


@numba.njit(cache=True, nogil=True, fastmath=True, parallel=True)
def _partials(
    query: Array,
    keys: Array,
    values: Array,
    shift: np.uint32,
    blocks: Array,
    block_tokens: int,
    rows: Array,
    starts: Array,
    ends: Array,
    out: Array,
    stats: Array,
) -> None:
    """Every item's partial attention: out [items, H, D], stats [items, H, 2]."""
    for item in numba.prange(rows.shape[0]):
        table = blocks[rows[item]]
        slots = np.empty(ends[item] - starts[item], np.int64)
        for t in range(slots.shape[0]):
            position = starts[item] + t
            slots[t] = table[position // block_tokens] * np.int64(block_tokens) + position % block_tokens
        _one_split(query[rows[item]], keys, values, shift, slots, out[item], stats[item])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _merge(rows: Array, partial: Array, stats: Array, out: Array) -> None:
    """Combine the splits of each row into out [T, H, D]."""
    first = 0
    while first < rows.shape[0]:
        last = first
        while last < rows.shape[0] and rows[last] == rows[first]:
            last += 1
        for h in range(out.shape[1]):
            top = np.float32(_LOWEST)
            for i in range(first, last):
                top = max(top, stats[i, h, 0])
            total = np.float32(0)
            merged = out[rows[first], h]
            merged[:] = 0
            for i in range(first, last):
                weight = np.exp(stats[i, h, 0] - top)
                total += weight * stats[i, h, 1]
                _add_scaled(merged, partial[i, h], weight)
            for d in range(merged.shape[0]):
                merged[d] /= total
        first = last
