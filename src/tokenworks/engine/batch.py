"""A step plan turned into the arrays that a forward pass reads. Built once per step, with no per-token Python.

Rows are the step's tokens: first every chunk of one token (decode), then the longer chunks (prefill), each chunk's rows
together. The two kinds meet different attention code, so each has its own arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenworks.policy.scheduler import Chunk, StepPlan


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Several rows of one sequence."""

    first_row: int
    num_tokens: int
    context_tokens: int  # tokens before the chunk, already in KV
    slots: Tensor  # int64 [context_tokens + num_tokens]: where the sequence's KV lies


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One forward pass over `T` rows, `S` of them sampled from."""

    token_ids: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T]: where each row's KV is written
    sampled_rows: Tensor  # int64 [S], in the order of the plan's sampled chunks
    num_decode: int  # rows 0..num_decode-1 are decode rows
    decode_blocks: NDArray[np.int32]  # [num_decode, most blocks], padded with 0
    decode_lengths: NDArray[np.int32]  # [num_decode]: tokens attended to, the row's own included
    prefill: tuple[PrefillChunk, ...]


def build_batch(plan: StepPlan, block_tokens: int) -> StepBatch:
    """The arrays for `plan`."""
    decode = [chunk for chunk in plan.chunks if chunk.num_tokens == 1]
    longer = [chunk for chunk in plan.chunks if chunk.num_tokens > 1]
    ordered = decode + longer
    positions = np.concatenate([np.arange(c.start, c.start + c.num_tokens) for c in ordered])
    slots = np.concatenate([_slots(c, c.start, block_tokens) for c in ordered])
    blocks, lengths = _decode_tables(decode)
    last_rows = _last_rows(ordered)
    return StepBatch(
        token_ids=torch.tensor([t for c in ordered for t in c.sequence.token_ids[c.start : c.start + c.num_tokens]]),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots),
        sampled_rows=torch.tensor([last_rows[c.sequence.request.id] for c in plan.sampled], dtype=torch.int64),
        num_decode=len(decode),
        decode_blocks=blocks,
        decode_lengths=lengths,
        prefill=_prefill_chunks(longer, len(decode), block_tokens),
    )


def _slots(chunk: Chunk, start: int, block_tokens: int) -> NDArray[np.int64]:
    """Slots of the sequence's tokens from `start` to the end of the chunk."""
    positions = np.arange(start, chunk.start + chunk.num_tokens, dtype=np.int64)
    table = np.asarray(chunk.sequence.block_table, dtype=np.int64)
    return table[positions // block_tokens] * block_tokens + positions % block_tokens


def _decode_tables(decode: Sequence[Chunk]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    width = max((len(c.sequence.block_table) for c in decode), default=0)
    blocks = np.zeros((len(decode), width), dtype=np.int32)
    for row, chunk in enumerate(decode):
        table = chunk.sequence.block_table
        blocks[row, : len(table)] = table
    return blocks, np.array([chunk.start + 1 for chunk in decode], dtype=np.int32)


def _last_rows(ordered: Sequence[Chunk]) -> dict[str, int]:
    ends = np.cumsum([chunk.num_tokens for chunk in ordered]) - 1
    return {chunk.sequence.request.id: int(row) for chunk, row in zip(ordered, ends, strict=True)}


def _prefill_chunks(longer: Sequence[Chunk], first_row: int, block_tokens: int) -> tuple[PrefillChunk, ...]:
    chunks = []
    for chunk in longer:
        slots = torch.from_numpy(_slots(chunk, 0, block_tokens))
        chunks.append(PrefillChunk(first_row, chunk.num_tokens, chunk.start, slots))
        first_row += chunk.num_tokens
    return tuple(chunks)
