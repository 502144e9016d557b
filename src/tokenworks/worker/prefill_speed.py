"""How long computing a prompt takes on this worker: the card's prediction, corrected by the steps that were run.

The card was measured on a quiet machine in the first seconds; neighbours, heat and other sequences in the step come
later. A prompt longer than a step is cut into steps, each of which pays the step's base.
"""

from __future__ import annotations

import math
from typing import Final

from tokenworks.contract.card import Card
from tokenworks.engine.engine import StepTime

SHARE: Final = 1 / 8
"""Of the difference, in log space, that the correction goes towards each step's ratio of truth to prediction."""

LEAST_TOKENS: Final = 32
"""Prompt tokens from which on a step counts as one that computes a prompt."""


class PrefillSpeed:
    """Seconds by new tokens and context, on one worker."""

    def __init__(self, card: Card, max_step_tokens: int) -> None:
        self._card = card
        self._max_step_tokens = max_step_tokens
        self._log_ratio = 0.0

    def seconds(self, new_tokens: int, context_tokens: int) -> float:
        """Predicted seconds to compute `new_tokens` after `context_tokens`, in as many steps as that takes."""
        more_steps = -(-new_tokens // self._max_step_tokens) - 1
        planned = self._card.prefill_s(new_tokens, context_tokens) + more_steps * self._card.prefill_base_s
        return planned * math.exp(self._log_ratio)

    def block_s(self, block_tokens: int, index: int) -> float:
        """Predicted seconds that the block `index` of a long prompt takes: its share of a full step."""
        step = self._max_step_tokens
        return self._card.prefill_s(step, index * block_tokens) * block_tokens / step * math.exp(self._log_ratio)

    def observe(self, step: StepTime) -> None:
        """A step that computed part of a prompt, perhaps beside others, shows how far off the card is by now."""
        chunks = step.plan.chunks
        rows = step.plan.num_tokens
        num_prefilled = sum(chunk.num_tokens for chunk in chunks if not chunk.is_decode)
        if step.has_failed or num_prefilled < LEAST_TOKENS or step.seconds <= 0:
            return
        pairs = sum(chunk.num_tokens * (chunk.start + chunk.num_tokens / 2) for chunk in chunks)
        card = self._card
        predicted = card.prefill_base_s + card.prefill_per_token_s * rows + card.prefill_per_pair_s * pairs
        if predicted > 0:
            self._log_ratio += SHARE * (math.log(step.seconds / predicted) - self._log_ratio)
