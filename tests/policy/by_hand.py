"""Schedulers and requests so small that what must come of them can be worked out by hand. Blocks are of four tokens."""

from __future__ import annotations

from tokenworks.contract.request import Request, Sampling
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Outcome, StepPlan


def make_scheduler(
    num_blocks: int = 16,
    *,
    max_running: int = 4,
    max_step_tokens: int = 64,
    max_context_tokens: int = 64,
    block_tokens: int = 4,
) -> Scheduler:
    limits = Limits(max_running, max_step_tokens, max_context_tokens, block_tokens)
    return Scheduler(limits, BlockPool(num_blocks), "fingerprint")


def make_request(
    name: str, prompt: int | list[int], max_tokens: int = 8, *, salt: str = "", stop: tuple[int, ...] = ()
) -> Request:
    """A prompt of these tokens, or of that many which no other prompt has."""
    first = 1000 * sum(map(ord, name))
    token_ids = prompt if isinstance(prompt, list) else list(range(first, first + prompt))
    sampling = Sampling(max_tokens=max_tokens, stop_token_ids=stop)
    return Request(name, "model", token_ids, sampling, salt=salt)


def shape(plan: StepPlan | None) -> list[tuple[str, int, int]]:
    assert plan is not None
    return [(chunk.sequence.request.id, chunk.start, chunk.num_tokens) for chunk in plan.chunks]


def step(scheduler: Scheduler, token_id: int = 7) -> list[tuple[str, int, int]]:
    """Run one step in which every sampled token is `token_id`; returns the plan's shape."""
    plan = scheduler.plan()
    assert plan is not None
    planned = shape(plan)
    scheduler.apply(plan, [[token_id]] * len(plan.sampled))
    return planned


def outcomes(scheduler: Scheduler, *token_ids: int) -> list[Outcome]:
    plan = scheduler.plan()
    assert plan is not None
    return scheduler.apply(plan, [[token_id] for token_id in token_ids])


def run_out(scheduler: Scheduler) -> None:
    while scheduler.has_work:
        step(scheduler)


def sequences(scheduler: Scheduler) -> dict[str, Sequence]:
    """The running ones, by request id, as the next plan shows them; that step is then applied."""
    plan = scheduler.plan()
    assert plan is not None
    running = {chunk.sequence.request.id: chunk.sequence for chunk in plan.chunks}
    scheduler.apply(plan, [[7]] * len(plan.sampled))
    return running
