"""Matrix products with weights packed once for the CPU's matrix units (oneDNN through PyTorch).

Packing lays the weight out in the blocks that oneDNN's kernels read, AMX or AVX-512 tiles included, instead of having
every call reorder it. On a 2-core EPYC with AVX-512, bf16, 6144 x 1024: 20-28 GB/s packed against 10-13 plain at 1 to 8
rows. Where oneDNN or its bf16 kernels are missing, the plain layout is kept and results are the same up to rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK: Final = 64
"""Outputs of a block of packed weights."""


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has fast kernels for packed weights of `dtype` on this CPU."""
    if not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _blocked_address(packed: Tensor, weight: Tensor) -> int | None:
    """Address of oneDNN's packed bf16 weights where they lie as [out / 64, in / 2, 64, 2], as the native library reads.

    That layout is oneDNN's choice and no promise: the first and the last block are compared with the weights.
    """
    rows, columns = weight.shape
    if weight.dtype != torch.bfloat16 or rows < BLOCK or columns % 32:
        return None
    padded = -(-rows // BLOCK) * BLOCK
    if torch.ops.mkldnn._nbytes(packed) != padded * columns * 2:
        return None
    address = int(torch.ops.mkldnn.data_ptr(packed))
    memory = (ctypes.c_uint8 * (padded * columns * 2)).from_address(address)
    blocks = torch.frombuffer(memory, dtype=torch.bfloat16).view(padded // BLOCK, columns // 2, BLOCK, 2)
    for first in (0, padded - BLOCK):
        block = weight[first : first + BLOCK]
        unpacked = blocks[first // BLOCK].transpose(0, 1).reshape(BLOCK, columns)
        if not torch.equal(unpacked[: len(block)].view(torch.int16), block.contiguous().view(torch.int16)):
            return None
    return address


class Linear:
    """`y = x @ weight.T + bias`; several weights given together are one product (their outputs side by side)."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor] | None, dtype: torch.dtype) -> None:
        weight = torch.cat([w.to(dtype) for w in weights]) if len(weights) > 1 else weights[0].to(dtype)
        self.out_features, self.in_features = weight.shape
        self.num_bytes = weight.numel() * weight.element_size()
        self.bias = torch.cat([b.to(dtype) for b in biases]) if biases else None
        self.blocked_address: int | None = None  # of the packed weights, where the native library can read them
        self._is_packed = can_pack(dtype)
        if self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
            self.blocked_address = _blocked_address(self._weight, weight)
        else:
            self._weight = weight.clone()  # never a view of the mapped file, which is dropped

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self._is_packed:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
            return packed
        return F.linear(x, self._weight, self.bias)
