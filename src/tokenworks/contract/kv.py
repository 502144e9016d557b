"""Names of KV blocks, and what a worker says of the KV it can hold.

A block is named by what it contains: `H(parent name, token ids)`, starting from a root that covers the model's
fingerprint and the tenant's salt. Two blocks with one name hold the same keys and values, wherever they were computed,
so a name is all that a router, a tier or another worker needs. Only full blocks have names.

Where a pool demands exactness the fingerprint covers the numerics class too (dtype of activations, form of weights,
dtype of KV), so that unlike engines share nothing; where it does not, a name stands for the same tokens under the same
weights, and a block says in its header in which dtype it is stored.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Final

import msgspec

NAME_BYTES: Final = 16
SCALE_BYTES: Final = 4
"""int8 only: one float32 for a token's key, or value, of one layer and head."""

BlockName = bytes


class Tier(StrEnum):
    """Where a block is, from near to far."""

    DEVICE = "device"  # a worker's own memory
    HOST = "host"  # the store's shared memory
    DISK = "disk"
    REMOTE = "remote"


class KVSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The KV that a worker computes and can hold."""

    fingerprint: str  # of weights, config and rotary parameters; of the numerics class too where exactness is asked for
    num_layers: int  # held, from first_layer on
    num_kv_heads: int  # held, from first_kv_head on
    head_dim: int
    block_tokens: int
    dtype: str  # of what is stored: "int8" comes with a scale a head
    numerics: str = ""  # its class, such as "bfloat16" or "bfloat16, weights int8": shown in tables
    first_layer: int = 0
    first_kv_head: int = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        itemsize = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1}[self.dtype]
        head_bytes = self.head_dim * itemsize + (SCALE_BYTES if self.is_quantized else 0)
        return 2 * self.num_layers * self.num_kv_heads * head_bytes

    @property
    def bytes_per_block(self) -> int:
        """Bytes of a full block's payload, scales included."""
        return self.bytes_per_token * self.block_tokens

    @property
    def is_quantized(self) -> bool:
        """Whether keys and values are stored as whole numbers with scales."""
        return self.dtype == "int8"


def root_name(fingerprint: str, salt: str = "") -> BlockName:
    """The parent of every first block of one model and one tenant salt."""
    return blake2b(f"{fingerprint}\0{salt}".encode(), digest_size=NAME_BYTES).digest()


def child_name(parent: BlockName, token_ids: Sequence[int]) -> BlockName:
    """The name of the block that holds `token_ids` after `parent`."""
    return blake2b(array("I", token_ids).tobytes(), digest_size=NAME_BYTES, key=parent).digest()


def block_names(root: BlockName, token_ids: Sequence[int], block_tokens: int) -> list[BlockName]:
    """The chained names of all full blocks of `token_ids`, in order."""
    names: list[BlockName] = []
    parent = root
    for start in range(0, len(token_ids) - block_tokens + 1, block_tokens):
        parent = child_name(parent, token_ids[start : start + block_tokens])
        names.append(parent)
    return names
