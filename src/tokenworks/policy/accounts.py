"""The accounts of a worker's sequences: who was in which step, and what of it was whose. Pure: told instants and steps.

An account is open from a request's arrival at the worker to its last word. A sequence that runs is in every step,
because the scheduler has a token for each; so who was not in the step before was waiting: for its first step, or
because its blocks had been taken from it.

Most steps are like the one before: the same sequences, one token each. Such steps are not shared out one by one, which
would take longer than recording may. They are a *run*, of which only the time is noted, and which is shared out as one
when something else happens or somebody asks. Each pays as for the run's middle, where its context had its mean length.

Invariants: an account's stages sum to its time, its shares and the others' to the time of the steps. All that is open
has been in all of a run's steps, or in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import SequenceReport, Work
from tokenworks.contract.request import Request
from tokenworks.contract.wire import SequenceOutput
from tokenworks.policy.account import Account
from tokenworks.policy.sharing import Prices, chunk_costs, share_out
from tokenworks.policy.step_plan import Chunk

Chunks = tuple[Chunk, ...]


class Wait(NamedTuple):
    """A sequence was held back while blocks came from the store."""

    request_id: str
    by_tier_ns: Mapping[Tier, int]
    fetched_bytes: Mapping[Tier, int]
    held_blocks: int  # of the device, meanwhile


class Step(NamedTuple):
    """A step that was run, well or badly, and what it gave."""

    chunks: Chunks
    start_ns: int
    end_ns: int
    outputs: Sequence[SequenceOutput]
    goes_on: bool = False  # as its plan says; where it does not, the chunks are looked at


class Computed(NamedTuple):
    """A step, or several of them in which each chunk went on by one token."""

    chunks: Chunks  # of the first
    num_steps: int


@dataclass(eq=False, slots=True)
class _Run:
    """Steps that have not been shared out yet."""

    last: Chunks  # of the step before it, then of its last one
    first: Chunks = ()
    num_steps: int = 0
    steps_ns: int = 0
    end_ns: int = 0

    def goes_on_with(self, step: Step) -> bool:
        """Whether these are the same sequences, each one token further. Kept plain: asked in every step.

        O(1) where the plan knows; the first of the chunks tells whether the step that it goes on from was told.
        """
        chunks, num_looked_at = step.chunks, 1 if step.goes_on else len(step.chunks)
        if len(chunks) != len(self.last):
            return False
        for chunk, last in zip(chunks[:num_looked_at], self.last, strict=False):
            if chunk.sequence is not last.sequence or chunk.start != last.start + 1 or chunk.num_tokens != 1:
                return False
        return True

    def go_on(self, step: Step) -> None:
        """One more."""
        self.first = self.first or step.chunks
        self.last = step.chunks
        self.num_steps += 1
        self.steps_ns += step.end_ns - step.start_ns
        self.end_ns = step.end_ns


class Accounts:
    """Those of one worker."""

    def __init__(self, prices: Prices, block_tokens: int, block_bytes: int) -> None:
        self.work_ns: dict[Work, int] = dict.fromkeys(Work, 0)  # of all steps
        self._prices = prices
        self._block_tokens = block_tokens
        self._block_bytes = block_bytes
        self._num_steps = 0
        self._run = _Run(())
        self._accounts: dict[str, Account] = {}
        self._computed: list[Computed] = []

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
        """Note a step. O(chunks), and next to nothing where it goes on as the one before."""
        if self._run.goes_on_with(step):
            self._run.go_on(step)
        else:
            self.settle()
            self._share_out(step)
            self._run = _Run(step.chunks if all([chunk.is_decode for chunk in step.chunks]) else ())
        for request_id in [output.request_id for output in step.outputs if output.end is not None]:
            self.settle()
            self._accounts[request_id].has_ended = True

    def settle(self) -> None:
        """Share out the run."""
        run, prices = self._run, self._prices
        if not run.num_steps:
            return
        self._run = _Run(run.last)
        self._num_steps += run.num_steps
        self._computed.append(Computed(run.first, run.num_steps))
        self.work_ns[Work.DECODE] += run.steps_ns
        later_s = prices.per_context_token_s * (run.num_steps - 1) / 2
        costs = [cost + later_s for cost in chunk_costs(run.first, prices)]
        for chunk, share_ns in zip(run.first, share_out(run.steps_ns, costs), strict=True):
            account = self._accounts[chunk.sequence.request.id]
            num_blocks = self._blocks(chunk.start + 1) + self._blocks(chunk.start + run.num_steps)
            account.block_ns += num_blocks * (run.end_ns - account.since_ns) // 2
            account.decode(run.num_steps, run.steps_ns, run.end_ns, share_ns)
            account.last_step = self._num_steps

    def _share_out(self, step: Step) -> None:
        last = self._num_steps
        self._num_steps += 1
        self._computed.append(Computed(step.chunks, 1))
        costs = chunk_costs(step.chunks, self._prices)
        duration_ns, decoded_ns = step.end_ns - step.start_ns, 0
        for chunk, cost, share_ns in zip(step.chunks, costs, share_out(duration_ns, costs), strict=True):
            account = self._accounts[chunk.sequence.request.id]
            was_running = account.last_step == last
            account.last_step = last + 1
            held_since_ns = account.since_ns if was_running else step.start_ns
            account.block_ns += self._blocks(chunk.start + chunk.num_tokens) * (step.end_ns - held_since_ns)
            if was_running and account.is_next_token(chunk):
                account.decode(1, duration_ns, step.end_ns, share_ns)
                decoded_ns += share_ns
            else:
                account.wait_until(step.start_ns, was_running=was_running)
                self._compute(account, chunk, cost, share_ns, step)
        self.work_ns[Work.DECODE] += decoded_ns

    def _compute(self, account: Account, chunk: Chunk, cost: float, share_ns: int, step: Step) -> None:
        num_right = _num_right(step, chunk.sequence.request.id) if chunk.drafts else 0
        draft_share = self._prices.per_row_s / cost if cost > 0 else 1 / chunk.num_tokens
        for work, ns in account.compute(chunk, step.end_ns, share_ns, num_right, draft_share).items():
            self.work_ns[work] += ns

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_tokens)

    def close(self, request_id: str, at_ns: int) -> SequenceReport | None:
        """Its last word is said now; None where it is not known. Who publishes does so until now."""
        self.settle()
        account = self._accounts.pop(request_id, None)
        if account is None:
            return None
        if account.publishes or not account.has_ended:
            account.wait_until(at_ns, was_running=account.last_step == self._num_steps)
        return account.report(self._block_bytes)

    def take_computed(self) -> list[Computed]:
        """The steps since the last call, those of the run included."""
        self.settle()
        computed, self._computed = self._computed, []
        return computed


def _num_right(step: Step, request_id: str) -> int:
    """Drafts that proved right: each gave a token beyond the first. In a step that failed, none did."""
    return sum(max(len(output.token_ids) - 1, 0) for output in step.outputs if output.request_id == request_id)
