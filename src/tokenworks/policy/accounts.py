"""What each sequence of a worker has had of its time and its device: told instants and steps, reads no clock.

An account is open from a request's arrival at the worker to its last word. Its stages are a partition of that time: at
each instant that matters the time since the one before goes to one stage. Its device time is its share of each step
that it was in (see `sharing`), by what the step did for it.

A sequence that runs is in every step, because the scheduler has a token for each. So who was not in the step before
was waiting: for its first step, or because its blocks had been taken from it.

Invariants: an account's stages sum to its time; the worker's work sums to the time of its steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import SequenceReport, Stage, Work
from tokenworks.contract.request import Request
from tokenworks.policy.sharing import Prices, chunk_costs, share_out
from tokenworks.policy.step_plan import Chunk, StepPlan

FETCH_STAGES: Final = {Tier.HOST: Stage.FETCH_HOST, Tier.DISK: Stage.FETCH_DISK, Tier.REMOTE: Stage.FETCH_REMOTE}
_STALL, _DECODE, _DECODING = Stage.STALL, Stage.DECODE, Work.DECODE  # plain names: read for every row of every step


class Wait(NamedTuple):
    """A sequence was held back while blocks came from the store."""

    request_id: str
    by_tier_ns: Mapping[Tier, int]
    fetched_bytes: Mapping[Tier, int]
    held_blocks: int  # of the device, meanwhile


class Step(NamedTuple):
    """A step that was run: its number counts up by one."""

    plan: StepPlan
    start_ns: int
    end_ns: int
    num_right: Mapping[str, int]  # drafts that proved right, by request; none: 0


@dataclass(eq=False, slots=True)
class Account:
    """One sequence's."""

    num_given: int  # tokens that it came with: computing these is prefill
    since_ns: int  # up to here everything has a stage
    publishes: bool
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
    preemptions: int = 0
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
            self.preemptions += 1
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

    def compute(self, chunk: Chunk, share_ns: int, num_right: int, draft_share: float) -> dict[Work, int]:
        """Take part in a step; what its share of it was spent on. `draft_share`: one draft's part of the chunk."""
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
        work = Work.PREFILL if chunk.start < self.num_given else Work.DECODE
        again_ns = share_ns * num_again // chunk.num_tokens
        wrong_ns = min(share_ns - again_ns, int(share_ns * num_wrong * draft_share))
        spent = {work: share_ns - again_ns - wrong_ns, Work.RECOMPUTE: again_ns, Work.DRAFT: wrong_ns}
        for kind, spent_ns in spent.items():
            self.device_ns[kind] += spent_ns
        return spent

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
            preemptions=self.preemptions,
            kv_byte_s=self.block_ns * block_bytes / 1e9,
            fetched_bytes=dict(self.fetched_bytes),
            published_bytes=self.published_bytes,
        )


class Accounts:
    """Those of one worker."""

    def __init__(self, prices: Prices, block_tokens: int, block_bytes: int) -> None:
        self.work_ns: dict[Work, int] = dict.fromkeys(Work, 0)  # of all steps
        self._prices = prices
        self._block_tokens = block_tokens
        self._block_bytes = block_bytes
        self._num_steps = 0
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def open(self, request: Request, at_ns: int, *, publishes: bool = False) -> None:
        """A request has come."""
        self._accounts[request.id] = Account(len(request.token_ids), at_ns, publishes)

    def waited(self, wait: Wait) -> None:
        """What it waited for the store; of a sequence that has ended, nobody asks any more."""
        account = self._accounts.get(wait.request_id)
        if account is None:
            return
        account.block_ns += wait.held_blocks * sum(wait.by_tier_ns.values())
        for tier, ns in wait.by_tier_ns.items():
            account.fetching_ns[tier] += ns
        for tier, num_bytes in wait.fetched_bytes.items():
            account.fetched_bytes[tier] += num_bytes

    def published(self, request_id: str, num_bytes: int) -> None:
        """Blocks that it computed have been written to the store."""
        if request_id in self._accounts:
            self._accounts[request_id].published_bytes += num_bytes

    def take_step(self, step: Step) -> None:
        """Share a step out. O(chunks); a sequence that just decodes on, which is most of them, costs the least."""
        plan, start_ns, end_ns, num_right = step
        last, duration_ns, decoded_ns = self._num_steps, end_ns - start_ns, 0
        self._num_steps = this = last + 1
        costs = chunk_costs(plan.chunks, self._prices)
        for chunk, cost, share_ns in zip(plan.chunks, costs, share_out(duration_ns, costs), strict=True):
            account = self._accounts[chunk.sequence.request.id]
            start, since_ns = chunk.start, account.since_ns
            if (
                chunk.num_tokens == 1
                and account.last_step == last
                and start == account.num_computed >= account.num_given
            ):
                account.stages_ns[_STALL] += start_ns - since_ns
                account.stages_ns[_DECODE] += duration_ns
                account.device_ns[_DECODING] += share_ns
                account.block_ns += -(-(start + 1) // self._block_tokens) * (end_ns - since_ns)
                account.steps += 1
                account.computed_tokens += 1
                account.num_computed = start + 1
                decoded_ns += share_ns
            else:
                self._take_part(account, chunk, cost, share_ns, step)
            account.since_ns = end_ns
            account.last_step = this
        self.work_ns[_DECODING] += decoded_ns

    def _take_part(self, account: Account, chunk: Chunk, cost: float, share_ns: int, step: Step) -> None:
        """In a step that is not just the next of a decoding sequence."""
        was_running = account.last_step == self._num_steps - 1
        held_since_ns = account.since_ns if was_running else step.start_ns
        num_blocks = -(-(chunk.start + chunk.num_tokens) // self._block_tokens)
        account.block_ns += num_blocks * (step.end_ns - held_since_ns)
        account.wait_until(step.start_ns, was_running=was_running)
        account.stages_ns[_stage(account, chunk)] += step.end_ns - step.start_ns
        num_right = step.num_right.get(chunk.sequence.request.id, 0) if chunk.drafts else 0
        draft_share = self._prices.per_row_s / cost if cost > 0 else 1 / chunk.num_tokens
        for work, ns in account.compute(chunk, share_ns, num_right, draft_share).items():
            self.work_ns[work] += ns

    def ended(self, request_id: str) -> None:
        """It was in its last step."""
        self._accounts[request_id].has_ended = True

    def close(self, request_id: str, at_ns: int) -> SequenceReport | None:
        """Its last word is said now; None where it is not known. Who publishes does so until now."""
        account = self._accounts.pop(request_id, None)
        if account is None:
            return None
        if account.publishes or not account.has_ended:
            account.wait_until(at_ns, was_running=account.last_step == self._num_steps)
        return account.report(self._block_bytes)


def _stage(account: Account, chunk: Chunk) -> Stage:
    if chunk.start < account.num_computed:
        return Stage.PREEMPTED
    return Stage.PREFILL if chunk.start < account.num_given else Stage.DECODE
