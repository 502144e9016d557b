"""A step's rows as OpenVINO's paged attention wants them: one run of rows for each sequence, and its pages.

Rows of a StepBatch already lie sequence by sequence: decode rows (several of one sequence where drafts stand behind its
last token), then the chunks of prompts. A block of ours is one or more of OpenVINO's pages, whose numbers follow each
other: page = block * pages_per_block + place in the block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.engine.batch import DecodeRows, StepBatch

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Subsequences:
    """B runs of rows; the inputs of the graph that bear the fields' names."""

    past_lens: Ints  # [B]: tokens before the run's first
    subsequence_begins: Ints  # [B + 1]: first row of each, and the end
    block_indices: Ints  # [P]: pages, sequence by sequence
    block_indices_begins: Ints  # [B + 1]: first page of each, and the end
    max_context_len: Ints  # []: of the longest, its own rows included


def cut(batch: StepBatch, block_tokens: int, page_tokens: int) -> Subsequences:
    """The batch's subsequences; O(pages), no per-token Python."""
    first_rows, totals = _decode_runs(batch.decode)
    chunks = batch.prefill
    past = np.concatenate([batch.decode.lengths[first_rows] - 1, [c.context_tokens for c in chunks]])
    begins = np.concatenate([first_rows, [c.first_row for c in chunks], [len(batch.token_ids)]])
    totals = np.concatenate([totals, [c.context_tokens + c.num_tokens for c in chunks]])
    decode_pages = _decode_pages(batch.decode.blocks[first_rows], totals[: len(first_rows)], block_tokens, page_tokens)
    prefill_pages = [chunk.slots[::page_tokens].numpy() // page_tokens for chunk in chunks]
    return Subsequences(
        past_lens=past.astype(np.int32),
        subsequence_begins=begins.astype(np.int32),
        block_indices=np.concatenate([decode_pages, *prefill_pages]).astype(np.int32),
        block_indices_begins=np.concatenate([[0], np.cumsum(-(-totals // page_tokens))]).astype(np.int32),
        max_context_len=np.array(totals.max(initial=0), np.int32),
    )


def _decode_runs(rows: DecodeRows) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Each decoding sequence's first row, and its tokens up to its last row."""
    first_rows = np.flatnonzero(np.diff(rows.sequences, prepend=-1))
    last_rows = np.append(first_rows[1:], len(rows))[: len(first_rows)] - 1
    return first_rows, rows.lengths[last_rows]


def _decode_pages(blocks: Ints, totals: NDArray[Any], block_tokens: int, page_tokens: int) -> NDArray[Any]:
    """The used pages of each row of a padded block table [B, most blocks], end to end."""
    pages_per_block = block_tokens // page_tokens
    width = blocks.shape[1] * pages_per_block
    pages = (blocks[:, :, None] * pages_per_block + np.arange(pages_per_block)).reshape(len(blocks), width)
    is_used = np.arange(width) < -(-totals // page_tokens)[:, None]
    return pages[is_used]
