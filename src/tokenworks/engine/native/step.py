"""The decoder's forward step through the compiled library: same weights, same KV, same results up to rounding.

Built from a `Decoder`, whose packed weights it reads in place. One call computes the step: nothing between the layers
returns to Python. The residual stays in float32; what the products read is bf16 (or quantised from it).

Invariant: a model that the library cannot compute (`unsupported` says why) is left to the decoder, which is the oracle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import byref
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.engine.batch import Splits, StepBatch
from tokenworks.engine.kv_cache import KVCache
from tokenworks.engine.linear import Linear
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.models.decoder import Decoder, Layer
from tokenworks.engine.models.feed_forward import DenseFeedForward, FeedForward, SparseFeedForward
from tokenworks.engine.native import library
from tokenworks.engine.native.library import (
    BatchStruct,
    ChunkStruct,
    KVStruct,
    LayerStruct,
    LinearStruct,
    ModelStruct,
    PiecesStruct,
    pointer,
)
from tokenworks.engine.native.workspace import Workspace

WIDEST_HEAD: Final = 256
MOST_HEADS: Final = 128
MOST_HEADS_PER_KV_HEAD: Final = 16


class NativeDecoder:
    """A decoder whose steps run in the library. Keeps every tensor alive whose address it handed over."""

    def __init__(self, decoder: Decoder, num_threads: int) -> None:
        self.decoder = decoder
        self.config = decoder.config
        self.dtype = decoder.dtype
        self._num_threads = num_threads
        self._kept: list[Any] = []
        self._windows = tuple(dict.fromkeys(self.config.windows))
        self._layers = (LayerStruct * self.config.num_layers)(*map(self._layer, decoder.layers))
        self._model = self._model_struct()
        self._workspace = Workspace(self.config)
        self._forward = library.load().tw_forward

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""
        return self.decoder.num_bytes

    def step_bytes(self, num_rows: int) -> int:
        """Bytes of packed weights that a step over `num_rows` rows reads."""
        return self.decoder.step_bytes(num_rows)

    def __call__(self, batch: StepBatch, cache: KVCache) -> Tensor:
        """Compute the batch's rows, writing their KV; logits float32 [sampled rows, vocab]."""
        pieces = [batch.decode.splits(window) for window in self._windows]
        space = self._workspace.of(len(batch.token_ids), max(len(piece.rows) for piece in pieces))
        self._workspace.residual[: len(batch.token_ids)] = F.embedding(batch.token_ids, self.decoder.embedding)
        logits = torch.empty(len(batch.sampled_rows), self.config.vocab_size)
        kv, rows = kv_struct(cache), batch_struct(batch, pieces)
        self._forward(byref(self._model), byref(kv), byref(rows), byref(space), logits.data_ptr(), self._num_threads)
        return logits

    def _model_struct(self) -> ModelStruct:
        config, decoder, experts = self.config, self.decoder, self.config.experts
        return ModelStruct(
            num_layers=config.num_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            num_experts=experts.num_experts if experts else 0,
            experts_per_token=experts.num_per_token if experts else 0,
            normalises_experts=experts.is_normed if experts else 0,
            eps=config.rms_norm_eps,
            rope=pointer(decoder.rope),
            final_norm=pointer(decoder.norm.weight),
            layers=self._layers,
            head=self._linear(decoder.head),
        )

    def _layer(self, layer: Layer) -> LayerStruct:
        norms = layer.prepare_heads.norms or (None, None)
        window = self.config.windows[layer.index]
        struct = LayerStruct(
            input_norm=pointer(layer.input_norm.weight),
            post_norm=pointer(layer.post_norm.weight),
            query_norm=pointer(norms[0]),
            key_norm=pointer(norms[1]),
            qkv=self._linear(layer.qkv),
            out=self._linear(layer.out),
            window_index=self._windows.index(window),
            window=window or 0,
        )
        self._add_feed_forward(struct, layer.feed_forward)
        return struct

    def _add_feed_forward(self, struct: LayerStruct, network: FeedForward) -> None:
        if isinstance(network, DenseFeedForward):
            struct.gate_up, struct.down = self._linear(network.gate_up), self._linear(network.down)
            return
        assert isinstance(network, SparseFeedForward)
        router = unpacked(network.router)
        self._kept.append(router)
        count = len(network.experts)
        struct.router = pointer(router)
        struct.gate_up_of = (LinearStruct * count)(*(self._linear(expert.gate_up) for expert in network.experts))
        struct.down_of = (LinearStruct * count)(*(self._linear(expert.down) for expert in network.experts))

    def _linear(self, linear: Linear) -> LinearStruct:
        bias = None if linear.bias is None else linear.bias.float()
        self._kept.append(bias)
        return LinearStruct(
            kind=0,
            out_features=linear.out_features,
            in_features=linear.in_features,
            weights=linear.blocked_address,
            bias=pointer(bias),
        )


def unpacked(linear: Linear) -> Tensor:
    """The weights as float32 [out, in]: products with unit vectors are exact."""
    return linear(torch.eye(linear.in_features, dtype=torch.bfloat16)).T.float().contiguous()


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
    linears = [decoder.head, *(linear for layer in decoder.layers for linear in _linears(layer))]
    return None if all(linear.blocked_address for linear in linears) else "oneDNN packs weights in another layout here"


def _linears(layer: Layer) -> Iterator[Linear]:
    yield from (layer.qkv, layer.out)
    network = layer.feed_forward
    for part in network.experts if isinstance(network, SparseFeedForward) else [network]:
        assert isinstance(part, DenseFeedForward)
        yield from (part.gate_up, part.down)


def kv_struct(cache: KVCache) -> KVStruct:
    """The cache's memory."""
    return KVStruct(
        data=cache.data.data_ptr(),
        scales=None if cache.scales is None else cache.scales.data_ptr(),
        num_slots=cache.data.shape[2],
        block_tokens=cache.spec.block_tokens,
    )


def batch_struct(batch: StepBatch, pieces: Sequence[Splits]) -> BatchStruct:
    """The batch's arrays; `pieces` has the decode rows' cut for each distinct window."""
    chunks = [
        ChunkStruct(chunk.first_row, chunk.num_tokens, chunk.context_tokens, chunk.slots.data_ptr())
        for chunk in batch.prefill
    ]
    cuts = [
        PiecesStruct(len(cut.rows), *(_address(a) for a in (cut.rows, cut.starts, cut.ends, cut.first_of)))
        for cut in pieces
    ]
    return BatchStruct(
        num_rows=len(batch.token_ids),
        num_decode_rows=len(batch.decode),
        num_chunks=len(chunks),
        num_sampled=len(batch.sampled_rows),
        table_width=batch.decode.blocks.shape[1],
        positions=batch.positions.data_ptr(),
        slots=batch.slots.data_ptr(),
        blocks=_address(batch.decode.blocks),
        pieces=(PiecesStruct * len(cuts))(*cuts),
        chunks=(ChunkStruct * len(chunks))(*chunks),
        sampled_rows=batch.sampled_rows.data_ptr(),
    )


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])
