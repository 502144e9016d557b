"""A block of KV memory as neutral bytes: out of one cache, into another, whatever the dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.kv_cache import KVCache

each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])


def spec_of(dtype: str) -> KVSpec:
    return KVSpec("f", num_layers=3, num_kv_heads=2, head_dim=16, block_tokens=4, dtype=dtype)


@each_dtype
def test_a_block_is_read_in_the_neutral_layout(dtype: str, random_cache: Callable[..., KVCache]) -> None:
    spec = spec_of(dtype)
    cache = random_cache(spec, 5)
    out = memoryview(bytearray(spec.bytes_per_block))
    cache.read_block(3, out)
    expected = bytes(cache.data[:, :, 12:16].contiguous().view(torch.uint8).numpy())
    if cache.scales is not None:
        expected += bytes(cache.scales[:, :, 12:16].contiguous().numpy())
    assert bytes(out) == expected


@each_dtype
def test_a_block_that_is_written_is_the_one_that_was_read_and_touches_no_other(
    dtype: str, random_cache: Callable[..., KVCache]
) -> None:
    spec = spec_of(dtype)
    source, target = random_cache(spec, 5), random_cache(spec, 3)
    payload = bytearray(spec.bytes_per_block)
    before = [blocks_of(target, block) for block in range(3)]
    source.read_block(4, memoryview(payload))
    target.write_block(1, memoryview(bytes(payload)))  # read-only memory will do
    assert blocks_of(target, 1) == blocks_of(source, 4)
    assert [blocks_of(target, block) for block in (0, 2)] == [before[0], before[2]]


def blocks_of(cache: KVCache, block: int) -> list[Any]:
    """What a block holds, as numbers."""
    slots = slice(block * cache.spec.block_tokens, (block + 1) * cache.spec.block_tokens)
    parts = [cache.data] if cache.scales is None else [cache.data, cache.scales]
    return [part[:, :, slots].float().tolist() for part in parts]
