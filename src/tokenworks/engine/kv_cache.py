"""The engine's own KV memory: one tensor, paged into blocks of token slots.

Layout `[layer, k|v, slot, kv_head, head_dim]`, where slot = block * block_tokens + position in the block: a block's
tokens lie next to each other with all their heads, which is how attention streams them and how the neutral format is.
Keys are stored after rotary embedding. The memory is reserved at start and touched as it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenworks.contract.kv import KVSpec


class KVCache:
    """Keys and values of `num_blocks` blocks for every layer."""

    def __init__(self, spec: KVSpec, num_blocks: int) -> None:
        self.spec = spec
        self.num_blocks = num_blocks
        slots = num_blocks * spec.block_tokens
        shape = (spec.num_layers, 2, slots, spec.num_kv_heads, spec.head_dim)
        self.data = torch.empty(shape, dtype=getattr(torch, spec.dtype))

    def keys(self, layer: int) -> Tensor:
        """[slot, kv_head, head_dim], shared memory."""
        return self.data[layer, 0]

    def values(self, layer: int) -> Tensor:
        """[slot, kv_head, head_dim], shared memory."""
        return self.data[layer, 1]
