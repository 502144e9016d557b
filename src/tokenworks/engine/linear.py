"""Matrix products with weights packed once for the CPU's matrix units (oneDNN through PyTorch).

Packing lays the weight out in the blocks that oneDNN's kernels read, AMX or AVX-512 tiles included, instead of having
every call reorder it. On a 2-core EPYC with AVX-512, bf16, 6144 x 1024: 20-28 GB/s packed against 10-13 plain at 1 to 8
rows. Where oneDNN or its bf16 kernels are missing, the plain layout is kept and results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has fast kernels for packed weights of `dtype` on this CPU."""
    if not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


class Linear:
    """`y = x @ weight.T + bias`; several weights given together are one product (their outputs side by side)."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor] | None, dtype: torch.dtype) -> None:
        weight = torch.cat([w.to(dtype) for w in weights]) if len(weights) > 1 else weights[0].to(dtype)
        self.out_features, self.in_features = weight.shape
        self.num_bytes = weight.numel() * weight.element_size()
        self._bias = torch.cat([b.to(dtype) for b in biases]) if biases else None
        self._is_packed = can_pack(dtype)
        if self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self._weight = weight.clone()  # never a view of the mapped file, which is dropped

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self._is_packed:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return packed
        return F.linear(x, self._weight, self._bias)
