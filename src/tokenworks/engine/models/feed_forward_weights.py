"""Reads a layer's feed-forward network from a checkpoint: the names and shapes of its tensors on disk.

Checkpoints on the hub have one tensor for each matrix of each expert; `transformers` 5 can also save a layer's experts
as two tensors (`save_pretrained(save_original_format=False)`), under the same names for every family. Both are read.
Experts are packed one by one from the mapped file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tokenworks.engine.checkpoint import WeightSource
from tokenworks.engine.experts_config import ExpertsConfig
from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import QuantizedLinear, make_linear
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.models.feed_forward import DenseFeedForward, FeedForward, SparseFeedForward
from tokenworks.engine.quantize import QuantizedWeight, Weight, floats

Shapes = dict[str, tuple[int, ...]]

_FUSED_ROUTER: Final = "mlp.gate.weight"
_FUSED_GATE_UP: Final = "mlp.experts.gate_up_proj"
_FUSED_DOWN: Final = "mlp.experts.down_proj"


def feed_forward_shapes(config: ModelConfig, index: int) -> Shapes:
    """Tensor names, below `model.layers.N.`, and shapes of layer `index`'s feed-forward network."""
    experts = config.experts_of(index)
    return _dense_shapes(config) if experts is None else _sparse_shapes(config.hidden_size, experts)


def read_feed_forward(config: ModelConfig, index: int, checkpoint: WeightSource, dtype: torch.dtype) -> FeedForward:
    """The packed network of layer `index`; raises CheckpointError."""
    experts = config.experts_of(index)
    prefix = f"model.layers.{index}."
    if experts is None:
        return _pack_dense(_read(checkpoint, prefix, _dense_shapes(config)), config.has_mlp_bias, dtype)
    if prefix + _FUSED_GATE_UP in checkpoint:
        fused = _read_fused(checkpoint, prefix, _fused_shapes(config.hidden_size, experts))
        return _pack_fused(fused, experts, dtype)
    return _pack_sparse(_read(checkpoint, prefix, _sparse_shapes(config.hidden_size, experts)), experts, dtype)


def _read(checkpoint: WeightSource, prefix: str, shapes: Shapes) -> dict[str, Weight]:
    """Matrices in the form that they are multiplied in; biases and the router as floats.

    A router is under 1 % of the bytes, and a rounded logit picks another expert.
    """
    is_float = {prefix + name: len(shape) == 1 or name.endswith(".gate.weight") for name, shape in shapes.items()}
    whole = {prefix + name: shape for name, shape in shapes.items()}
    tensors = {
        **checkpoint.read({name: shape for name, shape in whole.items() if is_float[name]}),
        **checkpoint.read_matrices({name: shape for name, shape in whole.items() if not is_float[name]}),
    }
    return {name: tensors[prefix + name] for name in shapes}


def _read_fused(checkpoint: WeightSource, prefix: str, shapes: Shapes) -> dict[str, Tensor]:
    router = checkpoint.read({prefix + _FUSED_ROUTER: shapes[_FUSED_ROUTER]})
    stacks = checkpoint.read_matrices({prefix + name: shapes[name] for name in (_FUSED_GATE_UP, _FUSED_DOWN)})
    return {name: floats({**router, **stacks}[prefix + name]) for name in shapes}


def _dense_shapes(config: ModelConfig) -> Shapes:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: Shapes = {}
    for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
        shapes[f"mlp.{name}_proj.weight"] = (rows, columns)
        if config.has_mlp_bias:
            shapes[f"mlp.{name}_proj.bias"] = (rows,)
    return shapes


def _pack_dense(tensors: dict[str, Weight], has_bias: bool, dtype: torch.dtype) -> DenseFeedForward:
    def linear(*names: str) -> Linear | QuantizedLinear:
        biases = [floats(tensors[f"mlp.{name}_proj.bias"]) for name in names] if has_bias else None
        return make_linear([tensors[f"mlp.{name}_proj.weight"] for name in names], biases, dtype)

    return DenseFeedForward(linear("gate", "up"), linear("down"))


def _sparse_shapes(hidden: int, experts: ExpertsConfig) -> Shapes:
    names, inner = experts.names, experts.intermediate_size
    shapes: Shapes = {f"{names.block}.gate.weight": (experts.num_experts, hidden)}
    for number in range(experts.num_experts):
        expert = f"{names.block}.experts.{number}."
        shapes[f"{expert}{names.gate}.weight"] = (inner, hidden)
        shapes[f"{expert}{names.up}.weight"] = (inner, hidden)
        shapes[f"{expert}{names.down}.weight"] = (hidden, inner)
    return shapes


def _pack_sparse(tensors: dict[str, Weight], experts: ExpertsConfig, dtype: torch.dtype) -> SparseFeedForward:
    names = experts.names

    def stored(*parts: str) -> list[list[Weight]]:
        numbers = range(experts.num_experts)
        return [[tensors[f"{names.block}.experts.{n}.{part}.weight"] for part in parts] for n in numbers]

    router = Linear([floats(tensors[f"{names.block}.gate.weight"])], None, dtype)
    gate_ups, downs = stored(names.gate, names.up), stored(names.down)
    return _mixture(router, _pack_each(gate_ups, dtype), _pack_each(downs, dtype), experts)


def _fused_shapes(hidden: int, experts: ExpertsConfig) -> Shapes:
    number, inner = experts.num_experts, experts.intermediate_size
    return {
        _FUSED_ROUTER: (number, hidden),
        _FUSED_GATE_UP: (number, 2 * inner, hidden),
        _FUSED_DOWN: (number, hidden, inner),
    }


def _pack_fused(tensors: dict[str, Tensor], experts: ExpertsConfig, dtype: torch.dtype) -> SparseFeedForward:
    router = Linear([tensors[_FUSED_ROUTER]], None, dtype)
    gate_ups, downs = ([[weight] for weight in tensors[name]] for name in (_FUSED_GATE_UP, _FUSED_DOWN))
    return _mixture(router, _pack_each(gate_ups, dtype), _pack_each(downs, dtype), experts)


def _pack_each(matrices: Sequence[Sequence[Weight]], dtype: torch.dtype) -> list[Linear | QuantizedLinear]:
    """The product of each expert's weights, all of one shape, merged and cast in the same memory one after the other.

    A merged copy for each would leave a hole beside each packed weight: glibc does not fill the hole of an aligned
    block with an aligned block of the same size. A 1.5 B model of 32 experts kept 0.8 GB of holes.
    """
    if any(isinstance(weight, QuantizedWeight) for weights in matrices for weight in weights):
        return [make_linear(weights, None, dtype) for weights in matrices]
    rows, columns = sum(weight.shape[0] for weight in matrices[0]), matrices[0][0].shape[1]
    merged = torch.empty(rows, columns, dtype=dtype)
    return [Linear([torch.cat(list(map(floats, weights)), out=merged)], None, dtype) for weights in matrices]


def _mixture(
    router: Linear,
    gate_ups: Sequence[Linear | QuantizedLinear],
    downs: Sequence[Linear | QuantizedLinear],
    experts: ExpertsConfig,
) -> SparseFeedForward:
    packed = [DenseFeedForward(*pair) for pair in zip(gate_ups, downs, strict=True)]
    return SparseFeedForward(router, packed, experts.num_per_token, experts.is_normed)
