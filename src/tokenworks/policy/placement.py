"""Which worker gets a request: the least loaded one that holds the longest prefix of its prompt.

Pure: it sees what the gateway knows of each worker and names one. The rule, in full:

1. Only ready workers count. None ready: no answer.
2. A `prefill` worker counts only where nobody else is ready: roles are advice, never a reason to fail.
3. A worker's load is its running and waiting sequences, corrected by what was sent to it and ended since it said so.
4. A worker whose load is more than `MAX_EXTRA_LOAD` above the least loaded one is out: a prefix hit saves one prefill,
   a long queue costs every step.
5. Of the rest the longest held prefix wins; ties go to the lower load, then to the smaller worker id.

Whether somebody else computes the prompt first is `split.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import Final

import msgspec

from tokenworks.contract.kv import BlockName
from tokenworks.contract.wire import Role

MAX_EXTRA_LOAD: Final = 8
"""Sequences by which a worker may be busier than the least loaded one and still be chosen for its prefix."""


class Candidate(msgspec.Struct, frozen=True):
    """What the gateway knows of one worker, with one prompt in mind."""

    worker_id: str
    is_ready: bool
    running: int  # as of its last heartbeat
    waiting: int  # as of its last heartbeat
    in_flight: int  # sequences sent less sequences ended since that heartbeat; may be negative
    held_tokens: int = 0  # of the prompt's start, those whose KV it holds
    role: Role = Role.BOTH

    @property
    def load(self) -> int:
        """Sequences that the worker has by now, as far as is known."""
        return max(0, self.running + self.waiting + self.in_flight)


def pick_worker(candidates: Iterable[Candidate]) -> str | None:
    """The id of the worker to use, or None where none is ready. Linear in workers."""
    ready = [candidate for candidate in candidates if candidate.is_ready]
    serving = [candidate for candidate in ready if candidate.role is not Role.PREFILL] or ready
    if not serving:
        return None
    most = min(candidate.load for candidate in serving) + MAX_EXTRA_LOAD
    eligible = [candidate for candidate in serving if candidate.load <= most]
    return min(eligible, key=lambda each: (-each.held_tokens, each.load, each.worker_id)).worker_id


def held_prefix_blocks(held_blocks: Set[BlockName], prompt_block_names: Sequence[BlockName]) -> int:
    """How many of the prompt's first blocks are held without a gap."""
    for count, name in enumerate(prompt_block_names):
        if name not in held_blocks:
            return count
    return len(prompt_block_names)
