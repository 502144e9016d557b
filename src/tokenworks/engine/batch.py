"""A step plan turned into the arrays that a forward pass reads. Built once per step, with no per-token Python.

Rows are the step's tokens: first the chunks that decode (one token, and drafts behind it), then the longer ones
(prefill), each chunk's rows together. The two kinds meet different attention code, so each has its own arrays. A draft
is a decode row like any other, so that it is computed just as it would be in a step of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenworks.policy.step_plan import Chunk, StepPlan

SPLIT_TOKENS: Final = 128
"""Long enough that merging the pieces costs little, short enough that two cores share one long context evenly."""


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Several rows of one sequence."""

    first_row: int
    num_tokens: int
    context_tokens: int  # tokens before the chunk, already in KV
    slots: Tensor  # int64 [context_tokens + num_tokens]: where the sequence's KV lies


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Rows 0..B-1 of the step; those of one sequence follow each other, each a token longer than the one before."""

    blocks: NDArray[np.int32]  # [B, most blocks], padded with 0
    lengths: NDArray[np.int32]  # [B]: tokens attended to, the row's own included
    sequences: NDArray[np.int32]  # [B]: 0, 1, ... in order; rows with the same number share their blocks
    _splits: dict[int | None, Splits] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    def splits(self, window: int | None) -> Splits:
        """The cut for layers with this window; made once a step, not once a layer."""
        if window not in self._splits:
            self._splits[window] = cut_into_splits(self.lengths, window)
        return self._splits[window]


@dataclass(frozen=True, slots=True)
class Splits:
    """The decode rows' contexts, cut into pieces for threads to share; a row's pieces follow each other."""

    rows: NDArray[np.int32]  # [pieces]
    starts: NDArray[np.int32]  # [pieces]: first token
    ends: NDArray[np.int32]  # [pieces]: one past the last token
    first_of: NDArray[np.int32]  # [B + 1]: each row's first piece
    num_tokens: int  # of all pieces


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One forward pass over `T` rows, `S` of them sampled from: one or more a sampled chunk."""

    token_ids: Tensor  # int64 [T]
    positions: Tensor  # int64 [T]
    slots: Tensor  # int64 [T]: where each row's KV is written
    sampled_rows: Tensor  # int64 [S], in the order of the plan's sampled chunks
    decode: DecodeRows
    prefill: tuple[PrefillChunk, ...]


def build_batch(plan: StepPlan, block_tokens: int) -> StepBatch:
    """The arrays for `plan`."""
    decode = [chunk for chunk in plan.chunks if _is_decode(chunk)]
    longer = [chunk for chunk in plan.chunks if not _is_decode(chunk)]
    ordered = decode + longer
    prefill = _prefill_chunks(longer, sum(c.num_tokens for c in decode), block_tokens)
    own_slots = [slot for chunk in decode for slot in _decode_slots(chunk, block_tokens)]
    slots = [_integers(own_slots), *(chunk.slots[chunk.context_tokens :] for chunk in prefill)]
    return StepBatch(
        token_ids=_integers([t for c in ordered for t in c.token_ids]),
        positions=_integers([p for c in ordered for p in range(c.start, c.start + c.num_tokens)]),
        slots=torch.cat(slots) if prefill else slots[0],
        sampled_rows=_integers(_sampled_rows(plan, ordered)),
        decode=_decode_rows(decode),
        prefill=prefill,
    )


def _integers(values: list[int]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _is_decode(chunk: Chunk) -> bool:
    return chunk.num_tokens == 1 or bool(chunk.drafts)


def _slots(chunk: Chunk, block_tokens: int) -> Tensor:
    """Slots of the sequence's tokens up to the end of the chunk."""
    positions = np.arange(chunk.start + chunk.num_tokens, dtype=np.int64)
    table = np.asarray(chunk.sequence.block_table, dtype=np.int64)
    return torch.from_numpy(table[positions // block_tokens] * block_tokens + positions % block_tokens)


def _decode_slots(chunk: Chunk, block_tokens: int) -> list[int]:
    """Slots of the chunk's own tokens; a long block table is not turned into an array for these few."""
    table = chunk.sequence.block_table
    positions = range(chunk.start, chunk.start + chunk.num_tokens)
    return [table[p // block_tokens] * block_tokens + p % block_tokens for p in positions]


def _decode_rows(decode: Sequence[Chunk]) -> DecodeRows:
    width = max((len(c.sequence.block_table) for c in decode), default=0)
    tables = np.zeros((len(decode), width), dtype=np.int32)
    for index, chunk in enumerate(decode):
        table = chunk.sequence.block_table
        tables[index, : len(table)] = table
    lengths = [length for chunk in decode for length in range(chunk.start + 1, chunk.start + 1 + chunk.num_tokens)]
    sequences = np.repeat(np.arange(len(decode), dtype=np.int32), [chunk.num_tokens for chunk in decode])
    return DecodeRows(tables[sequences], np.array(lengths, dtype=np.int32), sequences)


def cut_into_splits(lengths: NDArray[np.int32], window: int | None) -> Splits:
    """Pieces of SPLIT_TOKENS tokens of each row's last `window` tokens. A row's cut depends on that row alone."""
    return Splits(*_cut(lengths, lengths.max(initial=0) if window is None else window))


@numba.njit(cache=True)
def _cut(lengths: NDArray[np.int32], window: int) -> Any:
    """The fields of Splits: twenty small NumPy calls would take longer than a layer's attention to short contexts."""
    num_pieces = num_tokens = 0
    for length in lengths:
        num_tokens += min(length, window)
        num_pieces += (min(length, window) + SPLIT_TOKENS - 1) // SPLIT_TOKENS
    pieces = np.empty((3, num_pieces), np.int32)
    first_of = np.zeros(len(lengths) + 1, np.int32)
    piece = 0
    for row in range(len(lengths)):
        for start in range(lengths[row] - min(lengths[row], window), lengths[row], SPLIT_TOKENS):
            pieces[0, piece], pieces[1, piece] = row, start
            pieces[2, piece] = min(start + SPLIT_TOKENS, lengths[row])
            piece += 1
        first_of[row + 1] = piece
    return pieces[0], pieces[1], pieces[2], first_of, num_tokens


def _sampled_rows(plan: StepPlan, ordered: Sequence[Chunk]) -> list[int]:
    """The last rows of each sampled chunk, in the plan's order."""
    ends = dict(zip((c.sequence.request.id for c in ordered), accumulate(c.num_tokens for c in ordered), strict=True))
    spans = ((ends[c.sequence.request.id], c.num_sampled) for c in plan.sampled)
    return [row for end, count in spans for row in range(end - count, end)]


def _prefill_chunks(longer: Sequence[Chunk], first_row: int, block_tokens: int) -> tuple[PrefillChunk, ...]:
    chunks = []
    for chunk in longer:
        slots = _slots(chunk, block_tokens)
        chunks.append(PrefillChunk(first_row, chunk.num_tokens, chunk.start, slots))
        first_row += chunk.num_tokens
    return tuple(chunks)
