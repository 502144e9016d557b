"""The decoder's forward step through the compiled library: same weights, same KV, same results up to rounding.

Built from a `Decoder`, whose packed weights it reads in place. One call computes the step: nothing between the layers
returns to Python. The residual stays in float32; what the products read is bf16 (or quantised from it).

Invariant: a model that the library cannot compute (`native/support.py` says why) is left to the decoder, its oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.batch import Splits, StepBatch
from tokenworks.engine.kv_cache import KVCache
from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import QuantizedLinear
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
    Part,
    PiecesStruct,
    pointer,
)
from tokenworks.engine.native.packing import pack, unpacked
from tokenworks.engine.native.workspace import Workspace

_EMBEDDING_KINDS: Final = {torch.bfloat16: 0, torch.float32: 1, torch.float16: 2}


class NativeDecoder:
    """A decoder whose steps run in the library, which takes it over and keeps alive what it gave addresses of."""

    def __init__(self, decoder: Decoder, num_threads: int, matrix_rows: int | None) -> None:
        """`matrix_rows`: from so many rows on, oneDNN computes the products; None: never."""
        self.decoder = decoder
        self._matrix_rows = matrix_rows
        self.config = decoder.config
        self.weights = decoder.weights
        self.dtype = decoder.dtype
        self._num_threads = num_threads
        self._kept: list[Any] = []
        self._windows = tuple(dict.fromkeys(self.config.windows))
        self._layers = (LayerStruct * self.config.num_layers)(*map(self._layer, decoder.layers))
        self._model = self._model_struct()
        self._workspace = Workspace(self.config, num_threads)
        self._library = library.load()

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""
        return self.decoder.num_bytes

    def step_bytes(self, num_rows: int) -> int:
        """Bytes of packed weights that a step over `num_rows` rows reads."""
        return self.decoder.step_bytes(num_rows)

    def make_cache(self, spec: KVSpec, num_blocks: int) -> KVCache:
        """KV memory for its steps: the decoder's own kind."""
        return self.decoder.make_cache(spec, num_blocks)

    def __call__(self, batch: StepBatch, cache: KVCache) -> Tensor:
        """Compute the batch's rows, writing their KV; float32 [sampled rows, vocab], good until the next call."""
        pieces = [batch.decode.splits(window) for window in self._windows]
        space = self._workspace.of(len(batch.token_ids), max(len(piece.rows) for piece in pieces))
        logits = self._workspace.logits(len(batch.sampled_rows))
        kv, rows = kv_struct(cache), batch_struct(batch, pieces)
        step = [byref(self._model), byref(kv), byref(rows), byref(space), logits.data_ptr()]
        if self._matrix_rows is not None and len(batch.token_ids) >= self._matrix_rows:
            self._with_matrix_units(step, len(batch.token_ids))
        else:
            self._library.tw_forward(*step, self._num_threads)
        return logits

    def _with_matrix_units(self, step: list[Any], rows: int) -> None:
        """The same step, its dense layers' products by oneDNN, which uses AMX; the library does what is in between."""
        space = self._workspace

        def run(part: Part, layer: int = 0) -> None:
            self._library.tw_part(*step, part, layer, self._num_threads)

        run(Part.EMBED)
        for index, layer in enumerate(self.decoder.layers):
            run(Part.INPUT_NORM, index)
            space.lend("qkv", self._product(layer.qkv, "normed", rows))
            run(Part.ATTENTION, index)
            space.lend("delta", self._product(layer.out, "attention", rows))
            run(Part.ADD_AND_POST_NORM, index)
            if isinstance(layer.feed_forward, DenseFeedForward):
                space.lend("gate_up", self._product(layer.feed_forward.gate_up, "normed", rows))
                run(Part.GATE, index)
                space.lend("delta", self._product(layer.feed_forward.down, "inner", rows))
                run(Part.ADD, index)
            else:
                run(Part.EXPERTS, index)
        run(Part.HEAD)
        space.take_back("qkv")

    def _product(self, linear: Linear | QuantizedLinear, name: str, rows: int) -> Tensor:
        return linear(self._workspace.rows(name, rows, linear.in_features))

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
            embedding_kind=_EMBEDDING_KINDS[decoder.embedding.dtype],
            embedding=pointer(decoder.embedding),
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

    def _linear(self, linear: Linear | QuantizedLinear) -> LinearStruct:
        packed = pack(linear)
        self._kept.append(packed.kept)
        return packed.struct


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
        token_ids=batch.token_ids.data_ptr(),
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
