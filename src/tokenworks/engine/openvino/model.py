"""A compiled OpenVINO graph as the engine's `Model`: a step's arrays in, logits out.

The inference request is bound to one cache's memory at its first step, so that a step sets only its own small inputs.
Inputs are shared, never copied: their arrays live until the step is done.

Invariant: the logits are OpenVINO's own memory, good until the next call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.batch import StepBatch
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.openvino.cache import PAGE_TOKENS, OpenVINOCache
from tokenworks.engine.openvino.library import ov
from tokenworks.engine.openvino.subsequences import cut


class OpenVINOModel:
    """One compiled model and its one inference request."""

    def __init__(
        self,
        *,
        compiled: Any,
        config: ModelConfig,
        embedding: Tensor,
        rope: Tensor,
        weights: str,
        dtype: torch.dtype,
        num_bytes: int,
        kept: list[Any],
    ) -> None:
        """`embedding` [vocab, hidden] may be a mapped file; `rope` is `rope_table`'s; `kept` is `Constants.kept`."""
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.num_bytes = num_bytes
        self._request = compiled.create_infer_request()
        self._embedding = embedding
        self._rope = rope
        self._kept = kept
        self._bound: OpenVINOCache | None = None

    def step_bytes(self, num_rows: int) -> int:
        """All of them, for any number of rows."""
        return self.num_bytes

    def make_cache(self, spec: KVSpec, num_blocks: int) -> OpenVINOCache:
        """The KV memory that its steps read and write."""
        return OpenVINOCache(spec, num_blocks)

    def __call__(self, batch: StepBatch, cache: OpenVINOCache) -> Tensor:
        """Compute the batch's rows, writing their KV; float32 [sampled rows, vocab], good until the next call."""
        self._bind(cache)
        inputs = self._inputs(batch, cache.spec.block_tokens)
        for name, array in inputs.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor(0).data)

    def _bind(self, cache: OpenVINOCache) -> None:
        if self._bound is cache:
            return
        for name, tensor in cache.tensors().items():
            self._request.set_tensor(name, tensor)
        self._bound = cache

    def _inputs(self, batch: StepBatch, block_tokens: int) -> dict[str, Any]:
        runs = cut(batch, block_tokens, PAGE_TOKENS)
        turns = self._rope[batch.positions]  # [T, 2, D / 2]
        both = torch.cat((turns, turns), dim=-1)[:, :, None, None, :]
        return {
            "hidden": F.embedding(batch.token_ids, self._embedding).float().numpy(),
            "cos": both[:, 0].contiguous().numpy(),
            "sin": both[:, 1].contiguous().numpy(),
            "sampled_rows": batch.sampled_rows.numpy().astype(np.int32),
            **{name: getattr(runs, name) for name in runs.__slots__},
        }
