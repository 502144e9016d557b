"""A worker's card: what it measured of itself at start. Router, simulator, planner and ledger read the same card.

The two latency models are linear in quantities that a scheduler knows before it runs a step, fitted to a few seconds of
real steps. They are predictions, not promises; the measured points travel with them so that anyone can see the fit.
"""

from __future__ import annotations

import msgspec


class PrefillPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured prefill step."""

    new_tokens: int
    context_tokens: int  # tokens already in KV before the step
    seconds: float


class DecodePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured decode step."""

    batch: int
    context_tokens: int  # of each sequence
    seconds: float


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Speed, capacity, price and power of one worker."""

    device: str  # such as "cpu: AMD EPYC"
    threads: int
    dtype: str  # of activations
    weights: str  # the form they are multiplied in: a dtype, or such as "int8" or "gptq integers"
    weight_bytes: int  # in memory
    active_weight_bytes: int  # of those, what a decode step of one sequence reads: less where experts rest
    kv_dtype: str  # as KVSpec.dtype
    kv_bytes_per_token: int
    kv_capacity_tokens: int
    prefill_points: tuple[PrefillPoint, ...]
    decode_points: tuple[DecodePoint, ...]
    prefill_base_s: float  # step seconds = base + per_token * new + per_pair * new * (context + new / 2)
    prefill_per_token_s: float
    prefill_per_pair_s: float
    decode_base_s: float  # step seconds = base + per_sequence * batch + per_context_token * batch * context
    decode_per_sequence_s: float
    decode_per_context_token_s: float
    price_per_hour: float | None = None
    watts: float | None = None
    peak_flops: float = 0.0  # per second, of matrix products as large as a prefill's, the best measured; 0: none
    peak_bytes_per_s: float = 0.0  # read from memory by all its threads, the best measured; 0: none

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        """Predicted seconds of one prefill step over `new_tokens` after `context_tokens`."""
        pairs = new_tokens * (context_tokens + new_tokens / 2)
        return self.prefill_base_s + self.prefill_per_token_s * new_tokens + self.prefill_per_pair_s * pairs

    def decode_s(self, batch: int, context_tokens: int) -> float:
        """Predicted seconds of one decode step of `batch` sequences of `context_tokens` each."""
        context = self.decode_per_context_token_s * batch * context_tokens
        return self.decode_base_s + self.decode_per_sequence_s * batch + context
