"""Decides what one engine computes in its next step. Pure: no clock, no torch, no I/O; the simulator runs this too.

Sequences are served first come, first served. Each step has a budget of tokens. Running sequences go first, each with
what it has not computed (one token in decode, a chunk of its prompt in prefill); what is left of the budget admits
waiting ones, which reuse the blocks of the longest prefix that is already in the pool. When no block is free, the
running sequence admitted last is preempted: it gives up its blocks, goes back to the head of the queue and later
recomputes what is no longer cached.

Blocks are named when the step that fills them is planned, not when it is done: inside a step every layer writes all its
keys and values before it reads any, so that equal prompts that arrive together are computed once.

Where speculation is on, a sequence that decodes may run ahead: drafts, guesses at its next tokens, are computed with
its last one and kept as far as they equal what is sampled. They use budget and free blocks that nobody else wants in
this step. A block that drafts fill is named when they have proved right; what rejected ones wrote is never read, and
their blocks are given back.

Where blocks can be fetched from elsewhere, a waiting sequence may be *arriving* (see `arriving`): it is held back, with
blocks of the pool that are being filled for it, and those behind it are admitted meanwhile. Blocks that a waiting
sequence holds are taken from it before anybody is preempted.

Invariants: `plan` and `apply` (or `abandon`) alternate; all else comes only between steps; the oldest sequence that is
not held back always advances, because it alone fits the pool and everybody else can be made to give up what they hold.
Between steps every block that has a name has been computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass

from tokenworks.contract.errors import ContextLengthExceeded, InvalidRequest
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.contract.request import Request
from tokenworks.contract.wire import Load
from tokenworks.policy.arriving import Arrival, Arrivals, tokens_by_tier
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.speculation import Speculator
from tokenworks.policy.step_plan import Chunk, Outcome, StepPlan, until_end, verified


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step and one sequence may take at most."""

    max_running: int  # sequences in a step
    max_step_tokens: int  # tokens in a step
    max_context_tokens: int  # prompt and output of one sequence
    block_tokens: int

    def __post_init__(self) -> None:
        if min(self.max_running, self.max_step_tokens, self.max_context_tokens, self.block_tokens) < 1:
            raise ValueError(f"every limit must be at least 1: {self}")
        if self.max_running > self.max_step_tokens:
            raise ValueError("max_running may not exceed max_step_tokens: each running sequence needs one token a step")


@dataclass(frozen=True, slots=True)
class NamedBlock:
    """A block that a step fills."""

    name: BlockName
    parent: BlockName
    index: int  # in its sequence: its first token's position, in blocks
    request_id: str  # its sequence's


class Scheduler:
    """The waiting and running sequences of one engine."""

    def __init__(self, limits: Limits, pool: BlockPool, fingerprint: str, speculator: Speculator | None = None) -> None:
        self.limits = limits
        self.pool = pool
        self.preemptions = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self.named: list[NamedBlock] = []  # by the last step
        self.reused: list[BlockName] = []  # blocks of the pool that sequences admitted in the last step began with
        self._speculator = speculator
        self._fingerprint = fingerprint
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of admission
        self._by_id: dict[str, Sequence] = {}
        self._arrivals = Arrivals(pool, self._waiting, limits.max_running)

    @property
    def has_work(self) -> bool:
        """Whether a sequence has not ended. `plan` finds something to do then, unless all is arriving."""
        return bool(self._by_id)

    def load(self, steps: int) -> Load:
        """How busy the engine is, for a heartbeat."""
        return Load(
            running=len(self._running),
            waiting=len(self._waiting),
            free_blocks=self.pool.num_free,
            total_blocks=self.pool.num_blocks,
            steps=steps,
            preemptions=self.preemptions,
            draft_tokens=self.draft_tokens,
            accepted_tokens=self.accepted_tokens,
            arriving=len(self._arrivals),
        )

    def add(self, request: Request) -> None:
        """Queue a request; raises InvalidRequest (ContextLengthExceeded) where it can never run."""
        if request.id in self._by_id:
            raise InvalidRequest(f"request id {request.id} is already in use")
        if not request.token_ids:
            raise InvalidRequest("the prompt is empty: give at least one token", param="prompt")
        if request.sampling.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")
        self._check_length(request)
        sequence = Sequence(request, self.limits.block_tokens, self._fingerprint)
        self._by_id[request.id] = sequence
        self._waiting.append(sequence)

    def _check_length(self, request: Request) -> None:
        prompt, output = request.num_prompt, request.sampling.max_tokens
        capacity = self.pool.num_blocks * self.limits.block_tokens
        limit = min(self.limits.max_context_tokens, capacity)
        if prompt + output > limit:
            raise ContextLengthExceeded(
                f"{prompt} prompt tokens and max_tokens of {output} exceed this worker's window of {limit} tokens"
            )

    def cancel(self, request_id: str) -> Sequence | None:
        """Drop a sequence and free its blocks; None where there is none of that id."""
        sequence = self._by_id.get(request_id)
        if sequence is not None:
            self._drop(sequence)
        return sequence

    def take_unmatched(self) -> list[Arrival]:
        """Waiting sequences whose missing blocks could be fetched; each is held back until `arrived`."""
        return self._arrivals.take_unmatched(len(self._running))

    def expect(self, arrival: Arrival, count: int) -> bool:
        """Give it blocks for its first `count` names, to be written to; False where it has none to get."""
        return self._arrivals.expect(arrival, count, len(self._running))

    def arrived(self, arrival: Arrival, tiers: ListLike[Tier]) -> None:
        """Its first `len(tiers)` blocks have been written, and no more will be: it may be admitted."""
        self._arrivals.arrived(arrival, tiers)

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to do, or nothing until somebody's blocks have arrived."""
        self.named, self.reused = [], []
        chunks, budget = self._plan_running(self.limits.max_step_tokens)
        chunks += self._admit(budget)
        if not chunks:
            assert not self._by_id or self._arrivals, "work is waiting, but the step is empty"
            return None
        if self._speculator is not None:
            chunks = self._run_ahead(self._speculator, chunks)
        return StepPlan(tuple(chunks))

    def _plan_running(self, budget: int) -> tuple[list[Chunk], int]:
        chunks: list[Chunk] = []
        while len(chunks) < len(self._running):  # the budget has a token for each: see Limits
            sequence = self._running[len(chunks)]
            count = min(sequence.num_uncomputed, budget)
            if not self._make_room(sequence, sequence.num_computed + count):
                break  # it preempted itself: it was the last one
            chunks.append(self._schedule(sequence, count))
            budget -= count
        return chunks, budget

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Preempt from the tail until `sequence` can grow to `num_tokens`; False where it had to go itself."""
        needed = sequence.blocks_for(num_tokens) - len(sequence.block_table)
        while needed > self.pool.num_free:
            if self._take_from_waiting():
                continue
            victim = self._running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _take_from_waiting(self, behind: Sequence | None = None) -> bool:
        """The last waiting sequence (behind that one) that holds blocks loses them; False where there is none."""
        holder = self._arrivals.last_holder(behind)
        if holder is not None:
            self._release(holder)
        return holder is not None

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.appendleft(sequence)

    def _admit(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        while budget > 0 and len(self._running) < self.limits.max_running:
            sequence = self._next_admissible()
            if sequence is None or not self._find_room(sequence):
                break
            self._waiting.remove(sequence)
            self._running.append(sequence)
            self._start(sequence)
            count = min(sequence.num_uncomputed, budget)
            chunks.append(self._schedule(sequence, count))
            budget -= count
        return chunks

    def _next_admissible(self) -> Sequence | None:
        """The first in the queue that is not held back."""
        return next((sequence for sequence in self._waiting if not self._arrivals.is_held(sequence)), None)

    def _find_room(self, sequence: Sequence) -> bool:
        """Whether it can be admitted; where nothing runs that would make room later, those behind it make it now."""
        while not self._can_admit(sequence, self._cached_blocks(sequence)):
            if self._running or not self._take_from_waiting(behind=sequence):
                return False
        return True

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        """The longest cached prefix, short of the last token, which must be computed to sample from it."""
        return self.pool.match(sequence.names_of_full_blocks(len(sequence.token_ids) - 1))

    def _can_admit(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether all its tokens fit, with one block to spare for each sequence that already runs."""
        taken = self.pool.num_free_among(cached)
        new = sequence.blocks_for(len(sequence.token_ids)) - len(cached)
        return taken + new + len(self._running) <= self.pool.num_free

    def _start(self, sequence: Sequence) -> None:
        cached, held = self._cached_blocks(sequence), sequence.block_table
        self.pool.acquire(cached)
        self.pool.release(held)
        sequence.block_table = cached
        sequence.num_computed = len(cached) * self.limits.block_tokens
        names = sequence.block_names[: len(cached)]
        self.reused += [name for index, name in enumerate(names) if index not in sequence.fetched]
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.num_computed
            sequence.fetched_tokens = tokens_by_tier(sequence)

    def _schedule(self, sequence: Sequence, count: int) -> Chunk:
        """Give `sequence` the blocks for its next `count` tokens, and name those that they fill."""
        start, end = sequence.num_computed, sequence.num_computed + count
        table = sequence.block_table
        table += self.pool.allocate(sequence.blocks_for(end) - len(table))
        self._name_full_blocks(sequence, start, end)
        return Chunk(sequence, start, count, num_sampled=int(end == len(sequence.token_ids)))

    def _name_full_blocks(self, sequence: Sequence, start: int, end: int) -> None:
        """Make those blocks findable that the tokens `[start, end)` fill up."""
        names = sequence.names_of_full_blocks(end)
        for index in range(start // self.limits.block_tokens, len(names)):
            if self.pool.give_name(sequence.block_table[index], names[index]):
                parent = names[index - 1] if index else sequence.root
                self.named.append(NamedBlock(names[index], parent, index, sequence.request.id))

    def _run_ahead(self, speculator: Speculator, chunks: list[Chunk]) -> list[Chunk]:
        """Give drafts to chunks of one token; nobody makes way for a guess."""
        num_rows = sum(chunk.num_tokens for chunk in chunks)
        decoding = [chunk.sequence for chunk in chunks if chunk.is_decode]
        guesses = iter(speculator.draft(decoding, num_rows, self.limits.max_step_tokens - num_rows))
        return [self._with_drafts(chunk, next(guesses)) if chunk.is_decode else chunk for chunk in chunks]

    def _with_drafts(self, chunk: Chunk, guesses: list[int]) -> Chunk:
        """The chunk with as many drafts as find room in its blocks and the free ones."""
        table, end = chunk.sequence.block_table, chunk.start + 1
        room = (len(table) + self.pool.num_free) * self.limits.block_tokens - end
        drafts = tuple(guesses[:room])
        if not drafts:
            return chunk
        count = 1 + len(drafts)
        table += self.pool.allocate(chunk.sequence.blocks_for(chunk.start + count) - len(table))
        self.draft_tokens += len(drafts)
        return Chunk(chunk.sequence, chunk.start, count, num_sampled=count, drafts=drafts)

    def apply(self, plan: StepPlan, token_ids: Iterable[list[int]]) -> list[Outcome]:
        """Take in the step's result: `token_ids` has a list for each of `plan.sampled`, in order.

        A list has what was sampled behind each of the chunk's last tokens; it may end at the first that is not the
        draft in that place, because what was sampled behind a wrong draft says nothing.
        """
        pairs = list(zip(plan.sampled, token_ids, strict=True))
        for chunk in plan.chunks:
            chunk.sequence.num_computed = chunk.start + chunk.num_tokens - len(chunk.drafts)
        return [self._append(chunk, sampled) for chunk, sampled in pairs]

    def _append(self, chunk: Chunk, sampled: list[int]) -> Outcome:
        sequence = chunk.sequence
        token_ids, end = until_end(sequence, verified(chunk.drafts, sampled))
        sequence.token_ids += token_ids
        if chunk.drafts:
            self.accepted_tokens += len(token_ids) - 1
            self._settle(sequence, len(token_ids) - 1)
        if end is not None:
            self._drop(sequence)
        return Outcome(sequence, token_ids, end)

    def _settle(self, sequence: Sequence, num_accepted: int) -> None:
        """Count accepted drafts as computed, name what they filled, and give back the blocks of the others."""
        start = sequence.num_computed
        sequence.num_computed += num_accepted
        self._name_full_blocks(sequence, start, sequence.num_computed)
        num_blocks = sequence.blocks_for(sequence.num_computed)
        self.pool.release(sequence.block_table[num_blocks:])
        del sequence.block_table[num_blocks:]

    def abandon(self, plan: StepPlan) -> list[Sequence]:
        """The step failed: forget the blocks it was to write, and drop its sequences, which are returned."""
        self.named = []
        for chunk in plan.chunks:
            first = chunk.start // self.limits.block_tokens
            for block in chunk.sequence.block_table[first:]:
                self.pool.forget(block)
        sequences = [chunk.sequence for chunk in plan.chunks]
        for sequence in sequences:
            self._drop(sequence)
        return sequences

    def _drop(self, sequence: Sequence) -> None:
        del self._by_id[sequence.request.id]
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self._arrivals.forget(sequence)
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = 0
