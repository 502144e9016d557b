"""How much to fetch and how long to wait: the best plan of all, and a promise that no tier can break."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import pytest

from tokenworks.contract.kv import Tier
from tokenworks.policy.transfer import (
    BELIEVED,
    GRACE_S,
    WAIT_SHARE,
    Fetch,
    FetchPlan,
    Prompt,
    plan_fetch,
    promise_s,
)
from tokenworks.policy.transfer_model import NUM_KEPT, UNKNOWN, Observation, TransferModel

MIB = 1 << 20
LEAST_TRUTH = 0.8
"""Of its prediction, that computing takes where the promise holds: as documented, whatever the code believes."""
USUAL = Prompt(cached_tokens=0, new_tokens=1000, block_tokens=32)
Prefill = Callable[[int, int], float]


class Speed(NamedTuple):
    latency_s: float
    bytes_per_s: float


def card(per_token_s: float = 1e-3, per_pair_s: float = 1e-7, base_s: float = 0.01) -> Prefill:
    return lambda new, context: base_s + per_token_s * new + per_pair_s * new * (context + new / 2)


@cache
def sure_model() -> TransferModel:
    """One that has seen so many predictions come true that it thinks of nothing else."""
    return model_of({tier: [1.0] * NUM_KEPT for tier in Tier})


def model_of(ratios: dict[Tier, list[float]], now_s: float = 0.0) -> TransferModel:
    """One that has seen fetches take so many times their prediction, the newest last."""
    model = TransferModel()
    for tier, each in ratios.items():
        for ratio in each:
            model.learn([Observation(tier, 1.0, ratio)], now_s)
    return model


def plan(
    tiers: Sequence[Tier],
    speeds: dict[Tier, Speed],
    prompt: Prompt = USUAL,
    prefill_s: Prefill | None = None,
    model: TransferModel | None = None,
    block_bytes: int = MIB,
    now_s: float = 0.0,
    spent_s: float = 0.0,
) -> FetchPlan:
    prefill_s, model = prefill_s or card(), model or sure_model()
    return plan_fetch(tiers, speeds, block_bytes, prompt, prefill_s, model, now_s, spent_s)


def test_a_fast_tier_is_read_to_the_end_of_what_it_holds() -> None:
    found = plan([Tier.HOST] * 20, {Tier.HOST: Speed(1e-4, 1e10)})
    assert found.count == 20
    assert found.predicted_fetch_s == pytest.approx(20 * (1e-4 + MIB / 1e10), rel=1e-3)
    assert found.predicted_recompute_s == card()(1000, 0)
    assert found.saved_s[20] == pytest.approx(card()(1000, 0) - card()(360, 640))


def test_nothing_held_is_nothing_to_fetch() -> None:
    found = plan([], {})
    assert (found.count, found.predicted_fetch_s, found.saved_s) == (0, 0.0, (0.0,))


def test_a_slow_tier_is_not_asked() -> None:
    assert plan([Tier.REMOTE] * 20, {Tier.REMOTE: Speed(1e-3, 1e6)}).count == 0


def test_a_prefix_is_fetched_as_far_as_the_fast_tiers_hold_it() -> None:
    speeds = {Tier.HOST: Speed(1e-4, 1e10), Tier.REMOTE: Speed(1e-3, 1e6)}
    assert plan([Tier.HOST] * 5 + [Tier.REMOTE] * 10, speeds).count == 5


def test_a_slow_block_is_crossed_for_the_sake_of_those_behind_it() -> None:
    speeds = {Tier.HOST: Speed(1e-4, 1e10), Tier.DISK: Speed(0.05, 1e10)}
    tiers = [Tier.HOST] * 10 + [Tier.DISK] + [Tier.HOST] * 10
    assert card()(32, 0) < 0.05
    assert plan(tiers, speeds).count == 21
    assert plan(tiers[:11], speeds).count == 10


@pytest.mark.parametrize("speeds", [{}, {Tier.HOST: Speed(0.0, 0.0)}])
def test_a_tier_that_was_not_measured_is_not_counted_on(speeds: dict[Tier, Speed]) -> None:
    assert plan([Tier.HOST] * 20, speeds).count == 0


def test_a_whole_prompt_that_is_held_leaves_nothing_to_compute() -> None:
    found = plan([Tier.HOST] * 4, {Tier.HOST: Speed(1e-4, 1e10)}, Prompt(320, 128, 32))
    assert found.saved_s[-1] == found.predicted_recompute_s == card()(128, 320)


def test_more_blocks_than_the_prompt_has_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="5 blocks of 32 for 128 tokens"):
        plan([Tier.HOST] * 5, {Tier.HOST: Speed(1e-4, 1e10)}, Prompt(0, 128, 32))


def test_a_long_latency_is_worth_it_for_long_prompts_only() -> None:
    speeds = {Tier.REMOTE: Speed(0.1, 1e9)}
    cost = card(per_token_s=1e-2)
    assert plan([Tier.REMOTE] * 5, speeds, Prompt(0, 160, 32), cost).count == 0
    assert plan([Tier.REMOTE] * 20, speeds, Prompt(0, 640, 32), cost).count == 20


def random_case(rng: random.Random) -> tuple[list[Tier], dict[Tier, Speed], Prompt, Prefill, int]:
    kinds = [Tier.HOST, Tier.DISK, Tier.REMOTE]
    speeds = {tier: Speed(10 ** rng.uniform(-5, -1), 10 ** rng.uniform(6, 10)) for tier in kinds}
    tiers: list[Tier] = []
    while len(tiers) < 40 and rng.random() < 0.9:
        tiers += [rng.choice(kinds)] * rng.randint(1, 15)
    prompt = Prompt(32 * rng.randint(0, 100), 32 * len(tiers) + rng.randint(1, 500), 32)
    cost = card(10 ** rng.uniform(-5, -2), 10 ** rng.uniform(-10, -6), 10 ** rng.uniform(-4, -2))
    return tiers, speeds, prompt, cost, int(10 ** rng.uniform(4, 7))


def random_model(rng: random.Random) -> TransferModel:
    """One that has seen anything, lately or long ago."""
    kinds = [Tier.HOST, Tier.DISK, Tier.REMOTE]
    ratios = {tier: [10 ** rng.uniform(-2, 3) for _ in range(rng.choice([0, 1, 4, 12]))] for tier in kinds}
    return model_of(ratios, now_s=-rng.choice([0.0, 30.0, 3000.0]))


@pytest.mark.parametrize("seed", range(100))
def test_no_plan_gains_more_on_average_over_all_that_may_come_of_it(seed: int) -> None:
    rng = random.Random(seed)
    tiers, speeds, prompt, cost, block_bytes = random_case(rng)
    model = random_model(rng)
    everything_s = cost(prompt.new_tokens, prompt.cached_tokens)
    spent_s = rng.choice([0.0, rng.random()]) * promise_s(everything_s)
    found = plan(tiers, speeds, prompt, cost, model, block_bytes, spent_s=spent_s)

    def saved_s(count: int) -> float:
        return everything_s - cost(prompt.new_tokens - 32 * count, prompt.cached_tokens + 32 * count) if count else 0.0

    def gain_s(count: int, ratios: Mapping[Tier, float]) -> float:
        clock_s = spent_s
        for at, tier in enumerate(tiers[:count]):
            took_s = (speeds[tier].latency_s + block_bytes / speeds[tier].bytes_per_s) * ratios[tier]
            limit_s = WAIT_SHARE * everything_s + BELIEVED * saved_s(at) + GRACE_S
            if clock_s + took_s > limit_s:
                rest_s = max(BELIEVED * (saved_s(count) - saved_s(at)), GRACE_S)
                return BELIEVED * saved_s(at) - (min(limit_s, clock_s + rest_s) - spent_s)
            clock_s += took_s
        return BELIEVED * saved_s(count) - (clock_s - spent_s)

    def mean_gain_s(count: int) -> float:
        return sum(each.chance * gain_s(count, each.ratios) for each in model.outlooks(tiers, 0.0))

    gains_s = [mean_gain_s(count) for count in range(len(tiers) + 1)]
    assert mean_gain_s(found.count) == pytest.approx(max(gains_s), rel=1e-9, abs=1e-12)


def run(
    plan_found: FetchPlan,
    arrivals_s: list[float],
    really: float,
    cost_s: Callable[[int], float],
    spent_s: float = 0.0,
) -> tuple[float, Fetch]:
    """What the request takes in truth, if blocks come at these instants and computing takes `really` x predicted."""
    start_s = 1000.0
    fetch = Fetch(plan_found, start_s + spent_s, spent_s)
    for arrival_s in arrivals_s:
        if start_s + arrival_s > fetch.deadline_s:
            return fetch.deadline_s - start_s + really * cost_s(fetch.num_arrived), fetch
        fetch.arrived(1, start_s + arrival_s)
    return arrivals_s[-1] + really * cost_s(fetch.num_arrived), fetch


@pytest.mark.parametrize("seed", range(100))
def test_a_request_is_never_later_than_the_promise_however_tiers_lie(seed: int) -> None:
    """Each block's time is a thousandth to ten thousand times its prediction; some turn slow half-way; and whatever
    was learnt before."""
    rng = random.Random(seed)
    planned = 0
    for _ in range(20):
        tiers, speeds, prompt, cost, block_bytes = random_case(rng)
        model = rng.choice([sure_model(), random_model(rng)])
        spent_s = rng.choice([0.0, rng.random()]) * promise_s(cost(prompt.new_tokens, prompt.cached_tokens))
        found = plan(tiers, speeds, prompt, cost, model, block_bytes, spent_s=spent_s)
        if not found.count:
            continue
        planned += 1
        usual, turn, slowdown = 10 ** rng.uniform(-3, 1), rng.randint(0, found.count), rng.choice([1, 10, 1000, 1e9])
        clock_s, arrivals_s = spent_s, []
        for at, predicted_s in enumerate(found.block_s):
            clock_s += predicted_s * usual * 10 ** rng.uniform(-0.5, 0.5) * (slowdown if at >= turn else 1)
            arrivals_s.append(clock_s)

        def rest_s(blocks: int, prompt: Prompt = prompt, cost: Prefill = cost) -> float:
            left = prompt.new_tokens - 32 * blocks
            return cost(left, prompt.cached_tokens + 32 * blocks)

        really = rng.choice([LEAST_TRUTH, rng.uniform(LEAST_TRUTH, 3)])
        took_s, _ = run(found, arrivals_s, really, rest_s, spent_s)
        assert took_s <= 1.05 * really * rest_s(0) + GRACE_S + 1e-9
    assert planned


@pytest.mark.parametrize("seed", range(100))
def test_a_fetch_that_keeps_to_its_prediction_is_not_cut_off(seed: int) -> None:
    tiers, speeds, prompt, cost, block_bytes = random_case(random.Random(seed))
    found = plan(tiers, speeds, prompt, cost, block_bytes=block_bytes)
    clock_s, arrivals_s = 0.0, [0.0]
    for predicted_s in found.block_s:
        clock_s += predicted_s
        arrivals_s.append(clock_s)
    _, fetch = run(found, arrivals_s[1:], 1.0, lambda blocks: 0.0) if found.count else (0.0, Fetch(found, 0.0))
    assert fetch.is_complete


def test_what_has_come_is_not_waited_away_for_a_last_block() -> None:
    """90 blocks came at once; the last one saves one block's time, so no more than that is waited for it."""
    found = plan([Tier.HOST] * 91, {Tier.HOST: Speed(1e-4, 1e10)}, Prompt(0, 3000, 32))
    fetch = Fetch(found, 50.0)
    fetch.arrived(90, 50.1)
    assert fetch.deadline_s == pytest.approx(50.1 + BELIEVED * (found.saved_s[91] - found.saved_s[90]))
    assert not fetch.is_complete
    fetch.arrived(1, 50.11)
    assert fetch.is_complete


def test_more_blocks_than_were_asked_for_is_our_bug() -> None:
    fetch = Fetch(plan([Tier.HOST], {Tier.HOST: Speed(1e-4, 1e10)}), 0.0)
    with pytest.raises(AssertionError, match="2 of 1 blocks"):
        fetch.arrived(2, 0.0)


def lies(model: TransferModel, prompt: Prompt, now_s: float = 0.0) -> int:
    """How many fetches, one after the other, are begun from a tier from which nothing comes any more."""
    for count in range(100):
        found = plan([Tier.REMOTE] * 8, {Tier.REMOTE: Speed(1e-3, 1e9)}, prompt, model=model, now_s=now_s)
        if not found.count:
            return count
        fetch = Fetch(found, now_s)
        model.learn(fetch.observations(fetch.deadline_s), now_s)
    raise AssertionError("it is never left alone")


def test_a_tier_that_is_late_once_is_not_left_alone() -> None:
    model = model_of({Tier.REMOTE: [1.0, 1.0, 1000.0]})
    assert plan([Tier.REMOTE] * 8, {Tier.REMOTE: Speed(1e-3, 1e9)}, model=model).count == 8


def test_a_tier_that_is_late_every_third_time_is_not_left_alone() -> None:
    model = model_of({Tier.REMOTE: [1.0, 1.0, 1000.0, 1.0, 1.0, 1000.0]})
    assert plan([Tier.REMOTE] * 8, {Tier.REMOTE: Speed(1e-3, 1e9)}, model=model).count == 8


@pytest.mark.parametrize("before", [[], [1.0] * 20], ids=["unknown", "reliable"])
def test_a_tier_that_lies_is_soon_left_alone_and_tried_again_later(before: list[float]) -> None:
    model = model_of({Tier.REMOTE: before})
    prompt = Prompt(0, 300, 32)
    assert 2 <= lies(model, prompt) <= 5
    assert lies(model, prompt, now_s=0.1) == 0
    assert 1 <= lies(model, prompt, now_s=30.0) <= 2


def test_what_barely_pays_is_left_alone_at_once() -> None:
    """A block that saves little more than is waited in vain for it."""
    model = model_of({Tier.REMOTE: [1.0] * NUM_KEPT})
    assert plan([Tier.REMOTE], {Tier.REMOTE: Speed(1e-3, 1e9)}, model=model).count == 1
    assert lies(model, Prompt(0, 1000, 8)) == 1


def test_who_can_wait_longer_fetches_what_came_too_late_for_others() -> None:
    model = TransferModel()
    assert lies(model, Prompt(0, 300, 32)) > 1
    patient = plan([Tier.REMOTE] * 8, {Tier.REMOTE: Speed(1e-3, 1e9)}, Prompt(0, 300, 32), card(1.0), model)
    assert patient.count == 8


def test_a_wait_that_is_shorter_than_predicted_says_nothing() -> None:
    fetch = Fetch(plan([Tier.DISK] * 8, {Tier.DISK: Speed(1e-3, 1e9)}), 0.0)
    assert fetch.observations(1e-4) == []
    fetch.arrived(8, 0.01)
    [seen] = fetch.observations(100.0)  # complete: what came after is no wait
    assert (seen.actual_s, seen.is_late) == (pytest.approx(0.01), False)


def test_what_is_waited_beyond_the_deadline_is_not_the_tiers_fault() -> None:
    """A step that ran on, or a worker that did not get the processor."""
    fetch = Fetch(plan([Tier.DISK] * 8, {Tier.DISK: Speed(1e-3, 1e9)}), 0.0)
    [at_once] = fetch.observations(fetch.deadline_s)
    [much_later] = fetch.observations(fetch.deadline_s + 10.0)
    assert at_once == much_later
    assert at_once.is_late


def test_what_the_look_up_took_is_not_waited_again() -> None:
    found = plan([Tier.DISK] * 8, {Tier.DISK: Speed(1e-3, 1e9)})
    fetch = Fetch(found, 7.0, spent_s=0.02)
    assert fetch.deadline_s == pytest.approx(7.0 - 0.02 + promise_s(card()(1000, 0)))
    assert fetch.expected_s(7) == pytest.approx(7.0 + found.predicted_fetch_s)
    assert fetch.waited_s(7.01) == {Tier.DISK: pytest.approx(0.03)}
    fetch.arrived(8, 7.01)
    assert [each.actual_s for each in fetch.observations(7.01)] == [pytest.approx(0.01)]


def test_a_look_up_that_took_all_there_was_to_wait_leaves_nothing_to_fetch() -> None:
    speeds = {Tier.HOST: Speed(1e-4, 1e10)}
    patience_s = promise_s(card()(1000, 0))
    assert plan([Tier.HOST] * 8, speeds, spent_s=0.9 * patience_s).count == 8
    assert plan([Tier.HOST] * 8, speeds, spent_s=1.1 * patience_s).count == 0


def test_a_clock_that_goes_back_is_no_time() -> None:
    fetch = Fetch(plan([Tier.DISK] * 2, {Tier.DISK: Speed(1e-3, 1e9)}), 10.0)
    fetch.arrived(1, 9.0)
    fetch.arrived(1, 9.5)
    assert [each.actual_s for each in fetch.observations(9.5)] == [0.0]
    model = TransferModel()
    model.learn(fetch.observations(9.5), 9.5)
    assert 0 < model.usual(Tier.DISK, 9.5) < UNKNOWN


def test_tiers_that_were_read_in_one_fetch_are_judged_apart() -> None:
    speeds = {Tier.HOST: Speed(1e-4, 1e10), Tier.DISK: Speed(1e-3, 1e9)}
    found = plan([Tier.HOST] * 4 + [Tier.DISK] * 4, speeds)
    fetch = Fetch(found, 0.0)
    fetch.arrived(4, sum(found.block_s[:4]))
    fetch.arrived(4, sum(found.block_s[:4]) + 3 * sum(found.block_s[4:]))
    seen = {each.tier: each.actual_s / each.predicted_s for each in fetch.observations(1.0)}
    assert seen == pytest.approx({Tier.HOST: 1.0, Tier.DISK: 3.0})


def test_the_wait_until_now_is_parted_among_the_tiers_that_were_waited_for() -> None:
    found = plan([Tier.HOST] * 2 + [Tier.DISK], {Tier.HOST: Speed(1e-4, 1e10), Tier.DISK: Speed(1e-3, 1e9)})
    fetch = Fetch(found, 5.0)
    assert fetch.waited_s(5.25) == {Tier.HOST: 0.25}
    fetch.arrived(2, 6.0)
    assert fetch.waited_s(6.5) == {Tier.HOST: 1.0, Tier.DISK: 0.5}
    fetch.arrived(1, 8.0)
    assert fetch.waited_s(8.5) == {Tier.HOST: 1.0, Tier.DISK: 2.5}  # to take it over
    assert fetch.waited_s(0.0) == {Tier.HOST: 1.0, Tier.DISK: 2.0}  # a clock that goes back
