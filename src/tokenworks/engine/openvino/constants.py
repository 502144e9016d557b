"""A checkpoint's tensors as constants of an OpenVINO graph, in the form that its CPU plugin multiplies fastest.

Floats go in as they are stored, as views of the mapped files. Halves are marked as compressed float32, as OpenVINO's
own converters do: the plugin then packs them once, and multiplies halves in float32 too. Unmarked, it unfolds them all
first: three times the memory in bf16, four times in float32, for the same numbers. Quantised matrices go in as the
plugin's own pattern for them,

    Reshape(Convert(integers [N, groups, group]) * scales [N, groups, 1])  ->  [N, K]

which it keeps compressed and multiplies as integers. OpenVINO does not keep the arrays alive that it was shown, and
says nowhere when it has done with them: `kept` does, and must live as long as the compiled model.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tokenworks.engine.checkpoint import WeightSource
from tokenworks.engine.openvino.library import ops, ov
from tokenworks.engine.quantize import QuantizedWeight, Weight

ELEMENT_TYPES: Final = {
    torch.float32: ov.Type.f32,
    torch.bfloat16: ov.Type.bf16,
    torch.float16: ov.Type.f16,
    torch.int8: ov.Type.i8,
}
_COMPRESSED: Final = "decompression_0"  # OpenVINO's mark of a conversion that undoes a compression
Node = Any  # openvino.Node or openvino.Output: its operators take both


class Constants:
    """Reads tensors of one checkpoint as nodes, and counts the bytes that a step will read of them."""

    def __init__(self, source: WeightSource, dtype: torch.dtype) -> None:
        self.kept: list[Any] = []
        self.num_bytes = 0
        self._source = source
        self._itemsize = dtype.itemsize  # of floats at most, once the plugin has packed them

    def vectors(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Node]:
        """The named tensors as float32."""
        return {name: self._float32(tensor) for name, tensor in self._source.read(shapes).items()}

    def matrices(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Node]:
        """The named matrices [N, K] as float32 nodes over constants of their stored form."""
        return {name: self._matrix(weight) for name, weight in self._source.read_matrices(shapes).items()}

    def _matrix(self, weight: Weight) -> Node:
        if isinstance(weight, QuantizedWeight):
            self.num_bytes += weight.values.numel() * weight.bits // 8 + weight.scales.nbytes
            return self._quantized(weight)
        self.num_bytes += weight.numel() * min(self._itemsize, weight.element_size())
        return self._float32(weight)

    def _quantized(self, weight: QuantizedWeight) -> Node:
        rows, groups = weight.scales.shape
        shape = [rows, groups, weight.group_size]
        integers = self._integers(weight, shape)
        scaled = ops.multiply(ops.convert(integers, "f32"), self.share(weight.scales.reshape(rows, groups, 1)))
        return ops.reshape(scaled, np.array(weight.shape, np.int64), special_zero=False)

    def _integers(self, weight: QuantizedWeight, shape: list[int]) -> Node:
        if weight.bits == 8:
            return self.share(weight.values.view(shape))
        return self._constant(two_a_byte(weight.values), shape, ov.Type.i4)

    def _float32(self, tensor: Tensor) -> Node:
        node = self.share(tensor)
        if tensor.dtype == torch.float32:
            return node
        whole = ops.convert(node, "f32")
        whole.set_rt_info("", _COMPRESSED)
        return whole

    def share(self, tensor: Tensor) -> Node:
        """A constant over the tensor's own memory."""
        whole = tensor.contiguous()
        return self._constant(as_integers(whole), list(whole.shape), ELEMENT_TYPES[whole.dtype])

    def _constant(self, array: Any, shape: list[int], kind: Any) -> Node:
        view = ov.Tensor(array, ov.Shape(shape), kind)
        self.kept += [array, view]
        return ov.op.Constant(view, shared_memory=True)


def as_integers(tensor: Tensor) -> Any:
    """A contiguous tensor's memory as a NumPy array of integers; NumPy has no bfloat16."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy()


def two_a_byte(values: Tensor) -> Any:
    """int8 codes -8..7 [N, K] as OpenVINO's i4: uint8 [N, K / 2], the even column in the low half."""
    nibbles = values.view(torch.uint8) & 0xF
    return (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).contiguous().numpy()
