"""Attention over paged KV: decode rows through a streaming kernel, prefill chunks through PyTorch's fused attention.

Shape suffixes: T rows, H query heads, K kv heads, D head_dim, N new tokens of one chunk, L tokens it attends to.
Query head h reads kv head h // (H / K). A window of w lets position i attend to positions i-w+1..i.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.engine.batch import PrefillChunk, StepBatch
from tokenworks.engine.kernels.paged_decode import paged_decode
from tokenworks.engine.kv_cache import KVCache


def attend(query_THD: Tensor, cache: KVCache, layer: int, batch: StepBatch, window: int | None) -> Tensor:
    """Attention of every row to its sequence's KV, which already holds the rows' own: [T, H, D]."""
    out_THD = torch.empty_like(query_THD)
    if len(batch.decode):
        rows = slice(0, len(batch.decode))
        paged_decode(query_THD[rows], cache, layer, batch.decode, window, out_THD[rows])
    for chunk in batch.prefill:
        rows = slice(chunk.first_row, chunk.first_row + chunk.num_tokens)
        out_THD[rows] = _prefill(query_THD[rows], cache, layer, chunk, window)
    return out_THD


def _prefill(query_NHD: Tensor, cache: KVCache, layer: int, chunk: PrefillChunk, window: int | None) -> Tensor:
    slots = chunk.slots
    first = 0 if window is None else max(0, chunk.context_tokens - window + 1)  # what no row can see is not read
    key_LKD = cache.keys(layer).read(slots[first:], query_NHD.dtype)
    value_LKD = cache.values(layer).read(slots[first:], query_NHD.dtype)
    is_plain = chunk.context_tokens == 0 and (window is None or chunk.num_tokens <= window)
    mask = None if is_plain else _mask(chunk, first, window)
    out_HND = F.scaled_dot_product_attention(
        query_NHD.transpose(0, 1)[None],
        key_LKD.transpose(0, 1)[None],
        value_LKD.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=is_plain,
        enable_gqa=True,
    )
    return out_HND[0].transpose(0, 1)


def _mask(chunk: PrefillChunk, first: int, window: int | None) -> Tensor:
    """bool [N, L]: True where the row may look."""
    rows_N1 = torch.arange(chunk.context_tokens, chunk.context_tokens + chunk.num_tokens)[:, None]
    columns_1L = torch.arange(first, chunk.context_tokens + chunk.num_tokens)[None, :]
    mask = columns_1L <= rows_N1
    return mask if window is None else mask & (columns_1L > rows_N1 - window)
