"""What one step and one sequence may take of an engine at most, and which requests can therefore never run. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.contract.errors import ContextLengthExceeded, InvalidRequest
from tokenworks.contract.request import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one engine."""

    max_running: int  # sequences in a step
    max_step_tokens: int  # tokens in a step
    max_context_tokens: int  # prompt and output of one sequence
    block_tokens: int

    def __post_init__(self) -> None:
        if min(self.max_running, self.max_step_tokens, self.max_context_tokens, self.block_tokens) < 1:
            raise ValueError(f"every limit must be at least 1: {self}")
        if self.max_running > self.max_step_tokens:
            raise ValueError("max_running may not exceed max_step_tokens: each running sequence needs one token a step")

    def check(self, request: Request, num_blocks: int) -> None:
        """Raises InvalidRequest (ContextLengthExceeded) where `request` can never run in a pool of `num_blocks`."""
        if not request.token_ids:
            raise InvalidRequest("the prompt is empty: give at least one token", param="prompt")
        if request.sampling.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
        prompt, output = request.num_prompt, request.sampling.max_tokens
        limit = min(self.max_context_tokens, num_blocks * self.block_tokens)
        if prompt + output > limit:
            raise ContextLengthExceeded(
                f"{prompt} prompt tokens and max_tokens of {output} exceed this worker's window of {limit} tokens"
            )
