"""A model without weights, and a device whose memory shows what every slot really holds.

The KV of a token depends on all tokens before it, so the fake KV of a position is a hash of the salt and the prefix
that ends there, and the next token follows from the hash of the last position as it is read back through the block
table. A step writes all its slots before it reads any, as a layer of a model does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenworks.contract.request import Request
from tokenworks.contract.wire import EndReason
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.speculation import Speculator
from tokenworks.policy.step_plan import Chunk, StepPlan

FINGERPRINT = "fake model"
VOCABULARY = 5
STOP_TOKEN = 4


def prefix_hashes(salt: str, token_ids: list[int]) -> Iterator[int]:
    """The fake KV at each position."""
    prefix = len(salt) + 1
    for token_id in token_ids:
        prefix = hash((prefix, token_id))  # hashes of integers are the same in every process
        yield prefix


def next_token(prefix: int) -> int:
    return (prefix >> 11) % VOCABULARY


def run_alone(request: Request) -> tuple[list[int], EndReason]:
    """The output of a request that has the fake model for itself."""
    tokens = list(request.token_ids)
    while True:
        *_, last = prefix_hashes(request.salt, tokens)
        tokens.append(next_token(last))
        output = tokens[len(request.token_ids) :]
        if output[-1] in request.sampling.stop_token_ids:
            return output, EndReason.STOP
        if len(output) == request.sampling.max_tokens:
            return output, EndReason.LENGTH


@dataclass
class Device:
    """Block memory that runs steps."""

    memory: list[list[int | None]]
    seen: Counter[str]
    written: dict[tuple[int, int], Sequence] = field(default_factory=dict)  # in this step, by whom

    def run(self, plan: StepPlan) -> list[list[int]]:
        """The sampled tokens, those behind wrong drafts included."""
        self.written.clear()
        for chunk in plan.chunks:
            self.write(chunk)
        read = {chunk: self.read(chunk) for chunk in plan.chunks}
        return [[next_token(kv) for kv in read[chunk]] for chunk in plan.sampled]

    def scribble(self, plan: StepPlan) -> None:
        """A step that fails halfway: what it was to write is rubbish."""
        for chunk in plan.chunks:
            for position in range(chunk.start, chunk.start + chunk.num_tokens):
                block, slot = self.slot(chunk.sequence, position)
                self.memory[block][slot] = None

    def slot(self, sequence: Sequence, position: int) -> tuple[int, int]:
        index, slot = divmod(position, len(self.memory[0]))
        return sequence.block_table[index], slot

    def write(self, chunk: Chunk) -> None:
        hashes = list(prefix_hashes(chunk.sequence.request.salt, tokens_of(chunk)))
        for position in range(chunk.start, chunk.start + chunk.num_tokens):
            block, slot = self.slot(chunk.sequence, position)
            assert (block, slot) not in self.written, "a slot is written twice in one step"
            self.written[block, slot] = chunk.sequence
            self.memory[block][slot] = hashes[position]

    def read(self, chunk: Chunk) -> list[int]:
        """KV of the chunk's sampled rows; checks that its whole context is that of its own tokens."""
        end = chunk.start + chunk.num_tokens
        found = self.check_context(chunk.sequence, tokens_of(chunk)[:end])
        slots = [self.slot(chunk.sequence, position) for position in range(end)]
        self.seen["shared in a step"] += any(self.written.get(at, chunk.sequence) is not chunk.sequence for at in slots)
        return found[end - chunk.num_sampled :]

    def check_context(self, sequence: Sequence, token_ids: list[int]) -> list[int]:
        """The KV of the sequence's positions, which must be that of these tokens."""
        slots = [self.slot(sequence, position) for position in range(len(token_ids))]
        expected = list(prefix_hashes(sequence.request.salt, token_ids))
        assert [self.memory[block][slot] for block, slot in slots] == expected
        return expected


def tokens_of(chunk: Chunk) -> list[int]:
    """All tokens up to the end of the chunk."""
    assert chunk.token_ids == [*chunk.sequence.token_ids, *chunk.drafts][chunk.start :][: chunk.num_tokens]
    return [*chunk.sequence.token_ids, *chunk.drafts]


class Drafter(Speculator):
    """Guesses with what the fake model will say, wrong now and then, and too much at times."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.random = rng

    def draft(self, sequences: list[Sequence], num_rows: int, most: int) -> list[list[int]]:
        found = []
        for sequence in sequences:
            count = self.random.randint(0, min(6, most))
            most -= count
            found.append(self.guess(sequence, count))
        return found

    def guess(self, sequence: Sequence, count: int) -> list[int]:
        tokens = list(sequence.token_ids)
        for _ in range(count):
            *_, last = prefix_hashes(sequence.request.salt, tokens)
            tokens.append(next_token(last) if self.random.random() < 0.8 else self.random.randrange(VOCABULARY))
        return tokens[len(sequence.token_ids) :]
