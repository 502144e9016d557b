"""Accounts: by example, and over random runs of the real scheduler against what can be known from outside.

The clock is made up: each instant lies some nanoseconds behind the one before. Blocks are of four tokens.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import SequenceReport, Stage, Work
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.policy.accounts import Accounts, Computed, Step, Wait
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.sharing import Prices
from tokenworks.policy.speculation import Speculator
from tokenworks.policy.step_plan import StepPlan

PRICES = Prices(0.010, 0.001, 0.00001, 0.040, 0.002, 0.0001)
BLOCK_BYTES = 1000
STEP_NS, GAP_NS = 1000, 10


Given = tuple[Sequence, list[int], EndReason | None]


class Guesser(Speculator):
    """Drafts the same token three times, whatever it costs."""

    def draft(self, sequences: list[Sequence], num_rows: int, most: int) -> list[list[int]]:
        room = [
            min(3, most // max(len(sequences), 1), s.request.sampling.max_tokens - s.num_output - 1) for s in sequences
        ]
        return [[7] * max(0, count) for count in room]


class Run:
    """A scheduler and the accounts of its sequences, with a clock of its own."""

    def __init__(
        self, num_blocks: int = 32, max_step_tokens: int = 16, *, guesses: bool = False, trusts_plans: bool = True
    ) -> None:
        self.trusts_plans = trusts_plans  # or else the accounts look at every chunk
        limits = Limits(4, max_step_tokens, 64, 4)
        self.scheduler = Scheduler(limits, BlockPool(num_blocks), "f", Guesser() if guesses else None)
        self.accounts = Accounts(PRICES, 4, BLOCK_BYTES)
        self.now_ns = 0
        self.step_ns = 0  # of all steps
        self.arrived_ns: dict[str, int] = {}
        self.ended_ns: dict[str, int] = {}
        self.reports: dict[str, SequenceReport] = {}
        self.plans: list[StepPlan] = []
        self.computed: list[Computed] = []

    def add(self, name: str, prompt: int, max_tokens: int, *, publishes: bool = False) -> None:
        first = 1000 * sum(map(ord, name))
        request = Request(name, "model", list(range(first, first + prompt)), Sampling(max_tokens=max_tokens))
        self.scheduler.add(request)
        self.arrived_ns[name] = self.now_ns
        self.accounts.open(request, self.now_ns, publishes=publishes)

    def step(self, duration_ns: int = STEP_NS, sampled: int = 7, *, fails: bool = False) -> list[str]:
        """One step, after the gap; who ended in it. Those that do not publish are closed a gap later."""
        self.now_ns += GAP_NS
        plan = self.scheduler.plan()
        if plan is None:
            return []
        self.plans.append(plan)
        start_ns = self.now_ns
        self.now_ns += duration_ns
        self.step_ns += duration_ns
        if fails:
            gave: list[Given] = [(sequence, [], EndReason.FAILED) for sequence in self.scheduler.abandon(plan)]
        else:
            outcomes = self.scheduler.apply(plan, [[sampled] * chunk.num_sampled for chunk in plan.sampled])
            gave = [(each.sequence, each.token_ids, each.end) for each in outcomes]
        outputs = [
            SequenceOutput(sequence.request.id, token_ids, end=End(end) if end else None)
            for sequence, token_ids, end in gave
        ]
        self.accounts.take_step(Step(plan.chunks, start_ns, self.now_ns, outputs, plan.goes_on and self.trusts_plans))
        ended = [output.request_id for output in outputs if output.end]
        self.ended_ns.update(dict.fromkeys(ended, self.now_ns))
        self.now_ns += GAP_NS
        for name in ended:
            self.close(name)
        return ended

    def close(self, name: str) -> None:
        report = self.accounts.close(name, self.now_ns)
        assert report is not None
        self.reports[name] = report

    def cancel(self, name: str) -> SequenceReport:
        self.scheduler.cancel(name)
        self.ended_ns[name] = self.now_ns
        self.close(name)
        return self.reports[name]

    def finish(self) -> None:
        while self.scheduler.has_work:
            self.step()


def test_a_life_without_company() -> None:
    run = Run()
    run.now_ns = 500
    run.add("a", 20, 3)
    run.now_ns = 700
    run.finish()
    report = run.reports["a"]
    assert report.stages_ns == {
        Stage.QUEUE: 200 + GAP_NS,
        Stage.PREFILL: 2 * STEP_NS,  # 16 and 4 tokens
        Stage.STALL: 3 * 2 * GAP_NS,
        Stage.DECODE: 2 * STEP_NS,
    }
    assert report.device_ns == {Work.PREFILL: 2 * STEP_NS, Work.DECODE: 2 * STEP_NS}
    assert (report.steps, report.prefill_chunks, report.computed_tokens) == (4, 2, 22)
    held_block_ns = 4 * STEP_NS + (5 + 6 + 6) * (STEP_NS + 2 * GAP_NS)
    assert report.kv_byte_s == pytest.approx(held_block_ns * BLOCK_BYTES / 1e9)
    assert len(run.accounts) == 0


def test_preempted_waiting_and_computing_again_is_one_stage_and_a_work_of_its_own() -> None:
    run = Run(num_blocks=6)
    run.add("a", 8, 12)
    run.add("b", 7, 12)
    run.finish()
    report = run.reports["b"]
    assert report.preemptions == 1
    assert report.recomputed_tokens > 0
    assert report.stages_ns[Stage.PREEMPTED] > STEP_NS
    assert report.device_ns[Work.RECOMPUTE] > 0
    assert report.computed_tokens == 7 + 11 + report.recomputed_tokens
    assert run.reports["a"].preemptions == 0


def test_wrong_drafts_are_charged_as_such_and_right_ones_are_tokens() -> None:
    run = Run(guesses=True)
    run.add("a", 4, 9)
    run.step()
    run.step(sampled=7)  # all three right
    assert "a" not in run.reports
    run.step(sampled=5)  # all three wrong
    report = run.cancel("a")
    assert (report.draft_tokens, report.rejected_tokens) == (6, 3)
    assert report.recomputed_tokens == 0
    assert 0 < report.device_ns[Work.DRAFT] < STEP_NS
    assert report.device_ns[Work.DRAFT] + report.device_ns[Work.DECODE] == 2 * STEP_NS


def test_drafts_of_a_card_that_knows_no_costs_are_charged_by_rows() -> None:
    run = Run(guesses=True)
    run.accounts = Accounts(Prices(0, 0, 0, 0, 0, 0), 4, BLOCK_BYTES)
    run.add("a", 4, 9)
    run.step()
    run.step(sampled=5)
    assert run.cancel("a").device_ns == {Work.PREFILL: STEP_NS, Work.DRAFT: STEP_NS * 3 // 4, Work.DECODE: STEP_NS // 4}


def test_held_back_for_blocks_is_no_queueing() -> None:
    run = Run()
    run.add("a", 20, 1)
    run.accounts.waited(Wait("a", {Tier.HOST: 100, Tier.DISK: 50}, {Tier.HOST: 4000}, 3))
    run.now_ns += 400
    run.finish()
    report = run.reports["a"]
    assert report.stages_ns[Stage.FETCH_HOST] == 100
    assert report.stages_ns[Stage.FETCH_DISK] == 50
    assert report.stages_ns[Stage.QUEUE] == 400 + GAP_NS - 150
    assert report.fetched_bytes == {Tier.HOST: 4000}


def test_a_wait_longer_than_the_time_that_passed_fills_it_and_no_more() -> None:
    run = Run()
    run.add("a", 8, 1)
    run.accounts.waited(Wait("a", {Tier.REMOTE: 10**9}, {}, 0))
    run.finish()
    assert run.reports["a"].stages_ns == {Stage.FETCH_REMOTE: GAP_NS, Stage.PREFILL: STEP_NS}


def test_what_the_exchange_tells_of_a_sequence_that_has_ended_is_nobodys() -> None:
    run = Run()
    run.accounts.waited(Wait("gone", {Tier.HOST: 1}, {Tier.HOST: 1}, 1))
    run.accounts.published("gone", 1)
    assert run.accounts.close("gone", 5) is None


def test_who_publishes_does_so_until_its_end_is_told() -> None:
    run = Run()
    run.add("a", 8, 1, publishes=True)
    run.accounts.published("a", 2000)
    run.step()
    report = run.reports["a"]
    assert report.stages_ns == {Stage.QUEUE: GAP_NS, Stage.PREFILL: STEP_NS, Stage.PUBLISH: GAP_NS}
    assert report.published_bytes == 2000


def test_cancelled_in_the_queue_among_the_running_and_among_the_preempted() -> None:
    run = Run(num_blocks=6)
    for name, prompt in (("a", 8), ("b", 7)):
        run.add(name, prompt, 12)
    run.step()
    run.add("c", 8, 12)
    run.now_ns += 70
    assert run.cancel("c").stages_ns == {Stage.QUEUE: 70}
    while len(run.plans[-1].chunks) > 1:
        run.step()
    assert run.cancel("b").stages_ns[Stage.PREEMPTED] == 3 * GAP_NS + STEP_NS
    assert run.reports["b"].preemptions == 1
    before_ns = run.now_ns
    run.now_ns += 70
    assert run.cancel("a").stages_ns[Stage.STALL] >= run.now_ns - before_ns


def test_a_step_that_fails_is_paid_by_those_who_were_in_it() -> None:
    run = Run()
    run.add("a", 8, 5)
    run.step()
    run.add("b", 8, 5)
    assert run.step(fails=True) == ["a", "b"]
    shares = [sum(run.reports[name].device_ns.values()) for name in "ab"]
    assert sum(shares) == 2 * STEP_NS
    assert all(shares)


def test_shared_out_as_one_run_or_step_by_step_is_the_same_but_for_rounding() -> None:
    reports = []
    for asks_always in (False, True):
        run = Run(num_blocks=64)
        for name, prompt in (("a", 4), ("b", 14), ("c", 9)):
            run.add(name, prompt, 40)
        while run.scheduler.has_work:
            run.step(10**6)
            if asks_always:
                run.accounts.settle()
        reports.append(run.reports)
    for at_once, by_step in zip(reports[0].values(), reports[1].values(), strict=True):
        assert at_once.stages_ns == by_step.stages_ns
        assert at_once.device_ns == pytest.approx(by_step.device_ns, rel=1e-3)
        assert at_once.kv_byte_s == pytest.approx(by_step.kv_byte_s, rel=0.05)
        assert (at_once.steps, at_once.computed_tokens) == (by_step.steps, by_step.computed_tokens)


@pytest.mark.parametrize("seed", range(60))
def test_every_partition_is_exact_whatever_happens(seed: int) -> None:
    """Stages sum to arrival to end, shares to steps, and the counts are those that can be read off the plans."""
    rng = random.Random(seed)
    blocks, tokens = rng.choice((8, 12, 32)), rng.choice((5, 9, 16))
    run = Run(blocks, tokens, guesses=seed % 2 == 1, trusts_plans=seed % 3 > 0)
    names = iter(range(1000))
    for _ in range(150):
        run.now_ns += rng.randrange(50)
        choice = rng.random()
        if choice < 0.25:
            run.add(f"{next(names)}", rng.randrange(1, 16), rng.randrange(1, 16), publishes=rng.random() < 0.2)
        elif choice < 0.28:
            run.computed += run.accounts.take_computed()
        elif choice < 0.32 and run.arrived_ns.keys() - run.ended_ns.keys():
            run.cancel(rng.choice(sorted(run.arrived_ns.keys() - run.ended_ns.keys())))
        else:
            run.step(rng.randrange(5000), sampled=rng.choice((7, 7, 5)), fails=rng.random() < 0.03)
    run.finish()
    check(run)


@pytest.mark.parametrize("guesses", [False, True])
def test_a_plan_goes_on_where_its_chunks_do(guesses: bool) -> None:
    rng = random.Random(5)
    run = Run(num_blocks=14, guesses=guesses)
    for number in range(300):
        if rng.random() < 0.2:
            run.add(f"{number}", rng.randrange(1, 20), rng.randrange(1, 12))
        run.step(sampled=rng.choice((5, 7)), fails=rng.random() < 0.03)
    run.finish()
    found = [plan.goes_on for plan in run.plans]
    for plan, before in zip(run.plans[1:], run.plans, strict=False):
        pairs = list(zip(plan.chunks, before.chunks, strict=False))
        are_next = all(chunk.sequence is last.sequence and chunk.start == last.start + 1 for chunk, last in pairs)
        have_one_each = all(chunk.num_tokens == 1 for chunk in (*plan.chunks, *before.chunks))
        is_next = len(plan.chunks) == len(before.chunks) and are_next and have_one_each
        assert is_next or not plan.goes_on
    assert guesses or 0.2 < sum(found) / len(found) < 0.9


def check(run: Run) -> None:
    rows: dict[str, int] = defaultdict(int)
    drafts: dict[str, int] = defaultdict(int)
    for chunk in [chunk for plan in run.plans for chunk in plan.chunks]:
        rows[chunk.sequence.request.id] += chunk.num_tokens
        drafts[chunk.sequence.request.id] += len(chunk.drafts)
    assert run.reports.keys() == run.arrived_ns.keys()
    for name, report in run.reports.items():
        told_ns = run.ended_ns[name] + report.stages_ns.get(Stage.PUBLISH, 0)
        assert sum(report.stages_ns.values()) == told_ns - run.arrived_ns[name]
        assert all(ns > 0 for ns in [*report.stages_ns.values(), *report.device_ns.values()])
        assert (report.computed_tokens, report.draft_tokens) == (rows[name], drafts[name])
        assert 0 <= report.rejected_tokens <= report.draft_tokens
    by_work: dict[Work, int] = defaultdict(int)
    for report in run.reports.values():
        for work, ns in report.device_ns.items():
            by_work[work] += ns
    assert {work: ns for work, ns in run.accounts.work_ns.items() if ns} == by_work
    assert sum(by_work.values()) == run.step_ns
    run.computed += run.accounts.take_computed()
    assert sum(each.num_steps for each in run.computed) == len(run.plans)
    for which in ("num_tokens", "num_sampled"):
        told = sum(getattr(chunk, which) * each.num_steps for each in run.computed for chunk in each.chunks)
        assert told == sum(getattr(chunk, which) for plan in run.plans for chunk in plan.chunks)
    assert sum(report.preemptions for report in run.reports.values()) == run.scheduler.preemptions
