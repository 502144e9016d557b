"""vLLM's KV cache on a CPU, block by block, in the order of the neutral format.

Per layer vLLM keeps `[blocks, kv_heads, block_tokens, 2 * head_dim]`, but only as a size: inside one head's part of a
block stand first all keys, then all values, each in the tiles that the attention kernel of this CPU wants (AMX,
AVX-512, NEON, ...). Writing goes through vLLM's own operator. For reading there is none, and the tiles are the kernel's
private affair, so their order is *learnt*: numbered entries are written through the operator, and where each number
stands is where each entry stands. An order that is no permutation is refused at start, and no block is ever guessed at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Writer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Writes tokens `[2, tokens, kv_heads, head_dim]` to these slots of a key and a value cache."""
DIGIT = 256  # whole numbers up to here are exact in bfloat16, and so is each digit of an entry's number


class CpuLayout:
    """Of one model on one CPU. KV here is `[2, block_tokens, kv_heads, head_dim]`: keys, then values."""

    def __init__(self, writer: Writer, block_tokens: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        """Raises RuntimeError where the cache cannot be read back."""
        self._shape = (2, block_tokens, num_kv_heads, head_dim)
        self._writer = writer
        self._order = torch.stack([self._learn(side, dtype) for side in (0, 1)])

    def read(self, cache: torch.Tensor, block: int) -> torch.Tensor:
        """A copy of one layer's block."""
        _, tokens, heads, dim = self._shape
        tiles = cache[block].reshape(heads, 2, tokens * dim)
        sides = [tiles[:, side].index_select(1, self._order[side]) for side in (0, 1)]
        return torch.stack(sides).view(2, heads, tokens, dim).transpose(1, 2)

    def write(self, cache: torch.Tensor, block: int, kv: torch.Tensor) -> None:
        """Put a whole block into one layer."""
        tokens = self._shape[1]
        slots = torch.arange(block * tokens, (block + 1) * tokens)
        self._writer(kv, *_sides(cache), slots)

    def _learn(self, side: int, dtype: torch.dtype) -> torch.Tensor:
        """Where in the tiles of one head each entry stands that is `[token, head_dim]` outside."""
        _, tokens, heads, dim = self._shape
        numbers = torch.arange(tokens * dim)
        found = torch.zeros(tokens * dim, dtype=torch.long)
        for scale in (1, DIGIT):
            digit = (numbers // scale % DIGIT).to(dtype).view(tokens, 1, dim).expand(tokens, heads, dim).contiguous()
            cache = torch.full((1, heads, tokens, 2 * dim), -1, dtype=dtype)
            kv = torch.zeros((2, tokens, heads, dim), dtype=dtype)
            kv[side] = digit
            self.write(cache, 0, kv)
            found += cache.view(heads, 2, tokens * dim)[0, side].long() * scale
        if not torch.equal(found.sort().values, numbers):
            raise RuntimeError("vLLM's KV cache is no permutation of its entries: it cannot be shared")
        return found.argsort()


def _sides(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    blocks, heads, tokens, width = cache.shape
    keys, values = cache.view(blocks, heads, 2 * tokens, width // 2).chunk(2, dim=2)
    return keys, values
