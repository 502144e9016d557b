"""One engine: a scheduler that decides, a decoder that computes, a sampler that chooses. One call is one step.

The engine knows nothing of processes and sockets: it is given requests and gives outputs. It reads the clock that it is
handed for one thing: it tells when each step ran, so that guessing ahead and fetching are chosen by their gain and each
sequence is charged its share. A step that raises ends the sequences in it, with the reason, and the engine goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.kv import BlockName, KVSpec
from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, Load, SequenceOutput, TokenLogprobs
from tokenworks.engine.batch import StepBatch, build_batch
from tokenworks.engine.block_memory import BlockMemory
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.sampler import Sampled, sample
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.speculation import Speculator
from tokenworks.policy.step_plan import Outcome, StepPlan

log = logging.getLogger(__name__)


class Model(Protocol):
    """What computes a step: PyTorch's operators and Numba's loops, the native library, or another engine's graph."""

    config: ModelConfig
    weights: str  # the form they are multiplied in
    dtype: torch.dtype  # of activations

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""

    def step_bytes(self, num_rows: int) -> int:
        """Bytes of packed weights that a step over `num_rows` rows reads."""

    def make_cache(self, spec: KVSpec, num_blocks: int) -> BlockMemory:
        """KV memory of the kind that its steps read and write."""

    def __call__(self, batch: StepBatch, cache: Any) -> Tensor:  # Any: what its own `make_cache` gave
        """Compute the batch's rows, writing their KV; float32 [sampled rows, vocab], good until the next call."""


class StepTime(NamedTuple):
    """A step that was run: from the plan to the sampled tokens, on the engine's clock."""

    plan: StepPlan
    start_ns: int
    end_ns: int
    has_failed: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


class Engine:
    """Runs sequences of one model on one device slice.

    `scheduler` and `memory` are there for who exchanges KV blocks with others, between steps.
    """

    def __init__(
        self,
        model: Model,
        spec: KVSpec,
        num_blocks: int,
        limits: Limits,
        speculator: Speculator | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.model = model
        self.spec = spec
        self.limits = limits
        self.steps = 0
        self.last_step: StepTime | None = None
        self._cache = model.make_cache(spec, num_blocks)
        self._pool = BlockPool(num_blocks)
        self._speculator = speculator
        self._clock_ns = clock_ns
        self.scheduler = Scheduler(limits, self._pool, spec.fingerprint, speculator)

    @property
    def memory(self) -> BlockMemory:
        """The blocks' bytes."""
        return self._cache

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self.scheduler.has_work

    @property
    def load(self) -> Load:
        """How busy the engine is."""
        return self.scheduler.load(self.steps)

    def add(self, request: Request) -> None:
        """Queue a request; raises InvalidRequest where it can never run."""
        vocab_size = self.model.config.vocab_size
        if request.token_ids and not 0 <= min(request.token_ids) <= max(request.token_ids) < vocab_size:
            raise InvalidRequest(f"token ids must be from 0 to {vocab_size - 1}", param="prompt")
        self.scheduler.add(request)

    def cancel(self, request_id: str) -> bool:
        """Drop a request and free its blocks; False where it has ended already."""
        return self.scheduler.cancel(request_id) is not None

    def block_of(self, name: BlockName) -> int | None:
        """The block of `memory` that holds it, computed; None where none does. Between steps only."""
        return next(iter(self._pool.match([name])), None)

    def take_block_changes(self) -> tuple[list[BlockName], list[BlockName]]:
        """Names of blocks (added to, removed from) the prefix cache since the last call."""
        return self._pool.take_changes()

    def held_blocks(self) -> list[BlockName]:
        """Names of all blocks in the prefix cache."""
        return self._pool.held_names()

    @contextmanager
    def plain_steps(self) -> Iterator[None]:
        """Meanwhile no sequence runs ahead: each step gives one token to each. Step times are still learnt from."""
        if self._speculator is None:
            yield
            return
        self._speculator.is_paused = True
        try:
            yield
        finally:
            self._speculator.is_paused = False

    def reset_cache(self) -> None:
        """Forget every cached block, and what the last step did; only while nothing runs."""
        assert not self.has_work, "the cache is in use"
        for block in range(self._pool.num_blocks):
            self._pool.forget(block)
        self.scheduler.tables.begin_step()
        self.last_step = None

    def step(self) -> list[SequenceOutput]:
        """One forward pass; what it gave each sequence that got a token or ended. None is run if all is arriving."""
        plan = self.scheduler.plan()
        if plan is None:
            return []
        self.steps += 1
        try:
            sampled = self._compute(plan)
        except Exception as error:
            log.exception("step %d failed", self.steps)
            return self._abandon(plan, f"{type(error).__name__}: {error}")
        outcomes = self.scheduler.apply(plan, sampled.token_ids)
        return [_output(*pair) for pair in zip(outcomes, sampled.logprobs, strict=True)]

    def _compute(self, plan: StepPlan) -> Sampled:
        start_ns = self._clock_ns()
        try:
            sampled = self._forward(plan)
        except Exception:
            self.last_step = StepTime(plan, start_ns, self._clock_ns(), has_failed=True)
            raise
        self.last_step = StepTime(plan, start_ns, self._clock_ns())
        if self._speculator is not None:
            self._speculator.costs.observe(plan.num_tokens, self.last_step.seconds)
        return sampled

    @torch.inference_mode()
    def _forward(self, plan: StepPlan) -> Sampled:
        logits = self.model(build_batch(plan, self.spec.block_tokens), self._cache)
        return sample(logits, plan.sampled)

    def _abandon(self, plan: StepPlan, error: str) -> list[SequenceOutput]:
        end = End(reason=EndReason.FAILED, error=error)
        return [SequenceOutput(s.request.id, end=end) for s in self.scheduler.abandon(plan)]


def _output(outcome: Outcome, logprobs: list[TokenLogprobs] | None) -> SequenceOutput:
    sequence, token_ids = outcome.sequence, outcome.token_ids
    is_first = sequence.num_output == sequence.request.num_generated + len(token_ids)
    end = None
    if outcome.end is not None:
        stop = token_ids[-1] if outcome.end is EndReason.STOP else None
        end = End(reason=outcome.end, stop_token_id=stop, preemptions=sequence.preemptions)
    return SequenceOutput(
        request_id=sequence.request.id,
        token_ids=token_ids,
        logprobs=None if logprobs is None else logprobs[: len(token_ids)],
        cached_tokens=sequence.cached_tokens if is_first else None,
        end=end,
        fetched_tokens=sequence.fetched_tokens or None if is_first else None,
    )
