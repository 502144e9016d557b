"""One KV block as bytes that any engine can read: a header of 128 bytes, then the payload.

The payload is `[layer, key or value, token, kv_head, head_dim]`, keys after rotary embedding, in the header's dtype;
in int8 it is followed by the scales, float32 `[layer, key or value, token, kv_head]`. Little-endian throughout.

The header says which layers and heads of which model these are, the block's name and its parent's, and two checksums
(XXH3-64): of the payload, and of the header itself. **A reader never trusts a byte**: `verify` takes memory that may
hold anything and either returns what it says, or raises `BadBlock` with the fault, which is counted.

Invariant: a block whose name and model are the wanted ones and whose checksums agree is the one that was sealed.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from hashlib import blake2b
from typing import Final

import msgspec
import xxhash

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import NAME_BYTES, BlockName, KVSpec

FORMAT_VERSION: Final = 1
HEADER_BYTES: Final = 128
_MAGIC: Final = b"TWKV"
_DTYPES: Final = ("float32", "bfloat16", "float16", "int8")  # by their code in the header
_HEADER: Final = struct.Struct("<4sHBxHHHHHxxIQ16s16s16sQ")  # up to the header's own checksum
_CHECKSUM: Final = struct.Struct("<Q")
_PADDING: Final = bytes(HEADER_BYTES - _HEADER.size - _CHECKSUM.size)


class BlockFault(StrEnum):
    """Why a block that was promised could not be used."""

    MISSING = "missing"  # no tier holds it any more
    TORN = "torn"  # shorter than it says, or not a block at all
    VERSION = "version"  # of another format version
    CHECKSUM = "checksum"  # a bit has changed
    NAME = "name"  # it is another block
    MODEL = "model"  # of another model, or of another numerics class
    SPEC = "spec"  # of layers, heads or a dtype that cannot be converted
    LATE = "late"  # it did not come in time
    NO_ROOM = "no_room"  # host memory is full of blocks in use, so it could not be brought there
    UNREACHABLE = "unreachable"  # its tier failed, or the store is gone


class BadBlock(TokenworksError):
    """Memory that should hold a block does not."""

    code = "bad_block"

    def __init__(self, fault: BlockFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Header(msgspec.Struct, frozen=True):
    """What a block says of itself."""

    name: BlockName
    parent: BlockName
    model: bytes  # digest of the fingerprint
    dtype: str
    first_layer: int
    num_layers: int
    first_kv_head: int
    num_kv_heads: int
    head_dim: int
    block_tokens: int
    payload_bytes: int
    payload_checksum: int


Buffer = bytes | bytearray | memoryview


def block_bytes(spec: KVSpec) -> int:
    """Bytes of one sealed block: header and payload."""
    return HEADER_BYTES + spec.bytes_per_block


def model_digest(fingerprint: str) -> bytes:
    """What stands in a header for a model's fingerprint: 16 bytes."""
    return blake2b(fingerprint.encode(), digest_size=NAME_BYTES).digest()


def seal(block: memoryview, spec: KVSpec, name: BlockName, parent: BlockName) -> None:
    """Write the header before the payload that already stands at `block[HEADER_BYTES:]`; `block_bytes(spec)` long."""
    assert len(block) == block_bytes(spec), f"{len(block)} bytes for a block of {block_bytes(spec)}"
    payload = block[HEADER_BYTES:]
    header = _HEADER.pack(
        *(_MAGIC, FORMAT_VERSION, _DTYPES.index(spec.dtype)),
        *(spec.first_layer, spec.num_layers, spec.first_kv_head, spec.num_kv_heads, spec.head_dim),
        *(spec.block_tokens, len(payload), name, parent, model_digest(spec.fingerprint)),
        xxhash.xxh3_64_intdigest(payload),
    )
    header += _PADDING
    block[:HEADER_BYTES] = header + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(header))


def read_header(block: Buffer) -> Header:
    """What the header says, once it is known to be whole; raises BadBlock (torn, version, checksum, spec)."""
    if len(block) < HEADER_BYTES:
        raise BadBlock(BlockFault.TORN, f"{len(block)} bytes are no KV block: the header alone has {HEADER_BYTES}")
    raw = bytes(block[:HEADER_BYTES])
    fields = _HEADER.unpack_from(raw)
    magic, version, dtype_code = fields[:3]
    if magic != _MAGIC:
        raise BadBlock(BlockFault.TORN, "not a KV block: it does not begin with TWKV")
    if version != FORMAT_VERSION:
        raise BadBlock(BlockFault.VERSION, f"a KV block of format {version}; this program reads {FORMAT_VERSION}")
    if xxhash.xxh3_64_intdigest(raw[: -_CHECKSUM.size]) != _CHECKSUM.unpack_from(raw, HEADER_BYTES - _CHECKSUM.size)[0]:
        raise BadBlock(BlockFault.CHECKSUM, "the header of a KV block has changed since it was written")
    if dtype_code >= len(_DTYPES):
        raise BadBlock(BlockFault.SPEC, f"a KV block in dtype {dtype_code}, which this program does not know")
    first_layer, num_layers, first_kv_head, num_kv_heads, head_dim, block_tokens, payload_bytes = fields[3:10]
    name, parent, model, payload_checksum = fields[10:]
    return Header(
        *(name, parent, model, _DTYPES[dtype_code], first_layer, num_layers, first_kv_head, num_kv_heads),
        *(head_dim, block_tokens, payload_bytes, payload_checksum),
    )


def verify(block: Buffer, name: BlockName, fingerprint: str) -> Header:
    """The header of a whole block that bears this name and is this model's; raises BadBlock.

    Pass a private copy, or the payload may change between this check and its use.
    """
    header = read_header(block)
    if header.name != name:
        raise BadBlock(BlockFault.NAME, f"wanted block {name.hex()}, this is {header.name.hex()}")
    if header.model != model_digest(fingerprint):
        raise BadBlock(
            BlockFault.MODEL, f"block {name.hex()} was computed by another model or in another numerics class"
        )
    check_payload(block, header)
    return header


def check_payload(block: Buffer, header: Header) -> None:
    """Raises BadBlock where the payload is not the one that was sealed."""
    payload = memoryview(block)[HEADER_BYTES : HEADER_BYTES + header.payload_bytes]
    if len(payload) != header.payload_bytes:
        raise BadBlock(BlockFault.TORN, f"block {header.name.hex()} has {len(payload)} of {header.payload_bytes} bytes")
    if xxhash.xxh3_64_intdigest(payload) != header.payload_checksum:
        raise BadBlock(BlockFault.CHECKSUM, f"block {header.name.hex()} has changed since it was written")
