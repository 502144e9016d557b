"""Products with quantised weights, against their definition term by term in float64, and against the float product."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import MANY_ROWS, QuantizedLinear, make_linear
from tokenworks.engine.quantize import QuantizedWeight, quantize

EPSILON = torch.finfo(torch.float32).eps
each_bits = pytest.mark.parametrize("bits", [8, 4])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def rounded_rows(x: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """The rule for rows, in PyTorch: int values (float64) and float32 scales."""
    groups = x.float().view(x.shape[0], x.shape[1] // group_size, group_size)
    scales = groups.abs().amax(-1) / 127
    steps = torch.where(scales[:, :, None] > 0, groups / scales[:, :, None], 0)
    return steps.round().clamp(-127, 127).double(), scales


def by_definition(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """float64 [rows, N]: the product, and the sum of its terms' magnitudes, by which rounding errors are judged."""
    a, a_scales = rounded_rows(x, weight.group_size)
    w = weight.values.double().view(*weight.scales.shape, -1)
    y, size = torch.zeros(2, x.shape[0], w.shape[0], dtype=torch.float64)
    for t in range(x.shape[0]):
        for n in range(w.shape[0]):
            terms = (a[t] * w[n]).sum(-1) * a_scales[t].double() * weight.scales[n].double()
            y[t, n], size[t, n] = (
                terms.sum(),
                (a[t].abs() * w[n].abs()).sum(-1) @ (a_scales[t] * weight.scales[n]).abs().double(),
            )
    if bias is not None:
        y, size = y + bias.double(), size + bias.double().abs()
    return y, size


def check(linear: QuantizedLinear, x: Tensor, bias: Tensor | None) -> None:
    expected, size = by_definition(x, linear.weight, bias)
    actual = linear(x)
    assert actual.dtype == x.dtype
    assert actual.shape == expected.shape
    allowed = 8 * EPSILON * size + 1e-37
    if x.dtype == torch.bfloat16:
        allowed += expected.abs() * 2**-8
    assert ((actual.double() - expected).abs() <= allowed).all()


def linear_of(bits: int, shapes: Sequence[tuple[int, int]], with_bias: bool) -> tuple[QuantizedLinear, Tensor | None]:
    weights = [quantize(torch.randn(shape) * 0.1, bits) for shape in shapes]
    biases = [torch.randn(rows).bfloat16() for rows, _ in shapes] if with_bias else None
    return QuantizedLinear(weights, biases), torch.cat(biases) if biases else None


@each_bits
@each_dtype
@pytest.mark.parametrize("columns", [32, 96, 128, 320])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 7, MANY_ROWS - 1, MANY_ROWS, 33])
def test_every_shape_is_its_definition(bits: int, dtype: torch.dtype, columns: int, num_rows: int) -> None:
    torch.manual_seed(columns + num_rows)
    linear, bias = linear_of(bits, [(5, columns), (1, columns), (3, columns)], with_bias=num_rows % 2 == 0)
    check(linear, torch.randn(num_rows, columns).to(dtype), bias)


@each_bits
@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_large_products_are_shared_by_threads_and_blocks(bits: int, num_rows: int) -> None:
    torch.manual_seed(num_rows)
    linear, _ = linear_of(bits, [(1500, 256)], with_bias=False)  # more rows than one float32 block holds
    x = torch.randn(num_rows, 256)
    a, a_scales = rounded_rows(x, linear.group_size)
    rows = (a * a_scales.double()[:, :, None]).flatten(1)
    weight = linear.weight
    columns = weight.values.double() * weight.scales.double().repeat_interleave(weight.group_size, dim=1)
    torch.testing.assert_close(linear(x).double(), rows @ columns.T, rtol=1e-5, atol=1e-5)


@each_bits
@pytest.mark.parametrize("num_rows", [3, MANY_ROWS])
@pytest.mark.parametrize("factor", [0.0, 1e-41, 1e-30, 1e30])
def test_rows_of_zeros_of_tiny_and_of_huge_numbers(bits: int, num_rows: int, factor: float) -> None:
    torch.manual_seed(1)
    linear, _ = linear_of(bits, [(9, 256)], with_bias=False)
    x = torch.randn(num_rows, 256) * factor
    x[0] = 0
    x[1, 32:] = 0
    check(linear, x, None)


@each_bits
@pytest.mark.parametrize("num_rows", [2, MANY_ROWS])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_never_hidden(bits: int, num_rows: int, bad: float) -> None:
    linear, _ = linear_of(bits, [(9, 128)], with_bias=False)
    x = torch.randn(num_rows, 128)
    x[1, 77] = bad
    y = linear(x)
    assert not y[1].isfinite().any()
    assert y[0].isfinite().all()


@each_bits
def test_few_and_many_rows_agree(bits: int) -> None:
    torch.manual_seed(2)
    linear, _ = linear_of(bits, [(64, 256)], with_bias=True)
    x = torch.randn(MANY_ROWS, 256)
    torch.testing.assert_close(linear(x), torch.cat([linear(row[None]) for row in x]), rtol=1e-5, atol=1e-5)


@each_bits
@each_dtype
def test_the_error_against_the_float_product_is_within_what_rounding_allows(bits: int, dtype: torch.dtype) -> None:
    """A row is off by half a step at most, a weight by what its rounding left: a strict bound."""
    torch.manual_seed(3)
    weight, x = torch.randn(40, 512) * 0.05, torch.randn(6, 512).to(dtype)
    linear = QuantizedLinear([quantize(weight, bits)], None)
    exact = x.double() @ weight.double().T
    rounded = linear.weight.dequantized().double()
    _, a_scales = rounded_rows(x, linear.group_size)
    half_steps = a_scales.double().repeat_interleave(linear.group_size, dim=1) / 2
    bound = half_steps @ rounded.abs().T + x.double().abs() @ (weight.double() - rounded).abs().T
    output_rounding = exact.abs() * 2**-7 if dtype == torch.bfloat16 else 0
    difference = (linear(x).double() - exact).abs()
    assert (difference <= bound * (1 + 1e-4) + output_rounding).all()
    # Independent errors add in squares: the weight's share is |x| * rms error, the row's is |w| * step / sqrt(12).
    weight_share = (weight.double() - rounded).square().mean() * x.double().square().sum(-1).mean()
    row_share = (2 * half_steps).square().mean() / 12 * rounded.square().sum(-1).mean()
    expected_rms = (
        weight_share + row_share + (exact.square().mean() * 2**-18 if dtype == torch.bfloat16 else 0)
    ).sqrt()
    assert difference.square().mean().sqrt() == pytest.approx(expected_rms.item(), rel=0.2)


@each_bits
def test_the_canonical_form_is_kept(bits: int) -> None:
    weights = [quantize(torch.randn(rows, 256), bits) for rows in (4, 2)]
    linear = QuantizedLinear(weights, None)
    assert torch.equal(linear.weight.values, torch.cat([w.values for w in weights]))
    assert torch.equal(linear.weight.scales, torch.cat([w.scales for w in weights]))
    assert linear.num_bytes == 6 * 256 * bits // 8 + 6 * 256 // linear.group_size * 4
    assert (linear.out_features, linear.in_features) == (6, 256)


def test_a_product_of_mixed_weights_is_computed_in_floats() -> None:
    torch.manual_seed(4)
    floats, rounded = torch.randn(3, 64), quantize(torch.randn(2, 64), 8)
    linear = make_linear([floats, rounded], None, torch.float32)
    assert isinstance(linear, Linear)
    x = torch.randn(4, 64)
    torch.testing.assert_close(linear(x), x @ torch.cat([floats, rounded.dequantized()]).T)
