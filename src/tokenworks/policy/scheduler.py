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

Invariants: `plan` and `apply` (or `abandon`) alternate; `add` and `cancel` come only between steps; the oldest sequence
always advances, because it alone fits the pool and everybody else can be preempted for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tokenworks.contract.errors import ContextLengthExceeded, InvalidRequest
from tokenworks.contract.request import Request
from tokenworks.contract.wire import EndReason, Load
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.speculation import Speculator


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
class Chunk:
    """Tokens `[start, start + num_tokens)` of one sequence, to be computed in this step; the last may be drafts."""

    sequence: Sequence
    start: int
    num_tokens: int
    num_sampled: (
        int  # of its last tokens, what follows is sampled: 0 before the sequence's last token, 1 + drafts at it
    )
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


class Scheduler:
    """The waiting and running sequences of one engine."""

    def __init__(self, limits: Limits, pool: BlockPool, fingerprint: str, speculator: Speculator | None = None) -> None:
        self.limits = limits
        self.pool = pool
        self.preemptions = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._speculator = speculator
        self._fingerprint = fingerprint
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of admission
        self._by_id: dict[str, Sequence] = {}

    @property
    def has_work(self) -> bool:
        """Whether `plan` would find something to do."""
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

    def cancel_all(self) -> list[Sequence]:
        """Drop every sequence."""
        return [sequence for request_id in list(self._by_id) if (sequence := self.cancel(request_id))]

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to do."""
        if not self._by_id:
            return None
        chunks, budget = self._plan_running(self.limits.max_step_tokens)
        chunks += self._admit(budget)
        assert chunks, "work is waiting, but the step is empty"
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
            victim = self._running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.appendleft(sequence)

    def _admit(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        while self._waiting and budget > 0 and len(self._running) < self.limits.max_running:
            sequence = self._waiting[0]
            cached = self._cached_blocks(sequence)
            if not self._can_admit(sequence, cached):
                break
            self._waiting.popleft()
            self._running.append(sequence)
            self._start(sequence, cached)
            count = min(sequence.num_uncomputed, budget)
            chunks.append(self._schedule(sequence, count))
            budget -= count
        return chunks

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        """The longest cached prefix, short of the last token, which must be computed to sample from it."""
        return self.pool.match(sequence.names_of_full_blocks(len(sequence.token_ids) - 1))

    def _can_admit(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether all its tokens fit, with one block to spare for each sequence that already runs."""
        taken = self.pool.num_free_among(cached)
        new = sequence.blocks_for(len(sequence.token_ids)) - len(cached)
        return taken + new + len(self._running) <= self.pool.num_free

    def _start(self, sequence: Sequence, cached: list[int]) -> None:
        self.pool.acquire(cached)
        sequence.block_table = list(cached)
        sequence.num_computed = len(cached) * self.limits.block_tokens
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.num_computed

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
            self.pool.give_name(sequence.block_table[index], names[index])

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
        token_ids, end = _until_end(sequence, _verified(chunk.drafts, sampled))
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
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = 0


def _verified(drafts: tuple[int, ...], sampled: list[int]) -> list[int]:
    """The sampled tokens as far as the drafts before them were right: at least the first."""
    assert sampled, "a sampled chunk got no token"
    right = 0
    while right < min(len(drafts), len(sampled) - 1) and drafts[right] == sampled[right]:
        right += 1
    return sampled[: right + 1]


def _until_end(sequence: Sequence, token_ids: list[int]) -> tuple[list[int], EndReason | None]:
    """The tokens up to the one that ends the sequence, and why it does."""
    sampling = sequence.request.sampling
    for count, token_id in enumerate(token_ids, 1):
        if token_id in sampling.stop_token_ids:
            return token_ids[:count], EndReason.STOP
        if sequence.num_output + count >= sampling.max_tokens:
            return token_ids[:count], EndReason.LENGTH
    return token_ids, None
