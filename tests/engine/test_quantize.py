"""Rounding of weights: each value and scale against plain definitions in float64, error against a finer search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenworks.engine.kernels.quantized import pack_int4, round_rows, unpack_int4
from tokenworks.engine.quantize import QuantizedWeight, concatenate, group_size_of, quantize

SHAPES = [(1, 32), (3, 64), (5, 96), (17, 128), (33, 320), (8, 1024)]
each_shape = pytest.mark.parametrize("shape", SHAPES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def random_weight(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal, with a group of zeros in the second row."""
    torch.manual_seed(sum(shape))
    weight = torch.randn(shape).mul_(0.05)
    weight[1:2, :32] = 0
    return weight.to(dtype)


def grouped(values: Tensor, size: int) -> Tensor:
    """float64 [rows, groups, columns of a group]."""
    return values.double().view(values.shape[0], -1, size)


def error(weight: Tensor, rounded: QuantizedWeight) -> Tensor:
    """Squared error of each group, float64."""
    difference = weight.double() - rounded.values.double() * rounded.scales.double().repeat_interleave(
        rounded.group_size, dim=1
    )
    return grouped(difference, rounded.group_size).square().sum(-1)


@pytest.mark.parametrize(
    ("columns", "bits", "size"),
    [(1024, 8, 128), (64, 8, 64), (192, 8, 64), (96, 8, 32), (96, 4, 32), (1024, 4, 32), (100, 8, None), (16, 4, None)],
)
def test_group_sizes(columns: int, bits: int, size: int | None) -> None:
    assert group_size_of(columns, bits) == size


@each_shape
@each_dtype
def test_int8_is_the_nearest_step_of_the_largest_magnitude(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random_weight(shape, dtype)
    rounded = quantize(weight, 8)
    groups = grouped(weight, rounded.group_size)
    torch.testing.assert_close(rounded.scales.double(), groups.abs().amax(-1) / 127, rtol=1e-7, atol=0)
    assert rounded.values.abs().max() <= 127
    half_step = rounded.scales.double()[:, :, None] / 2
    steps = grouped(rounded.values, rounded.group_size) * rounded.scales.double()[:, :, None]
    assert ((groups - steps).abs() <= half_step * (1 + 1e-5)).all()


@each_shape
@each_dtype
def test_int4_leaves_no_more_error_than_a_fine_search(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random_weight(shape, dtype)
    rounded = quantize(weight, 4)
    assert rounded.values.min() >= -8
    assert rounded.values.max() <= 7
    assert torch.equal(rounded.scales, rounded.scales.half().float())
    groups = grouped(weight, 32)
    top = groups.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    fine = torch.full(groups.shape[:2], torch.inf, dtype=torch.float64)
    for level in torch.arange(4.0, 12.0, 0.05, dtype=torch.float64):
        for scale in (top / level, -top / level):
            left = (groups - (groups / scale).round().clamp(-8, 7) * scale).square().sum(-1)
            fine = torch.minimum(fine, left)
    plain = (groups - (groups / top * 7).round() * top / 7).square().sum()
    assert error(weight, rounded).sum() <= 1.02 * fine.sum()
    assert error(weight, rounded).sum() < 0.9 * plain


def test_int4_uses_the_lowest_value_on_either_side() -> None:
    row = torch.linspace(-0.9, 0.9, 32)
    for sign in (1, -1):
        weight = row.clone()
        weight[3] = sign * 1.0
        weight[4:] *= 0.5
        rounded = quantize(torch.stack([weight]), 4)
        assert rounded.values.min() == -8
        assert rounded.scales[0, 0] * sign < 0


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("factor", [1e-38, 1e-20, 1e-3, 1e3])
def test_very_large_and_very_small_weights(bits: int, factor: float) -> None:
    weight = torch.randn(4, 128, generator=torch.Generator().manual_seed(0)) * factor
    step = {8: 0.02, 4: 0.5 if factor > 1e-7 else torch.inf}[bits]  # below what a float16 scale can say: zeros
    rounded = quantize(weight, bits).dequantized()
    assert (rounded - weight).abs().max() <= step * factor
    assert bits == 8 or factor > 1e-7 or not rounded.any()


@pytest.mark.parametrize(("bits", "bad"), [(8, "nan"), (8, "inf"), (4, "nan"), (4, "-inf"), (4, "1e7")])
def test_what_cannot_be_said_in_so_many_bits_shows_in_the_scale(bits: int, bad: str) -> None:
    weight = torch.randn(3, 64)
    weight[1, 5], weight[1, 6] = float(bad), 0.5
    rounded = quantize(weight, bits)
    assert not rounded.scales[1, 0].isfinite()
    assert rounded.scales[0].isfinite().all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_group_of_zeros_has_scale_zero_and_stays_zero(bits: int) -> None:
    rounded = quantize(torch.zeros(2, 64), bits)
    assert not rounded.values.any()
    assert not rounded.scales.any()


@each_shape
def test_packing_is_reversed_by_unpacking(shape: tuple[int, int]) -> None:
    values = torch.randint(-8, 8, shape, dtype=torch.int8)
    packed = pack_int4(values)
    assert packed.dtype == torch.uint8
    assert packed.nbytes * 2 == values.nbytes
    assert torch.equal(unpack_int4(packed), values)


def test_matrices_side_by_side_are_what_they_were_alone() -> None:
    first, second = quantize(random_weight((3, 256)), 8), quantize(random_weight((5, 256)), 4)
    merged = concatenate([first, second])
    assert (merged.bits, merged.group_size) == (8, 32)
    assert torch.equal(merged.dequantized(), torch.cat([first.dequantized(), second.dequantized()]))


def test_few_and_many_rows_are_rounded_alike() -> None:
    x = torch.randn(700, 128).bfloat16()
    values, scales = round_rows(x, 64)
    one_by_one = [round_rows(row[None], 64) for row in x]
    assert torch.equal(values, torch.cat([v for v, _ in one_by_one]))
    assert torch.equal(scales, torch.cat([s for _, s in one_by_one]))
