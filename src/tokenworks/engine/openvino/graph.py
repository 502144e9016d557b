"""The decoder of `engine/models/decoder.py` once more, as an OpenVINO graph over paged KV that the caller owns.

    x = embedded rows
    for each layer:  x = x + attention(norm(x));  x = x + down(silu(gate(norm(x))) * up(norm(x)))
    logits = head(norm(x[sampled_rows]))

Built from the Hugging Face checkpoint alone. Embeddings and the rotary tables' rows come in as inputs: both are a few
rows of a table, which is thus mapped, or shared, instead of being a constant of the graph. Each piece is written in the
form that the plugins recognise and fuse: RMS norms, rotary halves (`x * cos + [-x2, x1] * sin`), gated networks.

Shape suffixes: T rows of the step, H query heads, K kv heads, D head_dim, S sampled rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tokenworks.contract.errors import StartupError
from tokenworks.engine.checkpoint import EMBEDDING, HEAD
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.models.decoder import Progress, layer_shapes
from tokenworks.engine.openvino.cache import NAMES, PAGE_TOKENS
from tokenworks.engine.openvino.constants import Constants, Node
from tokenworks.engine.openvino.library import PagedAttention, ops, ov

_INT32_MAX: Final = 2**31 - 1
_F32: Final = ov.Type.f32
_I32: Final = ov.Type.i32


@dataclass(frozen=True, slots=True)
class Inputs:
    """The graph's inputs besides the caches; names as in `subsequences.Subsequences`."""

    hidden: Node  # float32 [T, hidden]: embedded rows
    cos: Node  # float32 [T, 1, 1, D]: of each row's position
    sin: Node  # float32 [T, 1, 1, D]
    past_lens: Node
    subsequence_begins: Node
    block_indices: Node
    block_indices_begins: Node
    max_context_len: Node
    sampled_rows: Node  # int32 [S]


def build_graph(config: ModelConfig, constants: Constants, kv_type: Any, progress: Progress) -> Any:
    """The whole model, an `openvino.Model`; its one output is the logits, float32 [S, vocab]."""
    inputs = _inputs(config)
    caches: list[Node] = []
    x = inputs.hidden
    for index in range(config.num_layers):
        layer = GraphLayer(config, constants, index)
        caches += (layer_caches := _caches(config, index, kv_type))
        x = layer.after(x, inputs, layer_caches)
        progress(index + 1, config.num_layers)
    logits = _head(config, constants, ops.gather(x, inputs.sampled_rows, np.int32(0)))
    parameters = [getattr(inputs, name) for name in Inputs.__slots__] + caches
    return ov.Model([logits], parameters, "tokenworks")


def _inputs(config: ModelConfig) -> Inputs:
    turned = [-1, 1, 1, config.head_dim]
    return Inputs(
        hidden=_parameter("hidden", [-1, config.hidden_size], _F32),
        cos=_parameter("cos", turned, _F32),
        sin=_parameter("sin", turned, _F32),
        past_lens=_parameter("past_lens", [-1], _I32),
        subsequence_begins=_parameter("subsequence_begins", [-1], _I32),
        block_indices=_parameter("block_indices", [-1], _I32),
        block_indices_begins=_parameter("block_indices_begins", [-1], _I32),
        max_context_len=_parameter("max_context_len", [], _I32),
        sampled_rows=_parameter("sampled_rows", [-1], _I32),
    )


def _caches(config: ModelConfig, index: int, kv_type: Any) -> list[Node]:
    shape = [-1, config.num_kv_heads, PAGE_TOKENS, config.head_dim]
    return [_parameter(f"{name}.{index}", shape, kv_type) for name in NAMES]


def _parameter(name: str, shape: list[int], kind: Any) -> Node:
    node = ops.parameter(ov.PartialShape(shape), kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _head(config: ModelConfig, constants: Constants, x: Node) -> Node:
    name = EMBEDDING if config.is_tied else HEAD
    norm = constants.vectors({"model.norm.weight": (config.hidden_size,)})["model.norm.weight"]
    table = constants.matrices({name: (config.vocab_size, config.hidden_size)})[name]
    return ops.matmul(_rms_norm(x, norm, config.rms_norm_eps), table, False, True)


class GraphLayer:
    """Adds one layer's nodes."""

    def __init__(self, config: ModelConfig, constants: Constants, index: int) -> None:
        self._config = config
        self._window = config.windows[index]
        prefix = f"model.layers.{index}."
        shapes = {prefix + name: shape for name, shape in layer_shapes(config, index).items()}
        nodes = constants.vectors({name: shape for name, shape in shapes.items() if len(shape) == 1})
        for part in ("self_attn.", "mlp."):  # as our own decoder reads them: rounded weights are kept on disk by part
            within = {name: shape for name, shape in shapes.items() if name.startswith(prefix + part)}
            nodes |= constants.matrices({name: shape for name, shape in within.items() if len(shape) == 2})
        self._nodes = {name.removeprefix(prefix): node for name, node in nodes.items()}

    def after(self, x: Node, inputs: Inputs, caches: list[Node]) -> Node:
        """The residual after this layer, [T, hidden]."""
        x = ops.add(x, self._attention(self._norm("input_layernorm", x), inputs, caches))
        return ops.add(x, self._feed_forward(self._norm("post_attention_layernorm", x)))

    def _attention(self, x: Node, inputs: Inputs, caches: list[Node]) -> Node:
        config = self._config
        query = self._turned(x, "q", config.num_heads, inputs)
        key = self._turned(x, "k", config.num_kv_heads, inputs)
        value = self._linear("self_attn.v_proj", x)
        scale = np.float32(config.head_dim**-0.5)
        attended = paged_attention([query, key, value], caches, inputs, scale, self._window or 0, self._config)
        return self._linear("self_attn.o_proj", attended)

    def _turned(self, x: Node, which: str, num_heads: int, inputs: Inputs) -> Node:
        """Queries or keys after norm and rotary embedding, [T, heads * D]."""
        heads = ops.reshape(
            self._linear(f"self_attn.{which}_proj", x), _shape(0, num_heads, 1, self._config.head_dim), True
        )
        if self._config.has_qk_norm:
            heads = self._norm(f"self_attn.{which}_norm", heads)
        return ops.reshape(_rotated(heads, inputs, self._config.head_dim), _shape(0, -1), True)

    def _feed_forward(self, x: Node) -> Node:
        gated = ops.multiply(ops.swish(self._linear("mlp.gate_proj", x)), self._linear("mlp.up_proj", x))
        return self._linear("mlp.down_proj", gated)

    def _linear(self, name: str, x: Node) -> Node:
        product = ops.matmul(x, self._nodes[f"{name}.weight"], False, True)
        bias = self._nodes.get(f"{name}.bias")
        return product if bias is None else ops.add(product, bias)

    def _norm(self, name: str, x: Node) -> Node:
        return _rms_norm(x, self._nodes[f"{name}.weight"], self._config.rms_norm_eps)


def _rms_norm(x: Node, weight: Node, eps: float) -> Node:
    """Root-mean-square norm over the last dimension."""
    mean = ops.reduce_mean(ops.power(x, np.float32(2)), np.array([-1], np.int64), keep_dims=True)
    factor = ops.divide(np.float32(1), ops.sqrt(ops.add(mean, np.float32(eps))))
    return ops.multiply(ops.multiply(x, factor), weight)


def _rotated(heads: Node, inputs: Inputs, head_dim: int) -> Node:
    """Rotary embedding of [T, heads, 1, D]: halves are turned, as in Hugging Face checkpoints."""
    half = head_dim // 2

    def part(start: int, stop: int) -> Node:
        return ops.slice(heads, *(np.array([number], np.int64) for number in (start, stop, 1, 3)))

    swapped = ops.concat([ops.multiply(part(half, _INT32_MAX), np.float32(-1)), part(0, half)], -1)
    return ops.add(ops.multiply(heads, inputs.cos), ops.multiply(swapped, inputs.sin))


def paged_attention(
    rows: list[Node], caches: list[Node], inputs: Inputs, scale: np.float32, window: int, config: ModelConfig
) -> Node:
    """Write the rows' keys and values to their pages, then attend: [T, H * D].

    The operator is no part of an opset: these are its inputs in 2026.4, and another release may want others (see
    `library`). What is not used is given as it would be by OpenVINO's own conversion: empty.
    """
    given = [*rows, *caches, inputs.past_lens, inputs.subsequence_begins, inputs.block_indices]
    given += [inputs.block_indices_begins, ops.constant(scale), _int(window), _none(_F32), inputs.max_context_len]
    unused = [
        *(_none(_I32), _none(_I32), _none(_I32), _none(_F32)),  # score aggregation; rotation of cached keys
        *(_none(_F32), _int(0), _int(0)),  # sparse attention
        _none(_F32, 4),  # sinks
        *(_int(0), _none(_I32), _none(_I32), _none(_I32)),  # eviction
        *(_none(_I32), _none(ov.Type.u8), _none(_I32)),  # token types; tree attention
    ]
    outputs = [node if isinstance(node, ov.Output) else node.output(0) for node in (*given, *unused)]
    try:
        node = PagedAttention(outputs)
    except RuntimeError as error:
        raise StartupError(
            f"OpenVINO {ov.__version__} wants other inputs of its paged attention: install 2026.4 ({error})"
        ) from error
    for side in "kv":
        node.set_rt_info(config.num_kv_heads, f"num_{side}_heads")
        node.set_rt_info(config.head_dim, f"{side}_head_size")
    return node.output(0)


def _none(kind: Any, rank: int = 1) -> Node:
    return ov.op.Constant(kind, ov.Shape([0] * rank), [])


def _int(value: int) -> Node:
    return ops.constant(np.int32(value))


def _shape(*sizes: int) -> Any:
    return np.array(sizes, np.int64)
