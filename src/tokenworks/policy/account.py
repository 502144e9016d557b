"""What one sequence has had of its worker's time and device: told instants and shares, reads no clock.

Its stages are a partition of the time from its arrival at the worker on: at each instant that matters the time since
the one before goes to one stage. Its device time is its share of each step that it was in, by what that did for it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import SequenceReport, Stage, Work
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Chunk

_STALL: Final = Stage.STALL  # plain names: looking up an enum's member takes as long as the sum that it is wanted for
_DECODE: Final = Stage.DECODE
_DECODING: Final = Work.DECODE

FETCH_STAGES: Final = {Tier.HOST: Stage.FETCH_HOST, Tier.DISK: Stage.FETCH_DISK, Tier.REMOTE: Stage.FETCH_REMOTE}


@dataclass(eq=False, slots=True)
class Account:
    """One sequence's."""

    num_given: int  # tokens that it came with: computing these is prefill
    since_ns: int  # up to here everything has a stage
    publishes: bool = False
    sequence: Sequence | None = None  # from its first step on
    has_ended: bool = False  # no step is to come; it may still publish
    last_step: int = -1  # the last that it was in
    num_computed: int = 0  # tokens whose KV it has had, at most
    stages_ns: dict[Stage, int] = field(default_factory=lambda: defaultdict(int))
    device_ns: dict[Work, int] = field(default_factory=lambda: defaultdict(int))
    fetching_ns: dict[Tier, int] = field(default_factory=lambda: defaultdict(int))  # of the wait under way
    fetched_bytes: dict[Tier, int] = field(default_factory=lambda: defaultdict(int))
    published_bytes: int = 0
    steps: int = 0
    prefill_chunks: int = 0
    computed_tokens: int = 0
    recomputed_tokens: int = 0
    draft_tokens: int = 0
    rejected_tokens: int = 0
    block_ns: int = 0  # blocks held times nanoseconds

    def wait_until(self, at_ns: int, *, was_running: bool) -> None:
        """Give the time until `at_ns`, in which it was in no step, its stage."""
        left_ns = at_ns - self.since_ns
        self.since_ns = at_ns
        if self.has_ended:
            self.stages_ns[Stage.PUBLISH] += left_ns
        elif was_running:
            self.stages_ns[Stage.STALL] += left_ns
        elif self.steps:
            self.stages_ns[Stage.PREEMPTED] += left_ns
        else:
            self._queue(left_ns)
        self.fetching_ns.clear()

    def _queue(self, left_ns: int) -> None:
        for tier, fetching_ns in self.fetching_ns.items():
            part_ns = min(fetching_ns, left_ns)
            self.stages_ns[FETCH_STAGES[tier]] += part_ns
            left_ns -= part_ns
        self.stages_ns[Stage.QUEUE] += left_ns

    def is_next_token(self, chunk: Chunk) -> bool:
        """Whether this is what decodes on, as a sequence does most of the time."""
        return chunk.num_tokens == 1 and chunk.start == self.num_computed >= self.num_given

    def decode(self, num_steps: int, steps_ns: int, until_ns: int, share_ns: int) -> None:
        """Take one token from each of so many steps, which took `steps_ns` of the time until now."""
        self.stages_ns[_STALL] += until_ns - self.since_ns - steps_ns
        self.stages_ns[_DECODE] += steps_ns
        self.device_ns[_DECODING] += share_ns
        self.since_ns = until_ns
        self.steps += num_steps
        self.computed_tokens += num_steps
        self.num_computed += num_steps

    def compute(
        self, chunk: Chunk, until_ns: int, share_ns: int, num_right: int, draft_share: float
    ) -> dict[Work, int]:
        """Take part in a step that ended then; what its share was spent on. `draft_share`: of one draft, in that."""
        self.sequence = chunk.sequence
        self.stages_ns[self._stage_of(chunk)] += until_ns - self.since_ns
        self.since_ns = until_ns
        end = chunk.start + chunk.num_tokens
        num_again = max(0, min(end, self.num_computed) - chunk.start)
        num_wrong = len(chunk.drafts) - num_right
        self.steps += 1
        self.prefill_chunks += chunk.start < self.num_given
        self.computed_tokens += chunk.num_tokens
        self.recomputed_tokens += num_again
        self.draft_tokens += len(chunk.drafts)
        self.rejected_tokens += num_wrong
        self.num_computed = max(self.num_computed, end - num_wrong)
        again_ns = share_ns * num_again // chunk.num_tokens
        wrong_ns = min(share_ns - again_ns, int(share_ns * num_wrong * draft_share))
        work = Work.PREFILL if chunk.start < self.num_given else Work.DECODE
        return self._spend({work: share_ns - again_ns - wrong_ns, Work.RECOMPUTE: again_ns, Work.DRAFT: wrong_ns})

    def _spend(self, spent_ns: dict[Work, int]) -> dict[Work, int]:
        for work, ns in spent_ns.items():
            self.device_ns[work] += ns
        return spent_ns

    def _stage_of(self, chunk: Chunk) -> Stage:
        """What a step that computes this chunk is to it."""
        if chunk.start < self.num_computed:
            return Stage.PREEMPTED
        return Stage.PREFILL if chunk.start < self.num_given else Stage.DECODE

    def report(self, block_bytes: int) -> SequenceReport:
        """All that is known; what is 0 is left out."""
        return SequenceReport(
            stages_ns={stage: ns for stage, ns in self.stages_ns.items() if ns},
            device_ns={work: ns for work, ns in self.device_ns.items() if ns},
            steps=self.steps,
            prefill_chunks=self.prefill_chunks,
            computed_tokens=self.computed_tokens,
            recomputed_tokens=self.recomputed_tokens,
            draft_tokens=self.draft_tokens,
            rejected_tokens=self.rejected_tokens,
            preemptions=self.sequence.preemptions if self.sequence else 0,
            kv_byte_s=self.block_ns * block_bytes / 1e9,
            fetched_bytes=dict(self.fetched_bytes),
            published_bytes=self.published_bytes,
        )
