"""Penalties on tokens that a sequence has already, laid on its rows of logits for as long as tokens are chosen.

Only the logits of tokens that occurred are touched, in place, and put back bit for bit: a copy of the row would cost
more than the choice, and log probabilities are of the raw logits. A sequence's tokens are counted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numba
import numpy as np

from tokenworks.contract.request import Sampling
from tokenworks.engine.kernels.bits import Array
from tokenworks.policy.sequence import Sequence as TokenSequence
from tokenworks.policy.step_plan import Chunk
from tokenworks.policy.token_counts import TokenCounts


def has_penalties(sampling: Sampling) -> bool:
    """Whether any of the three is on."""
    return sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


@contextmanager
def penalised(rows: Array, chunks: Sequence[Chunk]) -> Iterator[None]:
    """Meanwhile the chunks' rows of float32 logits [S, V] have their penalties."""
    touched: list[tuple[Array, Array, Array]] = []
    end = 0
    for chunk in chunks:
        start, end = end, end + chunk.num_sampled
        if has_penalties(chunk.sequence.request.sampling):
            touched += _penalise_chunk(rows[start:end], chunk)
    try:
        yield
    finally:
        for row, token_ids, raw in touched:
            row[token_ids] = raw


def _penalise_chunk(rows: Array, chunk: Chunk) -> Iterator[tuple[Array, Array, Array]]:
    """Each row, what was touched in it, and what was there; a row behind drafts counts them as output."""
    sampling = chunk.sequence.request.sampling
    counts = _counts_of(chunk.sequence)
    for behind, row in enumerate(rows):
        if behind:
            counts = counts.copy()
            counts.count_output(chunk.drafts[behind - 1 : behind])
        token_ids = np.frombuffer(counts.token_ids, np.int32)
        raw = row[token_ids]
        output_counts = np.frombuffer(counts.output_counts, np.int32)
        penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        _penalise(row, token_ids, output_counts, *np.array(penalties, np.float32))
        yield row, token_ids, raw


def _counts_of(sequence: TokenSequence) -> TokenCounts:
    """Those of all its tokens."""
    if sequence.token_counts is None:
        sequence.token_counts = TokenCounts(sequence.token_ids[: sequence.num_prompt])
    counts = sequence.token_counts
    counts.count_output(sequence.token_ids[counts.num_counted :])
    return counts


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _penalise(
    row: Array,
    token_ids: Array,
    output_counts: Array,
    repetition: np.float32,
    presence: np.float32,
    frequency: np.float32,
) -> None:
    """Repetition over prompt and output (arXiv 1909.05858); presence and frequency over the output (OpenAI)."""
    for i in range(token_ids.shape[0]):
        value = row[token_ids[i]]
        value = value / repetition if value > 0 else value * repetition
        if output_counts[i]:
            value -= presence + frequency * np.float32(output_counts[i])
        row[token_ids[i]] = value
