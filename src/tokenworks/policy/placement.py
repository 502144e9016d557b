"""Which worker gets a request: the least loaded one that holds the longest prefix of its prompt.

Pure: it sees what the gateway knows of each worker and names one. The rule, in full:

1. Only ready workers count. None ready: no answer.
2. A worker's load is its running and waiting sequences, corrected by what was sent to it and ended since it said so.
3. A worker whose load is more than `MAX_EXTRA_LOAD` above the least loaded one is out: a prefix hit saves one prefill,
   a long queue costs every step.
4. Of the rest the longest held prefix wins; ties go to the lower load, then to the smaller worker id.

The router of a later issue, which predicts seconds from cards, replaces this function.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final

import msgspec

from tokenworks.contract.kv import BlockName

MAX_EXTRA_LOAD: Final = 8
"""Sequences by which a worker may be busier than the least loaded one and still be chosen for its prefix."""


class Candidate(msgspec.Struct, frozen=True):
    """What the gateway knows of one worker."""

    worker_id: str
    is_ready: bool
    running: int  # as of its last heartbeat
    waiting: int  # as of its last heartbeat
    in_flight: int  # sequences sent less sequences ended since that heartbeat; may be negative
    held_blocks: Set[BlockName]

    @property
    def load(self) -> int:
        """Sequences that the worker has by now, as far as is known."""
        return max(0, self.running + self.waiting + self.in_flight)


def pick_worker(candidates: Sequence[Candidate], prompt_block_names: Sequence[BlockName]) -> str | None:
    """The id of the worker to use, or None where none is ready. Linear in workers times prompt blocks."""
    ready = [candidate for candidate in candidates if candidate.is_ready]
    if not ready:
        return None
    most = min(candidate.load for candidate in ready) + MAX_EXTRA_LOAD
    eligible = [candidate for candidate in ready if candidate.load <= most]
    best = min(eligible, key=lambda each: (-held_prefix_blocks(each, prompt_block_names), each.load, each.worker_id))
    return best.worker_id


def held_prefix_blocks(candidate: Candidate, prompt_block_names: Sequence[BlockName]) -> int:
    """How many of the prompt's first blocks the worker holds without a gap."""
    for count, name in enumerate(prompt_block_names):
        if name not in candidate.held_blocks:
            return count
    return len(prompt_block_names)
