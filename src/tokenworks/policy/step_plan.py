"""What one step is to compute, and what it gave each sequence: the instructions of the scheduler and their result.

A chunk is a run of one sequence's tokens; its last may be drafts, guesses at what follows. Of what is sampled behind
drafts only that counts which is behind right ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenworks.contract.wire import EndReason
from tokenworks.policy.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `[start, start + num_tokens)` of one sequence, to be computed in this step; the last may be drafts."""

    sequence: Sequence
    start: int
    num_tokens: int
    num_sampled: int  # rows at its end that are sampled: 0 before the sequence's last token, 1 + drafts at it
    drafts: tuple[int, ...] = ()  # guesses behind the sequence's last token

    @property
    def is_decode(self) -> bool:
        """Whether it is one sampled token, and perhaps drafts behind it."""
        return self.num_sampled == self.num_tokens

    @property
    def token_ids(self) -> list[int]:
        """What is to be computed; only before the step is applied."""
        known = self.sequence.token_ids[self.start : self.start + self.num_tokens]
        return [*known, *self.drafts] if self.drafts else known


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass. Every chunk's block table already covers its tokens."""

    chunks: tuple[Chunk, ...]
    goes_on: bool = False  # the same sequences as in the step before, in both one token each: most steps are so

    @property
    def sampled(self) -> list[Chunk]:
        """The chunks that tokens are sampled for, in order."""
        return [chunk for chunk in self.chunks if chunk.num_sampled]

    @property
    def num_tokens(self) -> int:
        """Rows of the step."""
        return sum(chunk.num_tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did to one sequence: the tokens it got, one or more, and whether that was the last of it."""

    sequence: Sequence
    token_ids: list[int]
    end: EndReason | None


def verified(drafts: tuple[int, ...], sampled: list[int]) -> list[int]:
    """The sampled tokens as far as the drafts before them were right: at least the first."""
    assert sampled, "a sampled chunk got no token"
    right = 0
    while right < min(len(drafts), len(sampled) - 1) and drafts[right] == sampled[right]:
        right += 1
    return sampled[: right + 1]


def until_end(sequence: Sequence, token_ids: list[int]) -> tuple[list[int], EndReason | None]:
    """The tokens up to the one that ends the sequence, and why it does."""
    sampling = sequence.request.sampling
    for count, token_id in enumerate(token_ids, 1):
        if token_id in sampling.stop_token_ids:
            return token_ids[:count], EndReason.STOP
        if sequence.num_output + count >= sampling.max_tokens:
            return token_ids[:count], EndReason.LENGTH
    return token_ids, None
