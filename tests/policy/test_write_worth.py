"""What a write must save: chances by hand, and at random against a count of everything at the end."""

from __future__ import annotations

import random

import pytest

from tokenworks.policy.write_worth import (
    HORIZON_S,
    MAX_WATCHED,
    PRIOR_BLOCKS,
    PRIOR_CHANCE,
    SAMPLED,
    WriteWorth,
    is_sampled,
)


def named(number: int) -> bytes:
    return number.to_bytes(4, "little")


def watched(count: int, num_used: int = 0, history: int = 0) -> WriteWorth:
    """So many blocks came at once, some of them were used, and their time is over."""
    worth = WriteWorth(lambda name: True)
    for number in range(count):
        worth.entered(named(number), history, 0.0)
    for _ in range(num_used):
        worth.used(history)
    worth.entered(b"last", history, HORIZON_S)
    return worth


def test_before_anything_was_seen_half_of_all_blocks_are_thought_to_come_again() -> None:
    worth = WriteWorth(lambda name: True)
    assert worth.chance(0) == PRIOR_CHANCE
    assert worth.is_worth(0, recompute_s=0.1, write_s=0.05)
    assert not worth.is_worth(0, recompute_s=0.1, write_s=0.0501)


def test_blocks_that_had_no_time_to_be_used_again_say_nothing() -> None:
    worth = WriteWorth(lambda name: True)
    for number in range(1000):
        worth.entered(named(number), 0, number * HORIZON_S / 1001)
    assert worth.chance(0) == PRIOR_CHANCE


def test_traffic_without_reuse_is_not_worth_writing_once_its_time_has_passed() -> None:
    worth = watched(784)
    assert worth.chance(0) == pytest.approx(
        PRIOR_CHANCE * PRIOR_BLOCKS / (784 + PRIOR_BLOCKS), rel=0.2
    )  # fades a little
    assert worth.is_worth(0, recompute_s=0.1, write_s=0.0005)
    assert not worth.is_worth(0, recompute_s=0.1, write_s=0.002)


def test_the_first_uses_raise_the_chance_at_once() -> None:
    worth = watched(1000)
    before = worth.chance(0)
    for _ in range(100):
        worth.used(0)
    assert worth.chance(0) > before + 0.08


def test_histories_are_learnt_apart() -> None:
    worth = watched(1000)
    assert worth.chance(0) < 0.02
    assert worth.chance(1) == PRIOR_CHANCE


def test_more_uses_than_blocks_are_a_chance_of_one_at_most() -> None:
    assert 0.9 < watched(10, num_used=200).chance(0) <= 1.0


def test_a_block_that_was_forgotten_meanwhile_says_nothing() -> None:
    worth = WriteWorth(lambda name: name[0] % 2 == 0)
    for number in range(100):
        worth.entered(named(number), 0, 0.0)
    worth.entered(b"last", 0, HORIZON_S)
    some = watched(50)
    assert worth.chance(0) == some.chance(0)


def test_where_cost_or_gain_is_not_known_a_block_is_written() -> None:
    worth = watched(5000)
    assert worth.is_worth(0, recompute_s=0.0, write_s=1.0)
    assert worth.is_worth(0, recompute_s=0.1, write_s=0.0)


def test_what_was_long_ago_fades() -> None:
    worth = WriteWorth(lambda name: True)
    for number in range(20_000):  # used again, all of them
        worth.entered(named(number), 0, float(number))
        worth.used(0)
    for number in range(20_000, 40_000):
        worth.entered(named(number), 0, float(number))
    assert worth.chance(0) < 0.05


def test_more_blocks_than_can_be_watched_leave_the_oldest_out() -> None:
    worth = WriteWorth(lambda name: True)
    for number in range(MAX_WATCHED + 1):
        worth.entered(named(number), int(number == 0), 0.0)
    worth.entered(b"last", 0, HORIZON_S)
    assert worth.chance(1) == PRIOR_CHANCE


@pytest.mark.parametrize("seed", range(5))
def test_the_chance_learnt_is_the_share_that_was_used(seed: int) -> None:
    """Against a count of everything, over fewer blocks than fade."""
    dice = random.Random(seed)
    share = dice.random()
    worth = WriteWorth(lambda name: True)
    uses: list[float] = []
    num_used = 0
    for number in range(1000):
        now_s = 2.0 * number
        worth.entered(named(number), 0, now_s)
        if dice.random() < share:
            uses.append(now_s + dice.expovariate(1 / 100))
        num_used += sum(at <= now_s for at in uses)
        for _ in range(sum(at <= now_s for at in uses)):
            worth.used(0)
        uses = [at for at in uses if at > now_s]
    worth.entered(b"last", 0, 2000 + HORIZON_S)
    assert worth.chance(0) == pytest.approx(num_used / 1000, abs=0.06)


def test_one_chain_in_so_many_is_written_in_any_case() -> None:
    dice = random.Random(1)
    num_sampled = sum(is_sampled(dice.randbytes(16)) for _ in range(16_000))
    assert num_sampled == pytest.approx(16_000 / SAMPLED, rel=0.1)
