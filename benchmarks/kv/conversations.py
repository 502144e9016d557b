"""Conversations with the shape of a recorded trace: who speaks when, and how much is new each time.

The trace (Mooncake's format) gives each request's length and the ids of its blocks; a request whose first two blocks
or more were seen before goes on with the conversation that has most of them. Lengths are scaled; the words are made
up. What a turn adds is a user's new tokens behind everything so far, the model's own answers included, as a chat
client sends it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tokenworks.plan.traces import Trace

LEAST_SHARED_BLOCKS = 2  # the first block alone is in every conversation
LEAST_NEW_TOKENS = 128  # of a user, unscaled, where the lengths of the trace leave less


@dataclass(frozen=True)
class Turn:
    """One request."""

    conversation: int
    arrival_s: float
    new_tokens: int  # the user's, behind the history
    output_tokens: int


def turns_of(
    trace: Trace, length: float, num_conversations: int, least_turns: int, most_tokens: int, every: int = 1
) -> list[Turn]:
    """The turns of the first conversations with `least_turns` turns or more, in order of arrival, scaled by `length`.

    Of those conversations each `every`-th is taken; it ends before the turn that would take it beyond `most_tokens`.
    """
    members = _conversations(trace)
    chosen = [records for records in members if len(records) >= least_turns][::every][:num_conversations]
    turns = [
        turn for index, records in enumerate(chosen) for turn in _turns(trace, index, records, length, most_tokens)
    ]
    return sorted(turns, key=lambda turn: turn.arrival_s)


def _conversations(trace: Trace) -> list[list[int]]:
    """Indices of the records of each conversation, in order of its first one."""
    seen: dict[int, int] = {}  # block id -> conversation
    conversations: list[list[int]] = []
    for index, record in enumerate(trace.records):
        shared = 0
        while shared < len(record.block_ids) and record.block_ids[shared] in seen:
            shared += 1
        if shared >= LEAST_SHARED_BLOCKS:
            conversation = seen[record.block_ids[shared - 1]]
            conversations[conversation].append(index)
        else:
            conversation = len(conversations)
            conversations.append([index])
        for block in record.block_ids[shared if shared >= LEAST_SHARED_BLOCKS else 0 :]:
            seen[block] = conversation
    return conversations


def _turns(trace: Trace, conversation: int, records: Sequence[int], length: float, most_tokens: int) -> list[Turn]:
    turns: list[Turn] = []
    history = 0  # tokens, scaled
    for index in records:
        record = trace.records[index]
        new = max(LEAST_NEW_TOKENS * length, record.input_tokens * length - history)
        output = max(2, round(record.output_tokens * length))
        history += round(new) + output
        if history > most_tokens:
            break
        turns.append(Turn(conversation, record.arrival_s, round(new), output))
    return turns


def words(seed: str, count: int, vocabulary: tuple[int, int] = (1000, 20_000)) -> list[int]:
    """`count` token ids that the seed alone decides."""
    rng = random.Random(seed)
    return [rng.randrange(*vocabulary) for _ in range(count)]
