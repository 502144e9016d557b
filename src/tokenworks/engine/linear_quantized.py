"""Matrix products with quantised weights: the portable form of what a native executor does faster.

Few rows go through loops over int8 (`kernels/quantized.py`), which read each weight once as it is stored. Many rows are
worth turning a block of weights back to float32 for, because PyTorch's matrix product is several times as fast as these
loops: the rounded rows meet the same weights, so the result is the same up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.engine.kernels.quantized import (
    multiply_int4,
    multiply_int8,
    pack_int4,
    round_rows,
    to_floats,
    unpack_int4,
)
from tokenworks.engine.linear import Linear
from tokenworks.engine.quantize import QuantizedWeight, Weight, concatenate

MANY_ROWS: Final = 16
"""From about here on; on one thread 2.1 ms against 3.6 (int8), 1.6 against 4.0 (int4), 2048 x 1024."""
_BLOCK_ROWS: Final = 1024  # of weights turned to float32 at a time: 12 MB at 3072 columns


class QuantizedLinear:
    """`y = x @ weight.T + bias`; several weights given together are one product (their outputs side by side)."""

    def __init__(self, weights: Sequence[QuantizedWeight], biases: Sequence[Tensor] | None) -> None:
        merged = concatenate(weights)
        self.out_features, self.in_features = merged.shape
        self.bits, self.group_size = merged.bits, merged.group_size
        self._values = merged.values if self.bits == 8 else pack_int4(merged.values)
        self._scales = merged.scales
        self._bias = torch.cat([bias.float() for bias in biases]) if biases else None
        self.num_bytes = self._values.nbytes + self._scales.nbytes

    @property
    def weight(self) -> QuantizedWeight:
        """The canonical form, unpacked."""
        values = self._values if self.bits == 8 else unpack_int4(self._values)
        return QuantizedWeight(values, self._scales, self.bits, self.group_size)

    def take(self) -> QuantizedWeight:
        """The canonical form, for whoever packs it otherwise; no product can be computed here afterwards."""
        weight = self.weight
        self._values = self._scales = torch.empty(0)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """float32 [out_features]."""
        return self._bias

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features], in the dtype of `x`."""
        values, scales = round_rows(x, self.group_size)
        y = self._many(values, scales) if x.shape[0] >= MANY_ROWS else self._few(values, scales)
        return (y if self._bias is None else y.add_(self._bias)).to(x.dtype)

    def _few(self, values: Tensor, scales: Tensor) -> Tensor:
        multiply = multiply_int8 if self.bits == 8 else multiply_int4
        return multiply(values, scales, self._values, self._scales)

    def _many(self, values: Tensor, scales: Tensor) -> Tensor:
        rows = to_floats(values, scales, 8)
        y = torch.empty(rows.shape[0], self.out_features)
        for start in range(0, self.out_features, _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            y[:, block] = F.linear(rows, to_floats(self._values[block], self._scales[block], self.bits))
        return y


def make_linear(
    weights: Sequence[Weight], biases: Sequence[Tensor] | None, dtype: torch.dtype
) -> Linear | QuantizedLinear:
    """One product of weights that are all float, all quantised, or mixed; mixed ones are computed as floats."""
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if len(quantized) == len(weights):
        return QuantizedLinear(quantized, biases)
    return Linear([w.dequantized() if isinstance(w, QuantizedWeight) else w for w in weights], biases, dtype)
