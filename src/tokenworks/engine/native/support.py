"""Which models the native library computes on this machine, and which of their products oneDNN computes instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import QuantizedLinear
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.models.decoder import Decoder, Layer
from tokenworks.engine.models.feed_forward import DenseFeedForward, SparseFeedForward
from tokenworks.engine.native import library

WIDEST_HEAD: Final = 256
MOST_HEADS: Final = 128
MOST_HEADS_PER_KV_HEAD: Final = 16
MATRIX_ROWS: Final = 32
"""Below, a product waits for its weights; from about here on AMX, with eight times the arithmetic, pays for itself."""


def matrix_rows(decoder: Decoder) -> int | None:
    """From how many rows on oneDNN's products are the faster ones: where it has AMX, and weights are floats."""
    has_floats = all(isinstance(product, Linear) for layer in decoder.layers for product in _products(layer))
    return MATRIX_ROWS if has_floats and "amx_bf16" in library.cpu_flags() else None


def unsupported(decoder: Decoder) -> str | None:
    """Why the library cannot run this model on this machine; None where it can."""
    if reason := library.missing():
        return f"the native library cannot be used: {reason}"
    if decoder.dtype != torch.bfloat16:
        return f"it computes in bfloat16, not {decoder.dtype}"
    return _unsupported_shape(decoder.config) or _unsupported_layout(decoder)


def _unsupported_shape(config: ModelConfig) -> str | None:
    if config.head_dim % 32 or config.head_dim > WIDEST_HEAD:
        return f"head_dim {config.head_dim} is no multiple of 32 up to {WIDEST_HEAD}"
    if config.num_heads > MOST_HEADS or config.num_heads // config.num_kv_heads > MOST_HEADS_PER_KV_HEAD:
        return f"{config.num_heads} query heads on {config.num_kv_heads} are too many"
    widths = [config.intermediate_size, *([config.experts.intermediate_size] if config.experts else [])]
    if config.hidden_size % 32 or any(width % 64 for width in widths):
        return "hidden_size must be a multiple of 32 and every intermediate_size of 64"
    return None


def _unsupported_layout(decoder: Decoder) -> str | None:
    products = [decoder.head, *(product for layer in decoder.layers for product in _products(layer))]
    if any(isinstance(product, Linear) and product.blocked_address is None for product in products):
        return "oneDNN packs weights in another layout here"
    if any(len({_form(product) for product in row}) > 1 for layer in decoder.layers for row in _expert_rows(layer)):
        return "experts of one layer are quantised in different ways"
    return None


def _products(layer: Layer) -> Iterator[Linear | QuantizedLinear]:
    yield from (layer.qkv, layer.out)
    if isinstance(layer.feed_forward, DenseFeedForward):
        yield from (layer.feed_forward.gate_up, layer.feed_forward.down)
    for row in _expert_rows(layer):
        yield from row


def _expert_rows(layer: Layer) -> list[list[Linear | QuantizedLinear]]:
    """All experts' first products, and all their second ones."""
    network = layer.feed_forward
    if not isinstance(network, SparseFeedForward):
        return []
    return [[expert.gate_up for expert in network.experts], [expert.down for expert in network.experts]]


def _form(product: Linear | QuantizedLinear) -> tuple[int, int]:
    return (product.bits, product.group_size) if isinstance(product, QuantizedLinear) else (16, 1)
