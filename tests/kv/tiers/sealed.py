"""Sealed blocks for tests: the same number always gives the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tokenworks.contract.kv import BlockName, KVSpec, child_name, root_name
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal, verify
from tokenworks.kv.tiers.tier import BlockTier

FINGERPRINT = "tiers"
BYTES_PER_TOKEN = 8  # one layer, one head, one number for the key and one for the value


def sealed(number: int, payload_bytes: int = 4096) -> tuple[BlockName, memoryview]:
    """A block's name, and the block; `payload_bytes` is a multiple of 8."""
    spec = KVSpec(FINGERPRINT, 1, 1, 1, payload_bytes // BYTES_PER_TOKEN, "float32")
    parent = root_name(FINGERPRINT)
    name = child_name(parent, [number])
    block = bytearray(block_bytes(spec))
    block[HEADER_BYTES:] = random.Random(number).randbytes(payload_bytes)
    seal(memoryview(block), spec, name, parent)
    return name, memoryview(bytes(block))


def fill(tier: BlockTier, numbers: Iterable[int], payload_bytes: int, put: dict[BlockName, memoryview]) -> None:
    """Put one block after the other, and note each in `put`, until the tier raises."""
    for number in numbers:
        name, block = sealed(number, payload_bytes)
        tier.put(name, block)
        put[name] = block


def is_whole(block: memoryview | bytes, name: BlockName) -> bool:
    """Whether a reader would take this for the block of that name; raises BadBlock where not."""
    return verify(block, name, FINGERPRINT).name == name
