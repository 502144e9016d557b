"""Two specs become a conversion, or a refusal that says what differs and what to do."""

from __future__ import annotations

import msgspec
import pytest

from tokenworks.contract.kv import KVSpec
from tokenworks.kv.format import HEADER_BYTES, Header, block_bytes, read_header, seal
from tokenworks.kv.negotiation import Conversion, Refusal, negotiate

SPEC = KVSpec("model", num_layers=4, num_kv_heads=6, head_dim=8, block_tokens=16, dtype="bfloat16")


def changed(**fields: object) -> KVSpec:
    return msgspec.structs.replace(SPEC, **fields)


def header_of(spec: KVSpec) -> Header:
    block = bytearray(block_bytes(spec))
    seal(memoryview(block), spec, b"n" * 16, b"p" * 16)
    return read_header(block)


def test_what_is_equal_is_copied() -> None:
    found = negotiate(SPEC, SPEC)
    assert isinstance(found, Conversion)
    assert found.is_copy
    assert found.source_bytes == found.target_bytes == SPEC.bytes_per_block


def test_what_a_spec_says_of_its_numerics_decides_nothing() -> None:
    assert negotiate(changed(numerics="bfloat16, weights int8"), SPEC) == negotiate(SPEC, SPEC)


@pytest.mark.parametrize("source", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("target", ["float32", "bfloat16", "float16", "int8"])
def test_every_pair_of_dtypes_converts(source: str, target: str) -> None:
    theirs, ours = changed(dtype=source), changed(dtype=target)
    found = negotiate(theirs, ours)
    assert isinstance(found, Conversion)
    assert found.is_copy == (source == target)
    assert (found.source_bytes, found.target_bytes) == (theirs.bytes_per_block, ours.bytes_per_block)


def test_layers_and_heads_that_are_wanted_are_cut_out() -> None:
    theirs = changed(first_layer=10, first_kv_head=2)
    ours = changed(first_layer=11, num_layers=3, first_kv_head=4, num_kv_heads=2, dtype="int8")
    found = negotiate(theirs, ours)
    assert isinstance(found, Conversion)
    assert (found.layers, found.heads) == (slice(1, 4), slice(2, 4))
    assert not found.is_whole
    assert not found.is_copy
    assert (found.source_bytes, found.target_bytes) == (theirs.bytes_per_block, ours.bytes_per_block)


def test_a_header_is_as_good_as_the_spec_that_it_was_sealed_with() -> None:
    theirs = changed(first_layer=10, dtype="int8")
    ours = changed(first_layer=11, num_layers=2)
    assert negotiate(header_of(theirs), ours) == negotiate(theirs, ours)
    assert HEADER_BYTES + theirs.bytes_per_block == block_bytes(theirs)
    assert isinstance(negotiate(header_of(theirs), changed(fingerprint="other")), Refusal)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (changed(fingerprint="other"), ["another model", "kv.exchange"]),
        (changed(block_tokens=32), ["blocks of 32 tokens, not 16", "engine.block_tokens"]),
        (changed(head_dim=9), ["heads of 9, not 8", "checkpoints"]),
        (changed(num_layers=3), ["layers 0 to 2, not 0 to 3", "compute them here"]),
        (changed(first_layer=1), ["layers 1 to 4, not 0 to 3"]),
        (changed(num_kv_heads=5), ["KV heads 0 to 4, not 0 to 5"]),
        (changed(first_kv_head=6), ["KV heads 6 to 11, not 0 to 5"]),
        (changed(dtype="float8"), ["dtype float8", "float32, bfloat16, float16, int8"]),
    ],
)
def test_a_refusal_says_what_differs_and_what_to_do(theirs: KVSpec, words: list[str]) -> None:
    found = negotiate(theirs, SPEC)
    assert isinstance(found, Refusal)
    assert [word for word in words if word not in found.reason] == []


def test_a_dtype_of_ours_that_nobody_knows_is_refused_too() -> None:
    found = negotiate(SPEC, changed(dtype="float8"))
    assert isinstance(found, Refusal)
    assert "dtype float8" in found.reason
