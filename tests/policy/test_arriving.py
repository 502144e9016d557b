"""Sequences whose KV is on its way, by example. Blocks are of four tokens."""

from __future__ import annotations

from tokenworks.contract.kv import Tier, root_name
from tokenworks.contract.request import Request, Sampling
from tokenworks.policy.arriving import LOOK_AHEAD, Arrival
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler


def make_scheduler(num_blocks: int = 32, max_running: int = 4, max_step_tokens: int = 64) -> Scheduler:
    return Scheduler(Limits(max_running, max_step_tokens, 64, 4), BlockPool(num_blocks), "fingerprint")


def add(scheduler: Scheduler, name: str, prompt: int | list[int], max_tokens: int = 4) -> None:
    """A prompt of these tokens, or of that many which no other prompt has."""
    first = 1000 * sum(map(ord, name))
    token_ids = prompt if isinstance(prompt, list) else list(range(first, first + prompt))
    scheduler.add(Request(name, "model", token_ids, Sampling(max_tokens=max_tokens)))


def step(scheduler: Scheduler) -> list[tuple[str, int, int]]:
    """Run one step; who took part, from which token on, with how many."""
    plan = scheduler.plan()
    if plan is None:
        return []
    planned = [(chunk.sequence.request.id, chunk.start, chunk.num_tokens) for chunk in plan.chunks]
    scheduler.apply(plan, [[7]] * len(plan.sampled))
    return planned


def look_up(scheduler: Scheduler) -> dict[str, Arrival]:
    return {arrival.sequence.request.id: arrival for arrival in scheduler.take_unmatched()}


def test_nobody_is_looked_up_twice_or_without_being_asked() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 10)
    assert list(look_up(scheduler)) == ["a"]
    assert look_up(scheduler) == {}
    add(scheduler, "b", 10)
    assert list(look_up(scheduler)) == ["b"]


def test_what_is_asked_for_ends_short_of_the_last_token() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 8)
    add(scheduler, "b", 9)
    add(scheduler, "c", 4)
    assert {name: len(arrival.names) for name, arrival in look_up(scheduler).items()} == {"a": 1, "b": 2}
    assert step(scheduler) == [("c", 0, 4)]  # it has nothing that could be fetched


def test_only_what_the_pool_lacks_is_asked_for() -> None:
    scheduler = make_scheduler()
    prompt = list(range(21))
    add(scheduler, "a", prompt[:9], max_tokens=1)
    step(scheduler)
    add(scheduler, "b", prompt)
    add(scheduler, "c", prompt[:9])
    arrivals = look_up(scheduler)
    assert list(arrivals) == ["b"]
    assert (arrivals["b"].first, len(arrivals["b"].names)) == (2, 3)


def test_others_go_first_and_nothing_runs_while_all_wait() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 10)
    arrivals = look_up(scheduler)
    assert scheduler.plan() is None
    assert scheduler.has_work
    assert scheduler.load(0).arriving == 1
    add(scheduler, "b", 10)
    assert step(scheduler) == [("b", 0, 10)]
    scheduler.arrived(arrivals["a"], [])
    assert step(scheduler) == [("b", 10, 1), ("a", 0, 10)]
    assert scheduler.load(0).arriving == 0


def test_what_has_arrived_is_not_computed_and_is_told_by_tier() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 18)
    arrival = look_up(scheduler)["a"]
    assert scheduler.expect(arrival, 4)
    assert arrival.sequence.block_table == arrival.blocks
    scheduler.arrived(arrival, [Tier.HOST, Tier.HOST, Tier.DISK])
    assert scheduler.pool.num_free == 32 - 3  # the fourth block, which did not come, is free again
    assert step(scheduler) == [("a", 12, 6)]
    assert arrival.sequence.cached_tokens == 12
    assert arrival.sequence.fetched_tokens == {Tier.HOST: 8, Tier.DISK: 4}
    assert scheduler.tables.reused == []
    assert [(block.name, block.index) for block in scheduler.tables.named] == [(arrival.names[3], 3)]
    assert scheduler.tables.named[0].parent == arrival.names[2]


def test_blocks_of_the_pool_that_are_found_are_told_as_reused() -> None:
    scheduler = make_scheduler()
    prompt = list(range(21))
    add(scheduler, "a", prompt[:9], max_tokens=1)
    step(scheduler)
    assert [block.index for block in scheduler.tables.named] == [0, 1]
    assert scheduler.tables.named[0].parent == root_name("fingerprint")
    assert scheduler.tables.named[1].parent == scheduler.tables.named[0].name
    add(scheduler, "b", prompt)
    arrival = look_up(scheduler)["b"]
    scheduler.expect(arrival, 2)
    scheduler.arrived(arrival, [Tier.HOST] * 2)
    assert step(scheduler) == [("b", 16, 5)]
    assert scheduler.tables.reused == arrival.sequence.block_names[:2]
    assert arrival.sequence.fetched_tokens == {Tier.HOST: 8}


def test_a_block_that_somebody_else_computed_meanwhile_is_taken_from_there() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", list(range(10)))
    arrival = look_up(scheduler)["a"]
    scheduler.expect(arrival, 2)
    add(scheduler, "b", list(range(10)))  # nobody asks on its behalf
    assert step(scheduler) == [("b", 0, 10)]
    scheduler.arrived(arrival, [Tier.HOST])
    assert step(scheduler) == [("b", 10, 1), ("a", 8, 2)]
    assert not set(arrival.sequence.block_table) & set(arrival.blocks) - set(arrival.sequence.block_table[2:])
    assert scheduler.pool.num_free == 32 - 4  # two shared, one each


def test_of_those_that_lack_the_same_block_one_is_looked_up_and_the_others_wait_for_it() -> None:
    scheduler = make_scheduler()
    prompt = list(range(10))
    add(scheduler, "a", prompt)
    add(scheduler, "b", prompt)
    arrivals = look_up(scheduler)
    add(scheduler, "c", [*prompt, 99])
    assert list(arrivals) == ["a"]
    assert look_up(scheduler) == {}
    assert scheduler.plan() is None
    assert scheduler.load(0).arriving == 3
    scheduler.expect(arrivals["a"], 2)
    scheduler.arrived(arrivals["a"], [Tier.HOST] * 2)
    assert look_up(scheduler) == {}  # there is nothing that they lack now
    assert step(scheduler) == [("a", 8, 2), ("b", 8, 2), ("c", 8, 3)]


def test_where_it_did_not_come_the_next_one_is_looked_up() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", list(range(10)))
    add(scheduler, "b", list(range(10)))
    scheduler.arrived(look_up(scheduler)["a"], [])
    assert list(look_up(scheduler)) == ["b"]


def test_a_cancelled_sequence_gives_back_what_was_arriving() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 10)
    add(scheduler, "b", list(range(10)))
    add(scheduler, "c", list(range(10)))
    arrivals = look_up(scheduler)
    scheduler.expect(arrivals["a"], 2)
    assert scheduler.pool.num_free == 30
    for name in "abc":
        scheduler.cancel(name)
    assert scheduler.pool.num_free == 32
    assert not any(arrival.is_open for arrival in arrivals.values())
    assert not scheduler.expect(arrivals["a"], 1)
    scheduler.arrived(arrivals["a"], [Tier.HOST])
    assert scheduler.pool.num_free == 32
    assert not scheduler.has_work


def test_nobody_is_looked_up_for_whom_there_is_no_room() -> None:
    scheduler = make_scheduler(num_blocks=8, max_step_tokens=16)
    add(scheduler, "a", 12)
    add(scheduler, "b", 16)
    add(scheduler, "c", 12)
    arrivals = look_up(scheduler)
    assert list(arrivals) == ["a", "b"]
    scheduler.expect(arrivals["a"], 2)
    assert look_up(scheduler) == {}


def test_blocks_are_expected_only_where_the_whole_sequence_fits() -> None:
    scheduler = make_scheduler(num_blocks=8, max_step_tokens=32)
    add(scheduler, "a", 12)
    arrival = look_up(scheduler)["a"]
    add(scheduler, "b", 20)
    step(scheduler)
    assert scheduler.pool.num_free == 3
    assert not scheduler.expect(arrival, 2)  # three of its own, and one to spare for the one that runs
    scheduler.arrived(arrival, [])


def test_no_more_are_looked_up_than_may_run_soon() -> None:
    scheduler = make_scheduler(num_blocks=200, max_running=2)
    for index in range(LOOK_AHEAD + 5):
        add(scheduler, f"{index:02}", 5)
    assert len(look_up(scheduler)) == LOOK_AHEAD + 2


def test_who_runs_takes_the_blocks_of_who_waits_the_last_first_before_anybody_is_preempted() -> None:
    scheduler = make_scheduler(num_blocks=8, max_step_tokens=16)
    add(scheduler, "a", 8, max_tokens=24)
    step(scheduler)
    add(scheduler, "b", 9)
    add(scheduler, "c", 5)
    arrivals = look_up(scheduler)
    assert scheduler.expect(arrivals["b"], 2)
    assert scheduler.expect(arrivals["c"], 1)
    lost_at = dict.fromkeys(arrivals, 0)
    for num_computed in range(9, 28):
        assert step(scheduler) == [("a", num_computed - 1, 1)]
        for name, arrival in arrivals.items():
            lost_at[name] += arrival.is_open
    assert lost_at == {"b": 16, "c": 12}  # until a needs its sixth block, and its seventh
    assert scheduler.preemptions == 0
    assert arrivals["b"].sequence.block_table == []


def test_where_nothing_runs_the_first_in_the_queue_takes_the_blocks_of_those_behind_it() -> None:
    scheduler = make_scheduler(num_blocks=8, max_step_tokens=32)
    add(scheduler, "a", 3, max_tokens=6)
    step(scheduler)
    add(scheduler, "b", 9)
    arrival = look_up(scheduler)["b"]
    add(scheduler, "c", 22, max_tokens=8)
    while not scheduler.preemptions:  # c overtakes b, and goes back before it when a needs its blocks
        step(scheduler)
    assert scheduler.expect(arrival, 2)
    while (planned := step(scheduler))[0][0] == "a":
        assert arrival.is_open
    assert [name for name, _, _ in planned] == ["c"]
    assert not arrival.is_open


def test_a_block_whose_name_another_one_has_is_not_told_again() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", list(range(8)))
    add(scheduler, "b", list(range(8)))  # its second block holds the last token, and so is computed
    assert step(scheduler) == [("a", 0, 8), ("b", 4, 4)]
    assert [block.index for block in scheduler.tables.named] == [0, 1]


def test_a_failed_step_names_nothing() -> None:
    scheduler = make_scheduler()
    add(scheduler, "a", 10)
    plan = scheduler.plan()
    assert plan is not None
    assert len(scheduler.tables.named) == 2
    scheduler.abandon(plan)
    assert scheduler.tables.named == []
