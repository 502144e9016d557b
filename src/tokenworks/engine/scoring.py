"""What the model says of a given text: the logits after each token, for measuring quality rather than for serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tokenworks.contract.kv import KVSpec
from tokenworks.engine.batch import DecodeRows, PrefillChunk, StepBatch
from tokenworks.engine.kv_cache import KVCache

Model = Callable[[StepBatch, KVCache], Tensor]


@torch.inference_mode()
def logits_after_each(model: Model, spec: KVSpec, token_ids: Sequence[int]) -> Tensor:
    """float32 [tokens, vocab]: one step over the whole text (two tokens or more), in KV of its own."""
    count = len(token_ids)
    rows, nobody = torch.arange(count), np.zeros(0, dtype=np.int32)
    batch = StepBatch(
        token_ids=torch.tensor(token_ids),
        positions=rows,
        slots=rows,
        sampled_rows=rows,
        decode=DecodeRows(np.zeros((0, 0), dtype=np.int32), nobody, nobody),
        prefill=(PrefillChunk(0, count, 0, rows),),
    )
    return model(batch, KVCache(spec, -(-count // spec.block_tokens)))
