"""Which drafts are computed: cases by hand, against trying every choice, and decoding whole texts on virtual time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from tokenworks.contract.request import Request, Sampling
from tokenworks.policy.block_pool import BlockPool
from tokenworks.policy.limits import Limits
from tokenworks.policy.scheduler import Scheduler
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.speculation import LEAST_GAIN, MAX_DRAFTS, Speculator, can_pay, choose
from tokenworks.policy.step_costs import StepCosts
from tokenworks.policy.step_plan import Chunk

Cost = Callable[[int], float]


def flat(num_rows: int) -> float:
    """Memory-bound up to 16 rows: what a large model at a small batch does."""
    return 1.0 + 0.01 * num_rows + 0.1 * max(0, num_rows - 16)


def steep(num_rows: int) -> float:
    """Compute-bound from the first row."""
    return 0.05 + num_rows


def affine(base: float, per_row: float) -> StepCosts:
    costs = StepCosts()
    for num_rows in (1, 2, 64):
        costs.observe(num_rows, base + per_row * num_rows)
    return costs


def make_sequence(token_ids: list[int], max_tokens: int = 100, stop: tuple[int, ...] = ()) -> Sequence:
    sampling = Sampling(max_tokens=max_tokens, stop_token_ids=stop)
    return Sequence(Request("a", "model", token_ids, sampling), 4, "fingerprint")


# The choice


def test_free_rows_take_every_draft_and_dear_ones_none() -> None:
    chains = [[0.5, 0.25], [0.9]]
    assert choose(affine(1.0, 0.0), chains, num_rows=2, most=9) == [2, 1]
    assert choose(affine(0.0, 1.0), chains, num_rows=2, most=9) == [0, 0]


def test_the_likeliest_drafts_go_first() -> None:
    chains = [[0.5, 0.25], [0.9, 0.81]]
    taken = [choose(affine(1.0, 0.0), chains, num_rows=2, most=most) for most in range(5)]
    assert taken == [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2]]


def test_a_draft_is_worth_its_row_where_tokens_per_second_rise() -> None:
    """One row takes 1.1 s. Two give 1.5 tokens in 1.2 s (1.25/s), three 1.75 in 1.3 (1.346/s), four 1.85 in 1.4."""
    assert choose(affine(1.0, 0.1), [[0.5, 0.25, 0.1]], num_rows=1, most=9) == [2]


def test_a_gain_within_the_noise_is_left() -> None:
    """Two rows give 1.11 tokens for 1.2 / 1.1 = 1.09 of the time: 1.8 % faster."""
    assert choose(affine(1.0, 0.1), [[0.11]], num_rows=1, most=9) == [0]
    assert choose(affine(1.0, 0.1), [[0.12]], num_rows=1, most=9) == [1]


def test_rows_of_a_prompt_count_by_how_dear_they_make_the_next_row() -> None:
    costs = StepCosts()
    for num_rows in (1, 2, 16, 17, 18, 19):  # buckets 16 (16, 17, 18, 19) and so on are exact enough here
        costs.observe(num_rows, flat(num_rows))
    costs.observe(32, 1000.0)
    assert choose(costs, [[0.5]], num_rows=1, most=9) == [1]
    assert choose(costs, [[0.5]], num_rows=24, most=9) == [0]


@pytest.mark.parametrize("seed", range(30))
def test_no_other_choice_gives_more_tokens_per_second(seed: int) -> None:
    rng = random.Random(seed)
    costs = affine(rng.random(), rng.random() * rng.choice([0.01, 0.1, 1]))
    chains = []
    for _ in range(rng.randint(1, 3)):
        chance, chain = 1.0, []
        for _ in range(rng.randint(0, 4)):
            chance *= rng.random()
            chain.append(chance)
        chains.append(chain)
    num_rows, most = len(chains) + rng.choice([0, 20]), rng.randint(0, 6)

    def speed(counts: tuple[int, ...]) -> float:
        gain = sum(sum(chain[:count]) for chain, count in zip(chains, counts, strict=True))
        extra_s = costs.seconds(num_rows + sum(counts)) - costs.seconds(num_rows)
        return (len(chains) + gain) / (costs.seconds(len(chains)) + extra_s)

    choices = [c for c in itertools.product(*(range(len(chain) + 1) for chain in chains)) if sum(c) <= most]
    best, plain = max(speed(counts) for counts in choices), speed((0,) * len(chains))
    chosen = speed(tuple(choose(costs, chains, num_rows, most)))
    assert chosen == pytest.approx(best if best > LEAST_GAIN * plain else plain)


def test_whether_an_almost_certain_draft_would_pay() -> None:
    """A row costs 1 s; a token of the plain step 2 s, then 9 / 8 s, then 1.1 s."""
    assert can_pay(affine(1.0, 1.0), num_sequences=1, num_rows=1)
    assert can_pay(affine(1.0, 1.0), num_sequences=8, num_rows=100)
    assert not can_pay(affine(1.0, 1.0), num_sequences=10, num_rows=10)


# The speculator


def test_nothing_is_looked_up_where_nothing_can_pay() -> None:
    sequence = make_sequence([1, 2, 3, 1, 2])
    speculator = Speculator()
    assert speculator.draft([], 5, 9) == []
    assert speculator.draft([sequence], 1, 0) == [[]]
    speculator.costs = affine(0.0, 1.0)
    assert speculator.draft([sequence], 1, 9) == [[]]
    assert sequence.drafting is None


def test_nothing_is_drafted_while_paused() -> None:
    speculator = Speculator()
    speculator.is_paused = True
    assert speculator.draft([make_sequence([5] * 40)], 1, 99) == [[]]


def test_drafts_leave_a_token_for_the_step_itself() -> None:
    """Two tokens may come still: one draft, and what is sampled behind it."""
    for max_tokens, count in ((1, 0), (2, 1), (100, MAX_DRAFTS)):
        sequence = make_sequence([5] * 40, max_tokens)
        assert Speculator().draft([sequence], 1, 99) == [[5] * count]


def test_drafts_end_before_a_stop_token() -> None:
    assert Speculator().draft([make_sequence([1, 2, 3, 4, 1, 2], stop=(4,))], 1, 99) == [[3]]


# Whole texts on virtual time


def decode(prompts: list[list[int]], texts: list[list[int]], cost: Cost, speculator: Speculator | None) -> float:
    """Seconds that a device of this cost takes to say these texts after these prompts, whose own steps do not count."""
    limits = Limits(len(prompts), 512, 10_000, 32)
    scheduler = Scheduler(limits, BlockPool(2000), "fingerprint", speculator)
    whole = {}
    for at, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        whole[str(at)] = prompt + text
        scheduler.add(Request(str(at), "model", prompt, Sampling(max_tokens=len(text))))

    def sampled(chunk: Chunk) -> list[int]:
        end = chunk.start + chunk.num_tokens
        said = whole[chunk.sequence.request.id]
        return (said + [-1] * MAX_DRAFTS)[end - chunk.num_sampled + 1 : end + 1]

    seconds = 0.0
    while (plan := scheduler.plan()) is not None:
        outcomes = scheduler.apply(plan, [sampled(chunk) for chunk in plan.sampled])
        for outcome in outcomes:
            assert outcome.sequence.token_ids == whole[outcome.sequence.request.id][: len(outcome.sequence.token_ids)]
        seconds += cost(plan.num_tokens) if all(chunk.is_decode for chunk in plan.chunks) else 0.0
        if speculator is not None:
            speculator.costs.observe(plan.num_tokens, cost(plan.num_tokens))
    return seconds


def speedup(prompts: list[list[int]], texts: list[list[int]], cost: Cost) -> float:
    return decode(prompts, texts, cost, None) / decode(prompts, texts, cost, Speculator())


def random_tokens(count: int, vocabulary: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(vocabulary) for _ in range(count)]


@pytest.mark.parametrize("vocabulary", [4, 30, 30_000])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("cost", [flat, steep])
def test_on_random_text_the_waste_is_below_two_percent(vocabulary: int, batch: int, cost: Cost) -> None:
    prompts = [random_tokens(200, vocabulary, seed) for seed in range(batch)]
    texts = [random_tokens(600, vocabulary, 100 + seed) for seed in range(batch)]
    assert speedup(prompts, texts, cost) > 0.98


def test_on_text_that_repeats_the_prompt_several_tokens_come_a_step() -> None:
    prompt = random_tokens(300, 5000)
    assert speedup([prompt], [prompt[20:250]], flat) > 5
    assert speedup([prompt] * 4, [prompt[20:250]] * 4, flat) > 2


def test_on_text_that_repeats_the_prompt_dear_rows_are_left_alone() -> None:
    prompt = random_tokens(300, 5000)
    assert speedup([prompt] * 8, [prompt[20:250]] * 8, steep) > 0.99


def test_an_edit_that_copies_with_changes_still_wins() -> None:
    """Every twelfth token is another one than in the prompt."""
    prompt = random_tokens(400, 5000)
    text = [token if at % 12 else 6000 + at for at, token in enumerate(prompt)]
    assert speedup([prompt], [text], flat) > 2.5


def test_a_text_that_turns_from_random_to_repeating_is_noticed() -> None:
    start = random_tokens(500, 50)
    text = random_tokens(500, 50, seed=1) + start[:400]
    assert speedup([start], [text], flat) > 1.5
