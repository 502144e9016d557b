"""What the rest of the system may do with an engine's KV memory: one block out, one block in, in the neutral layout.

How an engine keeps its blocks is its own affair: a model makes the memory that its steps read and write
(`Model.make_cache`). The payload of a block is the same for all: `[layer, key or value, token, kv_head, head_dim]` in
the spec's dtype, keys after rotary embedding, and in int8 the scales behind it (see kv/format.py).
"""

from __future__ import annotations

from typing import Protocol


class BlockMemory(Protocol):
    """KV blocks of one engine, numbered from 0."""

    def read_block(self, block: int, out: memoryview) -> None:
        """Copy a block to `out`: writable, contiguous, `KVSpec.bytes_per_block` bytes."""

    def write_block(self, block: int, payload: memoryview) -> None:
        """Fill a block from `payload`, as long, which may lie anywhere and is not kept."""
