"""Chooses the next token of each sampled row, and reports log probabilities where asked.

Order, as users of vLLM know it: penalties, temperature, min-p, top-k, top-p, then one draw. A draw is inverse-transform
sampling with one uniform number that is a hash of (seed, output position): no generator state, so a request gives the
same tokens whoever else is in the batch, after a preemption, and on another worker. Log probabilities are those of the
raw logits. Greedy rows without penalties never leave the batched arg-max.

The row behind a draft is sampled as if the draft had been output: at that position's uniform number, with penalties
that count it. So a draft that equals the token sampled before it changes nothing, and one that does not ends the chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import torch
from torch import Tensor

from tokenworks.contract.request import Sampling
from tokenworks.contract.wire import TokenLogprobs
from tokenworks.engine.kernels.likeliest import likeliest
from tokenworks.policy.scheduler import Chunk
from tokenworks.policy.sequence import Sequence

_CANDIDATES: Final = 512
"""Rows of logits are first cut to this many likeliest tokens; a full sort is the exact fallback where it matters."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """For each chunk, its tokens up to the first that is not the draft in its place, and their log probabilities."""

    token_ids: list[list[int]]
    logprobs: list[list[TokenLogprobs] | None]  # None where the request wants none


def sample(logits_SV: Tensor, chunks: Rows[Chunk]) -> Sampled:
    """Sample from float32 logits [S, V], which hold `num_sampled` rows of each chunk, one chunk after the other."""
    greedy = likeliest(logits_SV)
    token_ids, logprobs = [], []
    end = 0
    for chunk in chunks:
        start, end = end, end + chunk.num_sampled
        token_ids.append(_sample_chunk(logits_SV[start:end], greedy[start:end], chunk))
        logprobs.append(_logprobs_of(logits_SV[start:end], token_ids[-1], chunk))
    assert end == len(greedy), "there are more logits than sampled rows"
    return Sampled(token_ids, logprobs)


def _sample_chunk(logits_NV: Tensor, greedy: list[int], chunk: Chunk) -> list[int]:
    sampling = chunk.sequence.request.sampling
    is_greedy = sampling.temperature == 0 and not _has_penalties(sampling)
    token_ids = []
    for row, token_id in enumerate(greedy):
        token_ids.append(token_id if is_greedy else _sample_row(logits_NV[row], chunk.sequence, chunk.drafts[:row]))
        if chunk.drafts[row : row + 1] != (token_ids[-1],):
            break
    return token_ids


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


def _sample_row(logits_V: Tensor, sequence: Sequence, drafts: tuple[int, ...]) -> int:
    """The token that follows the sequence and these drafts."""
    sampling = sequence.request.sampling
    if _has_penalties(sampling):
        logits_V = _penalised(logits_V, sequence, drafts)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    uniform = uniform_at(sampling.seed, sequence.num_output + len(drafts))
    scaled_V = logits_V / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0:
        return _draw(scaled_V.softmax(dim=-1), uniform)
    probabilities, token_ids = _truncated(scaled_V, sampling)
    return int(token_ids[_draw(probabilities, uniform)])


def uniform_at(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the seed and the output position only."""
    digest = blake2b(struct.pack("<QQ", seed & (2**64 - 1), position), digest_size=8).digest()
    return int(struct.unpack("<Q", digest)[0] >> 11) / float(1 << 53)


def _draw(probabilities: Tensor, uniform: float) -> int:
    """The first index whose cumulative share exceeds `uniform`; `probabilities` need not sum to 1."""
    cumulative = probabilities.double().cumsum(dim=-1)
    index = int(torch.searchsorted(cumulative, cumulative[-1] * uniform, right=True))
    return min(index, int(probabilities.nonzero()[-1]))  # rounding must not choose a token that was ruled out


def _truncated(scaled_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities in falling order, those ruled out by min-p, top-k and top-p set to 0; and their token ids."""
    size = scaled_V.shape[-1]
    wanted = min(size, max(_CANDIDATES, sampling.top_k))
    probabilities, token_ids = _likeliest(scaled_V, wanted)
    kept = _kept(probabilities, sampling)
    if bool(kept[-1]) and wanted < size and sampling.top_k == 0:
        probabilities, token_ids = _likeliest(scaled_V, size)
        kept = _kept(probabilities, sampling)
    return probabilities * kept, token_ids


def _likeliest(scaled_V: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest, as probabilities over the whole vocabulary, in falling order."""
    values, token_ids = scaled_V.topk(count)
    return (values - scaled_V.logsumexp(dim=-1)).exp(), token_ids


def _kept(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """bool: which of the falling probabilities survive; the first always does."""
    kept = probabilities >= sampling.min_p * probabilities[0]
    if sampling.top_k:
        kept[sampling.top_k :] = False
    if sampling.top_p < 1:
        remaining = probabilities * kept
        total = remaining.sum() if sampling.top_k or sampling.min_p else torch.ones(())
        kept &= remaining.cumsum(dim=-1) - remaining < sampling.top_p * total
    kept[0] = True
    return kept


def _penalised(logits_V: Tensor, sequence: Sequence, drafts: tuple[int, ...]) -> Tensor:
    """Repetition penalty over prompt and output (arXiv 1909.05858); presence and frequency over the output (OpenAI)."""
    sampling = sequence.request.sampling
    logits_V = logits_V.clone()
    token_ids = [*sequence.token_ids, *drafts]
    seen = torch.unique(torch.tensor(token_ids))
    values = logits_V[seen]
    penalty = sampling.repetition_penalty
    logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if len(token_ids) > sequence.num_prompt:
        output, counts = torch.unique(torch.tensor(token_ids[sequence.num_prompt :]), return_counts=True)
        logits_V[output] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return logits_V


def _logprobs_of(logits_NV: Tensor, token_ids: list[int], chunk: Chunk) -> list[TokenLogprobs] | None:
    count = chunk.sequence.request.sampling.num_logprobs
    if count is None:
        return None
    return [
        _logprobs_of_row(logits_NV[row].log_softmax(dim=-1), token_ids[row], count) for row in range(len(token_ids))
    ]


def _logprobs_of_row(values_V: Tensor, token_id: int, count: int) -> TokenLogprobs:
    top, token_ids = values_V.topk(min(count, values_V.shape[-1]))
    return TokenLogprobs(float(values_V[token_id]), token_ids.tolist(), top.tolist())
