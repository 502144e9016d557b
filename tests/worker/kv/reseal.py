"""Blocks that are sound and of no use: their checksums agree, and what they say of themselves is another's."""

from __future__ import annotations

import struct

import msgspec
import xxhash

from tokenworks.contract.kv import KVSpec
from tokenworks.kv.format import FORMAT_VERSION, HEADER_BYTES, read_header, seal


def reseal(block: memoryview, spec: KVSpec, kind: str) -> None:
    """Make a block of this spec one of another model, of a spec with other heads, or of another version's format."""
    header = read_header(block)
    if kind == "version":
        struct.pack_into("<H", block, 4, FORMAT_VERSION + 1)
        checksum = xxhash.xxh3_64_intdigest(bytes(block[: HEADER_BYTES - 8]))
        struct.pack_into("<Q", block, HEADER_BYTES - 8, checksum)
        return
    others = {
        "model": msgspec.structs.replace(spec, fingerprint="another model"),
        "spec": msgspec.structs.replace(spec, head_dim=spec.head_dim // 2, num_kv_heads=spec.num_kv_heads * 2),
    }
    seal(block, others[kind], header.name, header.parent)
