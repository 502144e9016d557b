"""KV memory in OpenVINO's layout, owned by us: the graph's inputs `key_cache.N` and `value_cache.N` view it.

Layout `[layer, k|v, page, kv_head, slot of the page, head_dim]`: a head's tokens of one page lie together, where the
neutral format and our own engine have a token's heads together. Reading or writing a block turns one into the other
while it copies. Keys are stored after rotary embedding in both. A page has 32 tokens on CPU; a block is whole pages.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.kv import KVSpec
from tokenworks.engine.openvino.constants import ELEMENT_TYPES, as_integers
from tokenworks.engine.openvino.library import ov

PAGE_TOKENS: Final = 32  # of OpenVINO's CPU plugin
NAMES: Final = ("key_cache", "value_cache")


def check_block_tokens(block_tokens: int) -> None:
    """Raises ConfigError where blocks are not whole pages."""
    if block_tokens % PAGE_TOKENS:
        raise ConfigError(
            f"block_tokens = {block_tokens}: OpenVINO pages KV by {PAGE_TOKENS} tokens on CPU; give a multiple, "
            "the same for the whole pool"
        )


class OpenVINOCache:
    """Keys and values of `num_blocks` blocks for every layer; reserved at start, touched as it is used."""

    def __init__(self, spec: KVSpec, num_blocks: int) -> None:
        check_block_tokens(spec.block_tokens)
        self.spec = spec
        self.num_blocks = num_blocks
        self._pages_per_block = spec.block_tokens // PAGE_TOKENS
        pages = num_blocks * self._pages_per_block
        shape = (spec.num_layers, 2, pages, spec.num_kv_heads, PAGE_TOKENS, spec.head_dim)
        self.data = torch.empty(shape, dtype=getattr(torch, spec.dtype))
        self._integers = as_integers(self.data)

    def tensors(self) -> dict[str, Any]:
        """OpenVINO tensors over this memory, by the name of the graph's input."""
        return {
            f"{name}.{layer}": self._tensor(self.data[layer, which])
            for layer in range(self.spec.num_layers)
            for which, name in enumerate(NAMES)
        }

    def read_block(self, block: int, out: memoryview) -> None:
        """Copy a block to `out` in the neutral layout: see `BlockMemory`."""
        own = self._block(block)
        self._payload(out).reshape(own.shape)[:] = own

    def write_block(self, block: int, payload: memoryview) -> None:
        """Fill a block from the neutral layout."""
        own = self._block(block)
        own[:] = self._payload(payload).reshape(own.shape)

    def _block(self, block: int) -> NDArray[Any]:
        """A view [layer, k|v, page of the block, slot of the page, kv_head, head_dim]."""
        first = block * self._pages_per_block
        view: NDArray[Any] = self._integers[:, :, first : first + self._pages_per_block].swapaxes(3, 4)
        return view

    def _payload(self, memory: memoryview) -> NDArray[Any]:
        assert memory.nbytes == self.spec.bytes_per_block, f"{memory.nbytes} bytes for {self.spec.bytes_per_block}"
        return np.frombuffer(memory, self._integers.dtype)

    def _tensor(self, plane: Tensor) -> Any:
        return ov.Tensor(as_integers(plane), ov.Shape(list(plane.shape)), ELEMENT_TYPES[plane.dtype])
