"""The decode kernel against PyTorch's attention on gathered keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.batch import SPLIT_TOKENS, DecodeRows
from tokenworks.engine.kernels.paged_decode import paged_decode
from tokenworks.engine.kv_cache import KVCache

BLOCK = 16


RandomCache = Callable[[KVSpec, int], KVCache]


def expected_row(query_HD: torch.Tensor, cache: KVCache, blocks: Any, length: int, window: int | None) -> torch.Tensor:
    slots = (torch.as_tensor(blocks)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()[:length].long()
    slots = slots if window is None else slots[-window:]
    groups = query_HD.shape[0] // cache.spec.num_kv_heads
    key_HLD = cache.keys(1).read(slots, torch.float32).repeat_interleave(groups, 1).transpose(0, 1)
    value_HLD = cache.values(1).read(slots, torch.float32).repeat_interleave(groups, 1).transpose(0, 1)
    return F.scaled_dot_product_attention(query_HD.float()[:, None], key_HLD, value_HLD)[:, 0]


@pytest.mark.parametrize("window", [None, 1, 20, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 8e-3), ("int8", 4e-6)])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 4, 32), (6, 2, 64), (16, 8, 128), (3, 1, 80), (2, 1, 20)]
)
def test_equals_dense_attention(
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str,
    tolerance: float,
    window: int | None,
    random_cache: RandomCache,
) -> None:
    torch.manual_seed(0)
    lengths = np.array([1, BLOCK, BLOCK + 1, SPLIT_TOKENS, SPLIT_TOKENS + 1, 3 * SPLIT_TOKENS - 5], np.int32)
    width = -(-int(lengths.max()) // BLOCK)
    cache = random_cache(KVSpec("f", 2, kv_heads, head_dim, BLOCK, dtype), len(lengths) * width)
    blocks = np.random.default_rng(0).permutation(cache.num_blocks).astype(np.int32).reshape(len(lengths), width)
    query = torch.randn(len(lengths), heads, head_dim).to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    out = torch.empty_like(query)
    batch = DecodeRows(blocks, lengths, np.arange(len(lengths), dtype=np.int32))
    paged_decode(query, cache, 1, batch, window, out)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            out[row].float(),
            expected_row(query[row], cache, blocks[row], int(length), window),
            atol=tolerance,
            rtol=tolerance,
        )


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_row_is_the_same_bit_for_bit_whoever_else_is_in_the_batch(dtype: str, random_cache: RandomCache) -> None:
    torch.manual_seed(1)
    cache = random_cache(KVSpec("f", 2, 2, 32, BLOCK, dtype), 60)
    blocks = np.arange(60, dtype=np.int32).reshape(3, 20)
    query = torch.randn(3, 4, 32)
    together = torch.empty_like(query)
    lengths = np.array([300, 77, 1], np.int32)
    batch = DecodeRows(blocks, lengths, np.arange(len(lengths), dtype=np.int32))
    paged_decode(query, cache, 0, batch, None, together)
    for row in range(3):
        alone = torch.empty_like(query[:1])
        batch = DecodeRows(blocks[row : row + 1], lengths[row : row + 1], np.zeros(1, dtype=np.int32))
        paged_decode(query[row : row + 1], cache, 0, batch, None, alone)
        assert torch.equal(alone[0], together[row])
