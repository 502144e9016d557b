"""Chooses the next token of each sampled row, and reports log probabilities where asked.

Order, as users of vLLM know it: penalties, temperature, min-p, top-k, top-p, then one draw. A draw is inverse-transform
sampling with one uniform number that is a hash of (seed, output position): no generator state, so a request gives the
same tokens whoever else is in the batch, after a preemption, and on another worker. Log probabilities are those of the
raw logits. This file says what is wanted of each row; one call of a kernel does it for all of them.

The row behind a draft is sampled as if the draft had been output: at that position's uniform number, with penalties
that count it. So a draft that equals the token sampled before it changes nothing, and one that does not ends the chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

import numpy as np
from torch import Tensor

from tokenworks.contract.wire import TokenLogprobs
from tokenworks.engine.kernels.bits import Array
from tokenworks.engine.kernels.logprobs import log_probabilities
from tokenworks.engine.kernels.sampling import SETTINGS, choose
from tokenworks.engine.penalties import has_penalties, penalised
from tokenworks.policy.step_plan import Chunk


@dataclass(frozen=True, slots=True)
class Sampled:
    """For each chunk, its tokens up to the first that is not the draft in its place, and their log probabilities."""

    token_ids: list[list[int]]
    logprobs: list[list[TokenLogprobs] | None]  # None where the request wants none


def sample(logits_SV: Tensor, chunks: Rows[Chunk]) -> Sampled:
    """Sample from float32 logits [S, V], which hold `num_sampled` rows of each chunk, one chunk after the other.

    The logits are changed meanwhile where there are penalties, and are then as they were.
    """
    if not chunks:
        return Sampled([], [])
    rows = logits_SV.contiguous().numpy()
    ends = list(accumulate(chunk.num_sampled for chunk in chunks))
    assert ends[-1] == len(rows), "there are more logits than sampled rows"
    settings = np.array([row for chunk in chunks for row in _settings_of(chunk)], SETTINGS)
    if any(has_penalties(chunk.sequence.request.sampling) for chunk in chunks):
        with penalised(rows, chunks):
            chosen = choose(rows, settings)
    else:
        chosen = choose(rows, settings)
    token_ids = [
        _verified(chosen[end - chunk.num_sampled : end], chunk) for end, chunk in zip(ends, chunks, strict=True)
    ]
    return Sampled(token_ids, _logprobs_of(rows, token_ids, chunks))


def _settings_of(chunk: Chunk) -> list[tuple[float, float, int, float, float]]:
    """SETTINGS of each of the chunk's rows."""
    sampling = chunk.sequence.request.sampling
    if sampling.temperature == 0:
        return [(0.0, 0.0, 0, 1.0, 0.0)] * chunk.num_sampled
    first = chunk.sequence.num_output
    return [
        (sampling.temperature, sampling.min_p, sampling.top_k, sampling.top_p, uniform_at(sampling.seed, position))
        for position in range(first, first + chunk.num_sampled)
    ]


def uniform_at(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the seed and the output position only."""
    digest = blake2b(struct.pack("<QQ", seed & (2**64 - 1), position), digest_size=8).digest()
    return int(struct.unpack("<Q", digest)[0] >> 11) / float(1 << 53)


def _verified(token_ids: list[int], chunk: Chunk) -> list[int]:
    """The tokens up to the first that is not the draft in its place."""
    right = 0
    while right < len(chunk.drafts) and token_ids[right] == chunk.drafts[right]:
        right += 1
    return token_ids[: right + 1]


def _logprobs_of(rows: Array, token_ids: list[list[int]], chunks: Rows[Chunk]) -> list[list[TokenLogprobs] | None]:
    """For each chunk, those of its tokens; None where the request wants none."""
    wanted = [chunk.sequence.request.sampling.num_logprobs for chunk in chunks]
    most = max((count for count in wanted if count is not None), default=None)
    if most is None:
        return [None] * len(chunks)
    which: list[int] = []
    chosen: list[int] = []
    start = 0
    for chunk, tokens, count in zip(chunks, token_ids, wanted, strict=True):
        if count is not None:
            which += range(start, start + len(tokens))
            chosen += tokens
        start += chunk.num_sampled
    parts = log_probabilities(rows, np.array(which), np.array(chosen), most)
    found = zip(*(part.tolist() for part in parts), strict=True)
    return [
        None if count is None else [_first_of(next(found), count) for _ in tokens]
        for tokens, count in zip(token_ids, wanted, strict=True)
    ]


def _first_of(row: tuple[float, list[int], list[float]], count: int) -> TokenLogprobs:
    """A row's log probabilities, with the `count` likeliest that can occur at all."""
    chosen, top_ids, top = row
    count = min(count, len(top_ids) - top_ids.count(-1))
    return TokenLogprobs(chosen, top_ids[:count], top[:count])
