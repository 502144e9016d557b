"""The scheduler on the fake device (see `fake_device`), under random use.

Whatever is added, cancelled, preempted, guessed ahead or lost to a failed step, every slot that a sequence can reach
must then hold the hash of its own prefix, and every request must end once, with the tokens that it gets when it runs
alone.

In half of the trials the sequences run ahead on guesses of a drafter that knows what is right and errs at random. In
half of them, too, blocks come from elsewhere: some time after a sequence was looked up a random part of what it lacks
is written, in any order, and counted as arrived as far as there is no gap.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from tests.policy.fake_device import FINGERPRINT, STOP_TOKEN, Device, Drafter, prefix_hashes, run_alone
from tokenworks.contract.kv import BlockName, Tier, block_names, root_name
from tokenworks.contract.request import Request, Sampling
from tokenworks.policy.arriving import Arrival
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.step_plan import Chunk, Outcome, StepPlan

NUM_TICKS = 100


@dataclass(frozen=True)
class Regime:
    """Bounds within which each trial draws its sizes."""

    num_blocks: tuple[int, int]
    block_tokens: tuple[int, int]
    max_running: tuple[int, int]
    spare_budget: tuple[int, int]  # max_step_tokens beyond max_running
    burst: int = 3  # requests added at once, at most
    arrival: float = 0.3  # chance of a burst before a step


REGIMES = {
    "tiny pool": Regime((2, 6), (1, 4), (2, 6), (0, 12)),
    "tiny budget": Regime((6, 24), (2, 4), (1, 3), (0, 2), arrival=0.15),
    "roomy": Regime((30, 60), (2, 8), (4, 10), (10, 40), burst=6),
    "a token a block": Regime((8, 30), (1, 1), (2, 6), (0, 16)),
    "half full": Regime((8, 16), (2, 4), (3, 8), (0, 20), burst=5, arrival=0.4),
}


@dataclass
class Client:
    """What somebody outside knows of a request that has not ended."""

    request: Request
    tokens: list[int]
    deadline: int  # the step by which it has ended
    cached_tokens: int | None = None

    def output(self) -> list[int]:
        return self.tokens[len(self.request.token_ids) :]


@dataclass
class Delivery:
    """What is on its way to a sequence, as somebody outside sees it."""

    arrival: Arrival
    count: int | None = None  # of the blocks that were asked for; None: not asked yet
    written: set[int] = field(default_factory=set)

    @property
    def prefix(self) -> int:
        """Blocks that are there, without a gap."""
        return next(at for at in range(len(self.written) + 1) if at not in self.written)


class Trial:
    """One scheduler under random use, and the clients that watch it."""

    def __init__(self, seed: str, regime: Regime) -> None:
        self.random = random.Random(seed)
        self.regime = regime
        max_running = self.random.randint(*regime.max_running)
        num_blocks, block_tokens = self.random.randint(*regime.num_blocks), self.random.randint(*regime.block_tokens)
        self.limits = Limits(
            max_running=max_running,
            max_step_tokens=max_running + self.random.randint(*regime.spare_budget),
            max_context_tokens=self.random.randint(2, 80),
            block_tokens=block_tokens,
        )
        self.max_tokens = min(self.limits.max_context_tokens, num_blocks * block_tokens)  # of one sequence
        self.pool = BlockPool(num_blocks)
        speculator = Drafter(self.random) if self.random.random() < 0.5 else None
        self.scheduler = Scheduler(self.limits, self.pool, FINGERPRINT, speculator)
        self.is_fetching = self.random.random() < 0.5
        self.deliveries: list[Delivery] = []
        self.running: list[str] = []  # request ids in order of admission
        self.queue: list[str] = []  # of those that wait, in order
        self.held: set[str] = set()  # those in the queue that may not be admitted yet
        self.seen: Counter[str] = Counter()
        self.device = Device([[None] * block_tokens for _ in range(num_blocks)], self.seen)
        self.live: dict[str, Client] = {}
        self.stems = [self.random_tokens(self.max_tokens) for _ in range(2)]
        self.content: dict[BlockName, list[int]] = {}  # what a block of that name must hold
        self.told: set[BlockName] = set()
        self.num_steps = 0
        self.num_added = 0

    def random_tokens(self, count: int) -> list[int]:
        return [self.random.randrange(3) for _ in range(count)]

    # Events

    def tick(self) -> None:
        if self.random.random() < self.regime.arrival:
            self.add_burst()
        if self.live and self.random.random() < 0.06:
            self.cancel(self.random.choice(list(self.live)))
        if self.is_fetching:
            self.deliver()
        self.step(is_failing=self.random.random() < 0.03)
        if self.random.random() < 0.3:
            self.take_changes()

    def add_burst(self) -> None:
        request = self.random_request()
        for _ in range(self.random.randint(1, self.regime.burst)):
            self.add(request)
            is_twin = self.random.random() < 0.5
            request = self.renamed(request) if is_twin else self.random_request()

    def random_request(self) -> Request:
        max_tokens = self.random.randint(1, min(14, self.max_tokens - 1))
        num_prompt = self.random.randint(1, self.max_tokens - max_tokens)
        stem = self.random.choice(self.stems)[: self.random.randint(0, num_prompt)]
        prompt = (stem + self.random_tokens(num_prompt))[:num_prompt]
        stops = (STOP_TOKEN,) if self.random.random() < 0.5 else ()
        sampling = Sampling(max_tokens=max_tokens, stop_token_ids=stops)
        salt = self.random.choice(["", "", "", "a tenant"])
        return self.renamed(Request(id="", model="fake", token_ids=prompt, sampling=sampling, salt=salt))

    def renamed(self, request: Request) -> Request:
        """The request under an id that is not in use, perhaps one that was."""
        self.num_added += 1
        unused = [f"request {number % 40}" for number in range(self.num_added, self.num_added + 40)]
        name = next((name for name in unused if name not in self.live), f"request {self.num_added}")
        return Request(name, request.model, request.token_ids, request.sampling, salt=request.salt)

    def add(self, request: Request) -> None:
        self.scheduler.add(request)
        earlier = max([self.num_steps, *(client.deadline for client in self.live.values())])
        self.live[request.id] = Client(request, list(request.token_ids), earlier + self.steps_as_oldest(request))
        self.queue.append(request.id)
        self.check()

    def steps_as_oldest(self, request: Request) -> int:
        num_tokens = len(request.token_ids) + request.sampling.max_tokens
        return -(-num_tokens // self.limits.max_step_tokens) + request.sampling.max_tokens

    def put_off_deadlines(self) -> None:
        """Somebody may have been overtaken, or nobody could run: all are counted anew, from now on."""
        deadline = self.num_steps
        for request_id in [*self.running, *self.queue]:
            deadline += self.steps_as_oldest(self.live[request_id].request)
            self.live[request_id].deadline = deadline

    # Blocks from elsewhere

    def deliver(self, *, is_hurrying: bool = False) -> None:
        for arrival in self.scheduler.take_unmatched():
            self.check_arrival(arrival)
            self.deliveries.append(Delivery(arrival))
        self.check()
        self.random.shuffle(self.deliveries)
        for delivery in list(self.deliveries):
            if not delivery.arrival.is_open:
                self.deliveries.remove(delivery)
            elif delivery.count is None and (is_hurrying or self.random.random() < 0.6):
                self.ask(delivery)
            elif delivery.count is not None:
                self.write_some(delivery, is_hurrying)
            self.check()

    def ask(self, delivery: Delivery) -> None:
        delivery.count = self.random.randint(0, len(delivery.arrival.names))
        has_room = self.scheduler.expect(delivery.arrival, delivery.count)
        self.seen["no room to fetch"] += not has_room
        for block in delivery.arrival.blocks:
            self.device.memory[block] = [None] * self.limits.block_tokens
        if not has_room or delivery.count == 0:
            self.end(delivery)

    def write_some(self, delivery: Delivery, is_hurrying: bool) -> None:
        arrival = delivery.arrival
        assert len(arrival.blocks) == delivery.count
        for at, block in enumerate(arrival.blocks):
            if self.random.random() < 0.3:
                delivery.written.add(at)
                self.device.memory[block] = list(self.content[arrival.names[at]])
        if is_hurrying or delivery.prefix == delivery.count or self.random.random() < 0.2:
            self.end(delivery)

    def end(self, delivery: Delivery) -> None:
        arrival, count = delivery.arrival, delivery.prefix
        tiers = [self.random.choice([Tier.HOST, Tier.DISK]) for _ in range(count)]
        self.scheduler.arrived(arrival, tiers)
        assert not arrival.is_open
        assert list(arrival.sequence.fetched.values()) == tiers
        held = self.pool.match(
            arrival.sequence.names_of_full_blocks((arrival.first + count) * self.limits.block_tokens)
        )
        assert len(held) == arrival.first + count
        assert arrival.sequence.block_table[: len(held)] == held
        self.scheduler.arrived(arrival, [])  # a second word changes nothing
        what = "whole" if count == len(arrival.names) else "in part" if count else "nothing"
        self.seen[f"arrived: {what}"] += 1

    def check_arrival(self, arrival: Arrival) -> None:
        """It lacks what the pool does not hold, and there is room for all of it."""
        client, sequence = self.live[arrival.sequence.request.id], arrival.sequence
        assert sequence.request is client.request
        assert client.request.id in self.queue
        names = self.names_of(client)[: (len(client.tokens) - 1) // self.limits.block_tokens]
        assert sequence.block_table == self.pool.match(names)
        assert arrival.names == names[arrival.first :] != []
        assert arrival.first == len(sequence.block_table)
        self.seen["looked up again"] += sequence.preemptions > 0

    def cancel(self, request_id: str) -> None:
        client = self.live.pop(request_id)
        sequence = self.scheduler.cancel(request_id)
        assert sequence is not None
        assert sequence.request is client.request
        assert self.scheduler.cancel(request_id) is None
        self.leave(request_id)
        self.seen["ended while arriving"] += any(each.arrival.sequence is sequence for each in self.deliveries)
        self.seen["cancelled after the first token" if client.output() else "cancelled before"] += 1
        self.check()

    def leave(self, request_id: str) -> None:
        (self.running if request_id in self.running else self.queue).remove(request_id)

    def step(self, *, is_failing: bool) -> None:
        must_go, preemptions = self.num_without_room(), self.scheduler.preemptions
        num_open = sum(delivery.arrival.is_open for delivery in self.deliveries)
        plan = self.scheduler.plan()
        self.num_steps += 1
        assert self.scheduler.preemptions - preemptions == must_go
        self.seen["preempted"] += must_go
        self.seen["lost what was arriving"] += num_open - sum(delivery.arrival.is_open for delivery in self.deliveries)
        for _ in range(must_go):
            self.queue.insert(0, self.running.pop())
        self.check_who_runs(plan)
        if plan is None:
            return
        self.check_plan(plan)
        if is_failing:
            self.fail(plan)
        else:
            self.finish(plan)
        self.check()

    def fail(self, plan: StepPlan) -> None:
        self.device.scribble(plan)
        dropped = self.scheduler.abandon(plan)
        assert dropped == [chunk.sequence for chunk in plan.chunks]
        for sequence in dropped:
            assert self.live.pop(sequence.request.id).request is sequence.request
            self.leave(sequence.request.id)
        self.seen["failed"] += len(dropped)
        self.seen["outlived a failed step"] += len(self.live)

    def finish(self, plan: StepPlan) -> None:
        token_ids = self.device.run(plan)
        drafted, accepted = self.scheduler.draft_tokens, self.scheduler.accepted_tokens
        outcomes = self.scheduler.apply(plan, self.shortened(plan, token_ids))
        assert self.scheduler.draft_tokens == drafted
        assert self.scheduler.accepted_tokens - accepted == sum(len(one.token_ids) - 1 for one in outcomes)
        for chunk, sampled, outcome in zip(plan.sampled, token_ids, outcomes, strict=True):
            assert outcome.sequence is chunk.sequence
            assert 1 <= len(outcome.token_ids) <= chunk.num_sampled
            assert outcome.token_ids == sampled[: len(outcome.token_ids)]
            self.note_drafts(chunk, outcome)
            self.receive(outcome)

    def shortened(self, plan: StepPlan, token_ids: list[list[int]]) -> list[list[int]]:
        """Some of the lists up to their first wrong draft: what is behind it need not be told."""
        found = []
        for chunk, sampled in zip(plan.sampled, token_ids, strict=True):
            right = [draft == token for draft, token in zip(chunk.drafts, sampled, strict=False)]
            wrong = right.index(False) + 1 if False in right else len(sampled)
            found.append(sampled[:wrong] if self.random.random() < 0.5 else sampled)
        return found

    def note_drafts(self, chunk: Chunk, outcome: Outcome) -> None:
        num_right = len(outcome.token_ids) - 1
        self.seen["all drafts right"] += 0 < num_right == len(chunk.drafts)
        self.seen["some drafts right"] += 0 < num_right < len(chunk.drafts)
        self.seen["no draft right"] += 0 == num_right < len(chunk.drafts)
        self.seen["ended among drafts"] += num_right > 0 and outcome.end is not None
        filled = (
            outcome.sequence.num_computed // self.limits.block_tokens > (chunk.start + 1) // self.limits.block_tokens
        )
        self.seen["block filled by drafts"] += filled and bool(chunk.drafts)

    def receive(self, outcome: Outcome) -> None:
        client = self.live[outcome.sequence.request.id]
        client.tokens += outcome.token_ids
        self.note_content(client)
        assert outcome.sequence.token_ids == client.tokens
        if outcome.end is None:
            return
        assert (client.output(), outcome.end) == run_alone(client.request)
        self.seen[outcome.end.value] += 1
        self.seen["ended after preemption"] += outcome.sequence.preemptions > 0
        del self.live[client.request.id]
        self.leave(client.request.id)
        if self.random.random() < 0.2:  # the next turn of this conversation
            self.stems[0] = client.tokens + self.random_tokens(self.max_tokens)

    def take_changes(self) -> None:
        added, removed = self.pool.take_changes()
        assert not set(added) & set(removed)
        self.told = self.told - set(removed) | set(added)
        assert self.told == set(self.pool.held_names())
        self.seen["evicted"] += len(removed)

    # What must hold

    def check_who_runs(self, plan: StepPlan | None) -> None:
        """Those that ran, then the first in the queue that are not held back."""
        ids = [] if plan is None else [chunk.sequence.request.id for chunk in plan.chunks]
        assert ids[: len(self.running)] == self.running
        admitted, may_run = ids[len(self.running) :], self.may_run()
        assert admitted == may_run[: len(admitted)]
        self.seen["overtaken"] += bool(admitted) and self.queue[: len(admitted)] != admitted
        self.running += admitted
        self.queue = [request_id for request_id in self.queue if request_id not in admitted]
        if plan is None:
            self.put_off_deadlines()
        if plan is None and self.live:
            assert set(self.queue) - set(self.may_run()), "nothing runs, and nobody is waited for"
            assert not self.could_admit([])
            self.seen["all waits for blocks"] += 1

    def may_run(self) -> list[str]:
        """Those in the queue that are not held back."""
        waiting = list(self.scheduler._waiting)
        arriving = {each.arrival.sequence.request.id for each in self.deliveries if each.arrival.is_open}
        held = {sequence.request.id for sequence in waiting if self.scheduler._arrivals.is_held(sequence)}
        assert arriving <= held
        assert arriving or not held, "somebody waits for nothing"
        self.seen["waits for another's blocks"] += len(held - arriving)
        return [request_id for request_id in self.queue if request_id not in held]

    def check_plan(self, plan: StepPlan) -> None:
        sequences = [chunk.sequence for chunk in plan.chunks]
        assert 1 <= len(sequences) <= self.limits.max_running
        assert plan.num_tokens <= self.limits.max_step_tokens
        budget = self.limits.max_step_tokens
        for chunk in plan.chunks:
            num_known = chunk.num_tokens - len(chunk.drafts)
            assert num_known == min(len(chunk.sequence.token_ids) - chunk.start, budget) > 0
            assert chunk.num_sampled == (chunk.start + num_known == len(chunk.sequence.token_ids)) + len(chunk.drafts)
            assert num_known == 1 or not chunk.drafts
            budget -= num_known
            self.check_start(chunk)
        assert len(self.scheduler._running) == len(sequences), "a running sequence is not advanced"
        assert all(chunk.num_sampled for chunk in plan.chunks[:-1]), "a decode waits for a prefill"
        if budget and len(sequences) < self.limits.max_running:
            assert not self.could_admit(plan.chunks)

    def check_start(self, chunk: Chunk) -> None:
        """Computation starts where it was left, or behind a cached prefix; the first time, that prefix is reported."""
        sequence, client = chunk.sequence, self.live[chunk.sequence.request.id]
        assert sequence.request is client.request
        assert sequence.token_ids == client.tokens
        assert chunk.start == sequence.num_computed
        self.seen["prompt in pieces"] += not chunk.num_sampled
        if client.cached_tokens is None:
            client.cached_tokens = chunk.start
            self.seen["found in the cache"] += chunk.start > 0
            assert chunk.start % self.limits.block_tokens == 0
            self.seen["found what was fetched"] += bool(sequence.fetched_tokens)
        assert sequence.cached_tokens == client.cached_tokens < sequence.num_prompt
        assert sequence.fetched_tokens is not None
        assert sum(sequence.fetched_tokens.values()) <= sequence.cached_tokens

    def num_without_room(self) -> int:
        """How many running sequences the next step has no blocks for, if as many as can be stay, the oldest first."""
        running, budget = self.scheduler._running, self.limits.max_step_tokens
        in_use: set[int] = set()
        num_new = 0
        for index, sequence in enumerate(running):
            count = min(len(sequence.token_ids) - sequence.num_computed, budget)
            budget -= count
            in_use.update(sequence.block_table)
            num_new += self.blocks_for(sequence.num_computed + count) - len(sequence.block_table)
            if len(in_use) + num_new > self.pool.num_blocks:
                return len(running) - index
        return 0

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.limits.block_tokens)

    def could_admit(self, chunks: Iterable[Chunk]) -> bool:
        """Whether the first that may run would fit beside the others, counted anew and without their drafts."""
        first = next(iter(self.may_run()), None)
        if first is None:
            return False
        client = self.live[first]
        names = self.names_of(client)[: (len(client.tokens) - 1) // self.limits.block_tokens]
        in_use: set[int] = set()
        for chunk in chunks:
            num_known = chunk.start + chunk.num_tokens - len(chunk.drafts)
            in_use.update(chunk.sequence.block_table[: self.blocks_for(num_known)])
        for sequence in self.scheduler._waiting:
            in_use.update(sequence.block_table)
        num_blocks = self.blocks_for(len(client.tokens)) - len(in_use & set(self.pool.match(names)))
        return len(in_use) + num_blocks + len(self.scheduler._running) <= self.pool.num_blocks

    def names_of(self, client: Client) -> list[BlockName]:
        return block_names(root_name(FINGERPRINT, client.request.salt), client.tokens, self.limits.block_tokens)

    def check(self) -> None:
        self.check_queues()
        self.check_tables()
        self.check_names()

    def check_queues(self) -> None:
        running, waiting = self.scheduler._running, self.scheduler._waiting
        assert [sequence.request.id for sequence in running] == self.running
        assert [sequence.request.id for sequence in waiting] == self.queue
        assert {*self.running, *self.queue} == set(self.live)
        held = set(self.queue) - set(self.may_run())
        if self.held - held:
            self.put_off_deadlines()
        self.held = held
        steps = {key: client.deadline - self.num_steps for key, client in self.live.items() if key not in held}
        assert all(left > 0 for left in steps.values()), "a sequence starves"
        load = self.scheduler.load(self.num_steps)
        assert (load.running, load.waiting, load.steps) == (len(running), len(waiting), self.num_steps)
        assert (load.free_blocks, load.total_blocks) == (self.pool.num_free, self.pool.num_blocks)
        assert self.scheduler.has_work == bool(self.live)

    def check_tables(self) -> None:
        arrivals = {each.arrival.sequence: each.arrival for each in self.deliveries if each.arrival.is_open}
        for sequence in self.scheduler._waiting:
            assert sequence.num_computed == 0
            num_whole = len(sequence.block_table)
            if sequence in arrivals:
                num_whole = arrivals[sequence].first
                assert sequence.block_table[num_whole:] == arrivals[sequence].blocks
            self.device.check_context(sequence, sequence.token_ids[: num_whole * self.limits.block_tokens])
        for sequence in self.scheduler._running:
            assert len(set(sequence.block_table)) == len(sequence.block_table)
            assert len(sequence.block_table) == self.blocks_for(sequence.num_computed)
            self.device.check_context(sequence, sequence.token_ids[: sequence.num_computed])
        known = [*self.scheduler._running, *self.scheduler._waiting]
        holders = Counter(block for sequence in known for block in sequence.block_table)
        blocks = range(self.pool.num_blocks)
        assert self.pool._references == [holders[block] for block in blocks]
        assert [bool(self.pool.num_free_among([block])) for block in blocks] == [not holders[block] for block in blocks]
        assert self.pool.num_free == self.pool.num_blocks - len(holders)

    def check_names(self) -> None:
        for client in self.live.values():
            self.note_content(client)
        held = self.pool.held_names()
        blocks = self.pool.match(held)
        assert len(set(held)) == len(held) == len(set(blocks))
        for name, block in zip(held, blocks, strict=True):
            assert self.device.memory[block] == self.content[name]

    def note_content(self, client: Client) -> None:
        names, size = self.names_of(client), self.limits.block_tokens
        hashes = list(prefix_hashes(client.request.salt, client.tokens))
        self.content.update({name: hashes[size * at : size * (at + 1)] for at, name in enumerate(names)})

    def drain(self) -> None:
        while self.live:
            if self.is_fetching:
                self.deliver(is_hurrying=True)
            self.step(is_failing=False)
        self.step(is_failing=False)
        self.take_changes()
        assert self.pool.num_free == self.pool.num_blocks


def run_trial(seed: str, regime: str) -> Trial:
    trial = Trial(f"{regime} {seed}", REGIMES[regime])
    for _ in range(NUM_TICKS):
        trial.tick()
    trial.drain()
    return trial


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("seed", range(8))
def test_every_request_gets_what_it_would_get_alone(seed: int, regime: str) -> None:
    run_trial(f"alone {seed}", regime)


def test_the_trials_reach_everything_that_can_happen() -> None:
    seen: Counter[str] = Counter()
    for regime in REGIMES:
        seen += run_trial("reach", regime).seen
    assert set(seen) == {
        "all drafts right",
        "all waits for blocks",
        "arrived: in part",
        "arrived: nothing",
        "arrived: whole",
        "block filled by drafts",
        "cancelled after the first token",
        "cancelled before",
        "ended after preemption",
        "ended among drafts",
        "ended while arriving",
        "evicted",
        "failed",
        "found in the cache",
        "found what was fetched",
        "length",
        "looked up again",
        "lost what was arriving",
        "no draft right",
        "no room to fetch",
        "outlived a failed step",
        "overtaken",
        "preempted",
        "prompt in pieces",
        "shared in a step",
        "some drafts right",
        "stop",
        "waits for another's blocks",
    }
