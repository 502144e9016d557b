"""Weights as small integers with a scale per group of columns: the one form that all kernels and formats meet in.

`w[n, k] ~= values[n, k] * scales[n, k // group_size]`, symmetric. Eight bits keep groups of 128 columns, rounded to the
largest magnitude. Four bits keep groups of 32, with the scale that `scale_search` finds. A weight is read and rounded
row by row: no float32 copy of it is ever made.

Invariants: group_size divides the columns and is one of GROUP_SIZES[bits]; int8 values made here are -127..127 (a
stored checkpoint may have -128), int4 values -8..7; int4 scales made here are float16 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tokenworks.engine.kernels.quantized import round_rows
from tokenworks.engine.kernels.scale_search import GROUP, round_to_int4

QUANTIZER_VERSION: Final = 1
"""Part of the name of what is cached and of the KV fingerprint: raise it when weights come out otherwise than now."""

GROUP_SIZES: Final = {8: (128, 64, 32), 4: (GROUP,)}
"""By bits: the columns that may share a scale, best first."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [N, K]."""

    values: Tensor  # int8 [N, K]; four bits too lie one a byte
    scales: Tensor  # float32 [N, K / group_size]
    bits: int  # 4 or 8
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.values.shape[0], self.values.shape[1]

    def dequantized(self) -> Tensor:
        """float32 [N, K]."""
        groups = self.values.view(*self.scales.shape, self.group_size)
        return (groups * self.scales[:, :, None]).flatten(1)

    def regrouped(self, bits: int, group_size: int) -> QuantizedWeight:
        """The same matrix, said with as many bits or more and with smaller groups."""
        assert bits >= self.bits, "bits are never taken away"
        scales = self.scales.repeat_interleave(self.group_size // group_size, dim=1)
        return QuantizedWeight(self.values, scales, bits, group_size)


Weight = Tensor | QuantizedWeight


def floats(weight: Weight) -> Tensor:
    """A weight that is known to be floats."""
    assert isinstance(weight, Tensor), "it was read as floats"
    return weight


def group_size_of(columns: int, bits: int) -> int | None:
    """The group size for so many columns (or for a stored group of so many); None where none divides them."""
    return next((size for size in GROUP_SIZES[bits] if columns % size == 0), None)


def quantize(weight: Tensor, bits: int) -> QuantizedWeight:
    """Round a float matrix [N, K]; `group_size_of(K, bits)` is not None."""
    group_size = group_size_of(weight.shape[1], bits)
    assert group_size is not None, "ask group_size_of first"
    if weight.dtype not in (torch.float32, torch.bfloat16):
        weight = weight.float()  # what the kernels do not read as it lies, float16 above all
    values, scales = round_rows(weight, group_size) if bits == 8 else round_to_int4(weight)
    return QuantizedWeight(values, scales, bits, group_size)


def concatenate(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Several matrices as one, their rows below each other; exact, in the most bits and the smallest groups of them."""
    bits, group_size = max(w.bits for w in weights), min(w.group_size for w in weights)
    alike = [weight.regrouped(bits, group_size) for weight in weights]
    return QuantizedWeight(torch.cat([w.values for w in alike]), torch.cat([w.scales for w in alike]), bits, group_size)
