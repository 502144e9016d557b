"""Chooses the next token of each sampled row, and reports log probabilities where asked.

Order, as users of vLLM know it: penalties, temperature, min-p, top-k, top-p, then one draw. A draw is inverse-transform
sampling with one uniform number that is a hash of (seed, output position): no generator state, so a request gives the
same tokens whoever else is in the batch, after a preemption, and on another worker. Log probabilities are those of the
raw logits. Greedy rows without penalties never leave the batched arg-max.
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
from tokenworks.policy.sequence import Sequence

_CANDIDATES: Final = 512
"""Rows of logits are first cut to this many likeliest tokens; a full sort is the exact fallback where it matters."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One token for each row, and its log probabilities where the request wants them."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


def sample(logits_SV: Tensor, sequences: Rows[Sequence]) -> Sampled:
    """Sample one token for each row of float32 logits [S, V]."""
    settings = [sequence.request.sampling for sequence in sequences]
    logprobs = _all_logprobs(logits_SV, settings)
    token_ids: list[int] = logits_SV.argmax(dim=-1).tolist()
    for row, (sequence, sampling) in enumerate(zip(sequences, settings, strict=True)):
        if sampling.temperature > 0 or _has_penalties(sampling):
            token_ids[row] = _sample_row(logits_SV[row], sequence)
    return Sampled(token_ids, [_logprobs_of(*pair) for pair in zip(logprobs, token_ids, strict=True)])


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


def _sample_row(logits_V: Tensor, sequence: Sequence) -> int:
    sampling = sequence.request.sampling
    if _has_penalties(sampling):
        logits_V = _penalised(logits_V, sequence)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    uniform = uniform_at(sampling.seed, sequence.num_output)
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


def _penalised(logits_V: Tensor, sequence: Sequence) -> Tensor:
    """Repetition penalty over prompt and output (arXiv 1909.05858); presence and frequency over the output (OpenAI)."""
    sampling = sequence.request.sampling
    logits_V = logits_V.clone()
    seen = torch.unique(torch.tensor(sequence.token_ids))
    values = logits_V[seen]
    penalty = sampling.repetition_penalty
    logits_V[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if sequence.num_output:
        output, counts = torch.unique(torch.tensor(sequence.token_ids[sequence.num_prompt :]), return_counts=True)
        logits_V[output] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return logits_V


def _all_logprobs(logits_SV: Tensor, settings: Rows[Sampling]) -> list[tuple[Tensor, int] | None]:
    """Each row's log probabilities and how many of the likeliest are wanted, or None where none are."""
    return [
        None if sampling.num_logprobs is None else (logits_SV[row].log_softmax(dim=-1), sampling.num_logprobs)
        for row, sampling in enumerate(settings)
    ]


def _logprobs_of(row: tuple[Tensor, int] | None, token_id: int) -> TokenLogprobs | None:
    if row is None:
        return None
    values_V, count = row
    top, token_ids = values_V.topk(min(count, values_V.shape[-1]))
    return TokenLogprobs(float(values_V[token_id]), token_ids.tolist(), top.tolist())
