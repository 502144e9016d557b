"""Weights as the native library reads them: oneDNN's memory for bf16, blocks of our own for int8 and int4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tokenworks.engine.linear import BLOCK, Linear
from tokenworks.engine.linear_quantized import QuantizedLinear
from tokenworks.engine.native import library
from tokenworks.engine.native.library import LinearStruct, pointer
from tokenworks.engine.quantize import QuantizedWeight

_KINDS: Final = {8: 1, 4: 2}


@dataclass(frozen=True, slots=True)
class Packed:
    """A product's struct, and what must live as long as it is used."""

    struct: LinearStruct
    kept: tuple[Tensor | None, ...]


def pack(linear: Linear | QuantizedLinear) -> Packed:
    """The struct of a product. A quantised one is emptied on the way: the library has the only copy then."""
    bias = None if linear.bias is None else linear.bias.float().contiguous()
    if isinstance(linear, QuantizedLinear):
        return _pack_quantized(linear, bias)
    sizes = {"out_features": linear.out_features, "in_features": linear.in_features}
    return Packed(LinearStruct(kind=0, weights=linear.blocked_address, bias=pointer(bias), **sizes), (bias,))


def _pack_quantized(linear: QuantizedLinear, bias: Tensor | None) -> Packed:
    weight = linear.take()
    if weight.bits == 4 and not torch.equal(weight.scales.half().float(), weight.scales):
        weight = weight.regrouped(8, weight.group_size)  # scales that float16 would round
    rows, columns = weight.shape
    codes = torch.empty(_padded(rows) * columns * weight.bits // 8, dtype=torch.uint8)
    values = weight.values.contiguous()
    library.load().tw_pack_quantized(values.data_ptr(), rows, columns, weight.bits, codes.data_ptr())
    scales = _blocked_scales(weight)
    linear.num_bytes = codes.nbytes + scales.nbytes
    struct = LinearStruct(
        kind=_KINDS[weight.bits],
        out_features=rows,
        in_features=columns,
        group=weight.group_size,
        weights=pointer(codes),
        scales=pointer(scales),
        bias=pointer(bias),
    )
    return Packed(struct, (codes, scales, bias))


def _blocked_scales(weight: QuantizedWeight) -> Tensor:
    """[out / 64, groups, 64]; float32 for int8, float16 for int4."""
    rows, groups = weight.scales.shape
    padded = torch.zeros(_padded(rows), groups)
    padded[:rows] = weight.scales
    blocked = padded.view(-1, BLOCK, groups).transpose(1, 2).contiguous()
    return blocked if weight.bits == 8 else blocked.half()


def _padded(rows: int) -> int:
    return -(-rows // BLOCK) * BLOCK


def unpacked(linear: Linear) -> Tensor:
    """A float product's weights as float32 [out, in]: products with unit vectors are exact."""
    return linear(torch.eye(linear.in_features, dtype=torch.bfloat16)).T.float().contiguous()
