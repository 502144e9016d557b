"""What a reader believes of a block: one sealed, whole, of the wanted name and model; of anything else, why not."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.contract.kv import KVSpec, child_name, root_name
from tokenworks.kv.format import (
    FORMAT_VERSION,
    HEADER_BYTES,
    BadBlock,
    BlockFault,
    block_bytes,
    model_digest,
    read_header,
    seal,
    verify,
)

PRINT = "format tests"
ROOT = root_name(PRINT)
NAME = child_name(ROOT, [1, 2, 3])
SPECS = {
    dtype: KVSpec(PRINT, 2, 3, 4, 5, dtype, first_layer=7, first_kv_head=9)
    for dtype in ("float32", "bfloat16", "float16", "int8")
}
VERSION_AT, DTYPE_AT, CHECKSUM_AT = 4, 6, HEADER_BYTES - 8


def sealed(spec: KVSpec = SPECS["float32"]) -> bytearray:
    block = bytearray(block_bytes(spec))
    block[HEADER_BYTES:] = random.Random(spec.dtype).randbytes(spec.bytes_per_block)
    seal(memoryview(block), spec, NAME, ROOT)
    return block


def fault_of(block: bytes | bytearray, name: bytes = NAME, fingerprint: str = PRINT) -> BlockFault:
    with pytest.raises(BadBlock) as raised:
        verify(block, name, fingerprint)
    return raised.value.fault


def resealed(block: bytearray) -> bytearray:
    """With a header's checksum that agrees: what another release, or a liar, would write."""
    block[CHECKSUM_AT:HEADER_BYTES] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(block[:CHECKSUM_AT])))
    return block


@pytest.mark.parametrize("dtype", SPECS)
def test_a_header_says_what_was_sealed(dtype: str) -> None:
    spec = SPECS[dtype]
    block = sealed(spec)
    header = verify(block, NAME, PRINT)
    assert (header.name, header.parent, header.model) == (NAME, ROOT, model_digest(PRINT))
    assert header.payload_bytes == spec.bytes_per_block == len(block) - HEADER_BYTES
    said = {field: getattr(header, field) for field in header.__struct_fields__ if hasattr(spec, field)}
    assert said == {field: getattr(spec, field) for field in said}
    assert said.keys() >= {"dtype", "first_layer", "num_layers", "first_kv_head", "num_kv_heads", "head_dim"}


def test_the_first_bytes_are_what_every_release_wrote() -> None:
    """Written out by hand once, so that a block on a disk cannot come to mean something else."""
    assert sealed()[:32].hex() == "54574b560100000007000200090003000400000005000000" + (
        struct.pack("<Q", 2 * 2 * 3 * 4 * 5 * 4).hex()
    )


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_no_bit_flips_unseen(dtype: str) -> None:
    """Every bit of the header, its padding and both checksums, of the payload's first and last bytes, and of scales."""
    block = sealed(SPECS[dtype])
    places = [*range(HEADER_BYTES + 8), *range(len(block) - 8, len(block))]
    for at in places:
        for bit in range(8):
            block[at] ^= 1 << bit
            expected = {BlockFault.TORN} if at < VERSION_AT else {BlockFault.CHECKSUM}
            expected |= {BlockFault.VERSION} if VERSION_AT <= at < DTYPE_AT else set()
            assert fault_of(block) in expected, (at, bit)
            block[at] ^= 1 << bit
    verify(block, NAME, PRINT)


def test_no_block_is_read_out_of_one_that_was_cut() -> None:
    block = sealed()
    for length in range(len(block)):
        assert fault_of(block[:length]) is BlockFault.TORN, length
    verify(block + b"what a file may have behind it", NAME, PRINT)  # the header says where the block ends


def test_a_payload_that_never_came_is_no_block() -> None:
    """As a power cut leaves it: the header reached the device, and of the payload nothing, or the first half."""
    block = sealed()
    for start in (HEADER_BYTES, (HEADER_BYTES + len(block)) // 2):
        assert fault_of(block[:start] + bytes(len(block) - start)) is BlockFault.CHECKSUM


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 0xFFFF])
def test_another_version_is_not_read_however_sound_it_is(version: int) -> None:
    block = sealed()
    block[VERSION_AT:DTYPE_AT] = struct.pack("<H", version)
    assert fault_of(resealed(block)) is BlockFault.VERSION


def test_a_dtype_of_the_future_is_not_read() -> None:
    block = sealed()
    block[DTYPE_AT] = len(SPECS)
    assert fault_of(resealed(block)) is BlockFault.SPEC


def test_another_model_s_block_is_not_used_though_it_bears_the_name() -> None:
    assert fault_of(sealed(), fingerprint=PRINT + " of another numerics class") is BlockFault.MODEL
    block = sealed(msgspec.structs.replace(SPECS["float32"], fingerprint="another"))
    assert fault_of(block) is BlockFault.MODEL


def test_another_block_is_not_used_though_it_is_of_the_same_model() -> None:
    assert fault_of(sealed(), name=child_name(ROOT, [1, 2, 4])) is BlockFault.NAME


def test_a_header_that_promises_more_than_there_is_reads_nothing_beyond() -> None:
    block = sealed()
    block[24:32] = struct.pack("<Q", 2**63)
    assert fault_of(resealed(block)) is BlockFault.TORN


@given(st.binary(max_size=300))
def test_garbage_is_a_fault_and_never_another_error(garbage: bytes) -> None:
    for block in (garbage, b"TWKV" + garbage, resealed(bytearray((b"TWKV\x01\x00" + garbage).ljust(HEADER_BYTES)))):
        with pytest.raises(BadBlock):
            verify(block, NAME, PRINT)


def test_what_is_no_block_is_told_from_what_was_one() -> None:
    with pytest.raises(BadBlock, match="does not begin with TWKV"):
        read_header(bytes(HEADER_BYTES))
