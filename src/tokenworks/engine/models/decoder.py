"""One decoder for Llama 3, Qwen2/2.5, Qwen3, Qwen3-MoE, Mistral and Mixtral.

    x = embedding[tokens]
    for each layer:  x = x + attention(norm(x));  x = x + feed_forward(norm(x))
    logits = head(norm(x))           only for the rows that a token is sampled from

What differs between the families is in ModelConfig. Shape suffixes: T rows, H query heads, K kv heads, D head_dim.
Query, key and value are one product. The embedding table stays mapped from its file: a step
touches a few rows of it, and where it doubles as the output projection, only the packed form lives in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.attention import attend
from tokenworks.engine.batch import StepBatch
from tokenworks.engine.checkpoint import EMBEDDING, HEAD, WeightSource
from tokenworks.engine.kernels.rows import HeadPreparation, add_rms_norm, rms_norm
from tokenworks.engine.kv_cache import KVCache
from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import QuantizedLinear, make_linear
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.models.feed_forward_weights import feed_forward_shapes, read_feed_forward
from tokenworks.engine.rope import rope_table

Progress = Callable[[int, int], None]  # (layers done, layers in all)


class Norm:
    """Root-mean-square norm over the last dimension."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight.to(torch.float32, copy=True)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of rows."""
        return rms_norm(x, self.weight, self.eps)

    def after_adding(self, delta: Tensor, x: Tensor) -> Tensor:
        """Add `delta` to `x` in place, and return the norm of the sum."""
        return add_rms_norm(x, delta, self.weight, self.eps)


class Layer:
    """Attention and feed-forward network, each around a residual."""

    def __init__(self, index: int, config: ModelConfig, checkpoint: WeightSource, dtype: torch.dtype) -> None:
        self.index = index
        self.config = config
        prefix = f"model.layers.{index}."
        shapes = {prefix + name: shape for name, shape in _attention_shapes(config).items()}
        tensors = checkpoint.read({name: shape for name, shape in shapes.items() if len(shape) == 1})
        matrices = checkpoint.read_matrices({name: shape for name, shape in shapes.items() if len(shape) == 2})

        def linear(has_bias: bool, *names: str) -> Linear | QuantizedLinear:
            weights = [matrices[f"{prefix}{name}.weight"] for name in names]
            biases = [tensors[f"{prefix}{name}.bias"] for name in names] if has_bias else None
            return make_linear(weights, biases, dtype)

        def norm(name: str) -> Norm:
            return Norm(tensors[f"{prefix}{name}.weight"], config.rms_norm_eps)

        self.qkv = linear(config.has_qkv_bias, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = linear(config.has_output_bias, "self_attn.o_proj")
        self.feed_forward = read_feed_forward(config, index, checkpoint, dtype)
        self.input_norm = norm("input_layernorm")
        self.post_norm = norm("post_attention_layernorm")
        head_norms = (norm("self_attn.q_norm").weight, norm("self_attn.k_norm").weight) if config.has_qk_norm else None
        self.prepare_heads = HeadPreparation(config.num_heads, head_norms, config.rms_norm_eps)

    def __call__(self, x: Tensor, delta: Tensor, rope: Tensor, cache: KVCache, batch: StepBatch) -> Tensor:
        """Add `delta`, the layer before's last product, to the residual `x` in place; returns this layer's."""
        attention = self._attention(self.input_norm.after_adding(delta, x), rope, cache, batch)
        return self.feed_forward(self.post_norm.after_adding(self.out(attention), x))

    def _attention(self, x: Tensor, rope: Tensor, cache: KVCache, batch: StepBatch) -> Tensor:
        keys, values = cache.keys(self.index), cache.values(self.index)
        query_THD = self.prepare_heads(self.qkv(x), rope, batch.positions, batch.slots, keys, values)
        return attend(query_THD, cache, self.index, batch, self.config.windows[self.index]).flatten(1)

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""
        return self.qkv.num_bytes + self.out.num_bytes + self.feed_forward.num_bytes

    def step_bytes(self, num_rows: int) -> int:
        """Bytes of packed weights that a step over `num_rows` rows reads."""
        return self.qkv.num_bytes + self.out.num_bytes + self.feed_forward.step_bytes(num_rows)


def layer_shapes(config: ModelConfig, index: int) -> dict[str, tuple[int, ...]]:
    """Tensor names, below `model.layers.N.`, and shapes of layer `index`."""
    return {**_attention_shapes(config), **feed_forward_shapes(config, index)}


def _attention_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of the attention and of both norms."""
    hidden = config.hidden_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    products = {
        "self_attn.q_proj": (query, hidden, config.has_qkv_bias),
        "self_attn.k_proj": (key, hidden, config.has_qkv_bias),
        "self_attn.v_proj": (key, hidden, config.has_qkv_bias),
        "self_attn.o_proj": (hidden, query, config.has_output_bias),
    }
    for name, (rows, columns, has_bias) in products.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if has_bias:
            shapes[f"{name}.bias"] = (rows,)
    if config.has_qk_norm:
        shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


class Decoder:
    """The whole model, weights packed."""

    def __init__(
        self, config: ModelConfig, checkpoint: WeightSource, dtype: torch.dtype, max_tokens: int, progress: Progress
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.weights = checkpoint.form(dtype)
        table = (config.vocab_size, config.hidden_size)
        self.layers: list[Layer] = []
        for index in range(config.num_layers):
            self.layers.append(Layer(index, config, checkpoint, dtype))
            progress(index + 1, config.num_layers)
        self.norm = Norm(_read_one(checkpoint, "model.norm.weight", table[1:]), config.rms_norm_eps)
        head_name = EMBEDDING if config.is_tied else HEAD
        self.head = make_linear([checkpoint.read_matrices({head_name: table})[head_name]], None, dtype)
        _read_one(checkpoint, EMBEDDING, table)  # to be hashed; the mapping that is kept has touched no page yet
        self.embedding = _read_one(checkpoint, EMBEDDING, table)
        self.rope = rope_table(config, max_tokens)

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""
        return sum(layer.num_bytes for layer in self.layers) + self.head.num_bytes

    def step_bytes(self, num_rows: int) -> int:
        """Bytes of packed weights that a step over `num_rows` rows reads: all, but for the experts that rest.

        Exact for one row; for more, what a router that spreads them evenly would be expected to read.
        """
        return sum(layer.step_bytes(num_rows) for layer in self.layers) + self.head.num_bytes

    def make_cache(self, spec: KVSpec, num_blocks: int) -> KVCache:
        """KV memory for its steps."""
        return KVCache(spec, num_blocks)

    def __call__(self, batch: StepBatch, cache: KVCache) -> Tensor:
        """Compute the batch's rows, writing their KV; logits float32 [sampled rows, vocab]."""
        x = F.embedding(batch.token_ids, self.embedding).to(self.dtype)
        delta = torch.zeros_like(x)
        for layer in self.layers:
            delta = layer(x, delta, self.rope, cache, batch)
        rows = batch.sampled_rows
        return self.head(self.norm(x[rows] + delta[rows])).float()


def _read_one(checkpoint: WeightSource, name: str, shape: tuple[int, ...]) -> Tensor:
    return checkpoint.read({name: shape})[name]
