"""Chains of sealed blocks for tests: the same seed and length always give the same names and bytes."""

from __future__ import annotations

import random
from typing import NamedTuple

from tokenworks.contract.kv import BlockName, KVSpec, child_name, root_name
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal
from tokenworks.kv.protocol import Offered

FINGERPRINT = "store tests"
TOKEN_BYTES = 512  # 64 float32 of a key, and as many of a value


class ChainBlock(NamedTuple):
    """One of them."""

    name: BlockName
    parent: BlockName
    content: bytes

    def offered(self, recompute_s: float = 0.1) -> Offered:
        return Offered(self.name, self.parent, len(self.content), recompute_s)


def spec_of(payload_bytes: int) -> KVSpec:
    """A spec whose blocks have this payload, a multiple of 512 bytes."""
    return KVSpec(FINGERPRINT, 1, 1, 64, payload_bytes // TOKEN_BYTES, "float32")


def chain(count: int, payload_bytes: int = 8192, seed: int = 0) -> list[ChainBlock]:
    """`count` blocks, each the next one's parent."""
    spec = spec_of(payload_bytes)
    blocks: list[ChainBlock] = []
    parent = root_name(FINGERPRINT, str(seed))
    for index in range(count):
        name = child_name(parent, [index])
        block = bytearray(block_bytes(spec))
        block[HEADER_BYTES:] = random.Random(f"{seed} {index}").randbytes(payload_bytes)
        seal(memoryview(block), spec, name, parent)
        blocks.append(ChainBlock(name, parent, bytes(block)))
        parent = name
    return blocks
