"""Conversions of payloads, held against PyTorch's conversions and the engine's own int8, for every pair of dtypes."""

from __future__ import annotations

from itertools import product

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.kernels.bits import encode
from tokenworks.kv.convert import convert
from tokenworks.kv.format import BadBlock, BlockFault

FLOATS = ("float32", "bfloat16", "float16")
DTYPES = (*FLOATS, "int8")
SPEC = KVSpec("model", num_layers=3, num_kv_heads=4, head_dim=20, block_tokens=7, dtype="float32")


def changed(spec: KVSpec, **fields: object) -> KVSpec:
    return msgspec.structs.replace(spec, **fields)


def shape_of(spec: KVSpec) -> tuple[int, ...]:
    return (spec.num_layers, 2, spec.block_tokens, spec.num_kv_heads, spec.head_dim)


def engine_codes(numbers: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """As the engine's kernels store heads: codes, and a scale for each."""
    codes = np.empty(numbers.shape, np.int8)
    scales = np.empty(numbers.shape[:-1], np.float32)
    for at in np.ndindex(scales.shape):
        scales[at] = encode(numbers[at], codes[at])
    return codes, scales


def pack(numbers: Tensor, dtype: str) -> bytes:
    """A payload of float32 numbers [layer, key or value, token, head, head_dim], by PyTorch and the engine."""
    if dtype == "int8":
        return b"".join(part.tobytes() for part in engine_codes(numbers.numpy()))
    return numbers.to(getattr(torch, dtype)).contiguous().view(torch.uint8).numpy().tobytes()


def unpack(payload: bytes, spec: KVSpec) -> Tensor:
    """What a payload means, in float32."""
    count = int(np.prod(shape_of(spec)))
    if spec.dtype == "int8":
        codes = torch.frombuffer(bytearray(payload[:count]), dtype=torch.int8).view(shape_of(spec))
        scales = torch.frombuffer(bytearray(payload[count:]), dtype=torch.float32).view(shape_of(spec)[:-1])
        return codes * scales[..., None]
    stored = torch.frombuffer(bytearray(payload), dtype=getattr(torch, spec.dtype))
    return stored.view(shape_of(spec)).float()


def converted(payload: bytes, theirs: KVSpec, ours: KVSpec) -> bytes:
    out = bytearray(b"\xaa" * ours.bytes_per_block)
    convert(memoryview(payload), theirs, ours, memoryview(out))
    return bytes(out)


def random_numbers(seed: int, spec: KVSpec = SPEC) -> Tensor:
    """Of every size that float16 can hold, some heads of nothing among them."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape_of(spec), generator=generator)
    numbers *= 10 ** (torch.rand(shape_of(spec)[:-1], generator=generator) * 12 - 8)[..., None]
    numbers[0, 0, 0, 0] = 0
    numbers[0, 0, 0, 1] *= 1e-31
    return numbers


@pytest.mark.parametrize(("source", "target"), list(product(DTYPES, DTYPES)))
def test_every_pair_gives_the_bytes_that_pytorch_and_the_engine_give(source: str, target: str) -> None:
    theirs, ours = changed(SPEC, dtype=source), changed(SPEC, dtype=target)
    for seed in range(5):
        payload = pack(random_numbers(seed), source)
        expected = payload if source == target else pack(unpack(payload, theirs), target)
        assert converted(payload, theirs, ours) == expected


@pytest.mark.parametrize(("source", "target"), list(product(DTYPES, DTYPES)))
def test_slices_are_cut_before_they_are_converted(source: str, target: str) -> None:
    theirs = changed(SPEC, dtype=source, first_layer=5, first_kv_head=8)
    ours = changed(SPEC, dtype=target, first_layer=6, num_layers=2, first_kv_head=9, num_kv_heads=2)
    payload = pack(random_numbers(1), source)
    kept = unpack(payload, theirs)[1:3, :, :, 1:3].contiguous()
    result = converted(payload, theirs, ours)
    if source == target == "int8":
        assert torch.equal(unpack(result, ours), kept)
    else:
        assert result == pack(kept, target)


@pytest.mark.parametrize(("source", "target"), list(product(FLOATS, FLOATS)))
def test_infinities_zeros_and_nan_stay_what_they_are(source: str, target: str) -> None:
    spec = changed(SPEC, num_layers=1, num_kv_heads=1, block_tokens=1, head_dim=4)
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), -0.0] * 2).view(shape_of(spec))
    payload = pack(special, source)
    theirs, ours = changed(spec, dtype=source), changed(spec, dtype=target)
    result = unpack(converted(payload, theirs, ours), ours)
    torch.testing.assert_close(result, special, rtol=0, atol=0, equal_nan=True)
    is_number = ~special.isnan()
    assert torch.equal(result[is_number].signbit(), special[is_number].signbit())


def test_a_nan_whose_low_bits_would_round_away_stays_a_nan_in_bfloat16() -> None:
    spec = changed(SPEC, num_layers=1, num_kv_heads=1, block_tokens=1, head_dim=2)
    bits = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF800001], np.uint32)
    out = np.frombuffer(converted(bits.tobytes(), spec, changed(spec, dtype="bfloat16")), np.uint16)
    assert ((out & 0x7F80) == 0x7F80).all()
    assert (out & 0x007F).all()
    assert ((out >> 15) == (bits >> 31)).all()


@pytest.mark.parametrize(
    ("target", "value"),
    [("float16", 65520.0), ("float16", -1e6), ("bfloat16", 3.4e38), ("int8", float("inf")), ("int8", float("nan"))],
)
def test_what_cannot_be_held_is_computed_again(target: str, value: float) -> None:
    numbers = random_numbers(2)
    numbers[1, 1, 2, 3, 5] = value
    with pytest.raises(BadBlock, match=f"{target} cannot hold") as caught:
        converted(pack(numbers, "float32"), SPEC, changed(SPEC, dtype=target))
    assert caught.value.fault is BlockFault.SPEC


def test_a_refusal_is_a_fault_with_its_reason() -> None:
    with pytest.raises(BadBlock, match="blocks of 7 tokens, not 9") as caught:
        converted(bytes(SPEC.bytes_per_block), SPEC, changed(SPEC, block_tokens=9))
    assert caught.value.fault is BlockFault.SPEC


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_payload_of_another_length_is_torn(dtype: str, wrong: int) -> None:
    theirs = changed(SPEC, dtype=dtype)
    for ours in (theirs, SPEC):
        with pytest.raises(BadBlock) as caught:
            converted(bytes(theirs.bytes_per_block + wrong), theirs, ours)
        assert caught.value.fault is BlockFault.TORN


bit_patterns = st.lists(st.integers(0, 0xFFFF), min_size=16, max_size=16)
TINY = KVSpec("m", num_layers=2, num_kv_heads=1, head_dim=2, block_tokens=2, dtype="float32")


@given(bit_patterns, st.sampled_from(["bfloat16", "float16"]))
def test_widening_and_narrowing_again_changes_no_bit(patterns: list[int], dtype: str) -> None:
    narrow = changed(TINY, dtype=dtype)
    payload = np.array(patterns, np.uint16).tobytes()
    back = converted(converted(payload, narrow, TINY), TINY, narrow)
    before, after = np.frombuffer(payload, np.uint16), np.frombuffer(back, np.uint16)
    exponent = 0x7F80 if dtype == "bfloat16" else 0x7C00
    is_nan = (before & 0x7FFF) > exponent
    assert (before[~is_nan] == after[~is_nan]).all()
    assert ((after[is_nan] & 0x7FFF) > exponent).all()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16))
def test_codes_do_not_change_when_they_are_rounded_again(values: list[float]) -> None:
    """int8 to float32 and back: so blocks may travel between the two as often as they like."""
    codes = changed(TINY, dtype="int8")
    once = converted(np.array(values, np.float32).tobytes(), TINY, codes)
    again = converted(converted(once, codes, TINY), TINY, codes)
    assert once[:16] == again[:16]
    scales = [np.frombuffer(payload[16:], np.float32) for payload in (once, again)]
    np.testing.assert_array_max_ulp(*scales, maxulp=1)


@given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=16, max_size=16), st.sampled_from(DTYPES))
def test_values_are_off_by_half_a_step_at_most(values: list[float], dtype: str) -> None:
    numbers = np.array(values, np.float32)
    target = changed(TINY, dtype=dtype)
    stored = unpack(converted(numbers.tobytes(), TINY, target), target).numpy().reshape(-1, 2)
    heads = numbers.reshape(-1, 2)
    largest = np.abs(heads).max(-1, keepdims=True)
    relative, absolute = {
        "float32": (0, 0 * largest),
        "bfloat16": (2**-8, 0 * largest + 1e-40),
        "float16": (2**-11, 0 * largest + 2**-25),
        "int8": (0, 0.501 * largest / 127 + 1e-30),
    }[dtype]
    assert (np.abs(stored - heads) <= np.abs(heads) * relative + absolute).all()
