"""Blocks in OpenVINO's layout, read and written as neutral ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'tokenworks[openvino]'")

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.kv import KVSpec
from tokenworks.engine.kv_cache import KVCache
from tokenworks.engine.openvino.cache import OpenVINOCache


def spec_of(dtype: str, block_tokens: int) -> KVSpec:
    return KVSpec("f", num_layers=3, num_kv_heads=2, head_dim=20, block_tokens=block_tokens, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block_tokens", [32, 64])
def test_a_block_of_our_own_cache_stands_where_openvino_looks_for_it(dtype: str, block_tokens: int) -> None:
    spec = spec_of(dtype, block_tokens)
    own, other = KVCache(spec, 4), OpenVINOCache(spec, 4)
    own.data.copy_(torch.randn(own.data.shape))
    payload = bytearray(spec.bytes_per_block)
    own.read_block(1, memoryview(payload))
    other.write_block(2, memoryview(bytes(payload)))  # read-only, as what comes from a store may be
    pages = other.data[:, :, 2 * block_tokens // 32 : 3 * block_tokens // 32]
    for layer in range(3):
        for which in range(2):
            for token in range(block_tokens):
                expected = own.data[layer, which, block_tokens + token]
                assert torch.equal(pages[layer, which, token // 32, :, token % 32], expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_read_is_what_was_written_and_nothing_else_changes(dtype: str) -> None:
    spec = spec_of(dtype, 64)
    cache = OpenVINOCache(spec, 5)
    cache.data.zero_()
    payload = np.random.default_rng(1).integers(0, 256, spec.bytes_per_block, np.uint8).tobytes()  # NaN among them
    cache.write_block(3, memoryview(payload))
    found = bytearray(len(payload))
    cache.read_block(3, memoryview(found))
    assert found == payload
    for block in (0, 1, 2, 4):
        cache.read_block(block, memoryview(found))
        assert not any(found)


def test_openvino_sees_the_memory_itself() -> None:
    cache = OpenVINOCache(spec_of("float32", 32), 2)
    cache.data.zero_()
    tensors = cache.tensors()
    assert sorted(tensors) == sorted(f"{name}.{n}" for name in ("key_cache", "value_cache") for n in range(3))
    cache.data[2, 1, 1, 0, 5, 7] = 4.5
    assert tensors["value_cache.2"].data[1, 0, 5, 7] == 4.5


@pytest.mark.parametrize("block_tokens", [1, 16, 48, 100])
def test_blocks_that_are_not_whole_pages_are_refused(block_tokens: int) -> None:
    with pytest.raises(ConfigError, match=f"block_tokens = {block_tokens}.*multiple"):
        OpenVINOCache(spec_of("float32", block_tokens), 2)
