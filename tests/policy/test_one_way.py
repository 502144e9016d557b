"""When a message came that nobody saw come, on two clocks that know nothing of each other."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.policy.one_way import MEMORY_NS, Doorstep

OFFSET = 7_000_000_000_000  # of the two clocks


def test_who_was_seen_at_once_came_now() -> None:
    door = Doorstep()
    assert door.came_ns(100, OFFSET + 150, 0) == OFFSET + 150
    assert door.came_ns(1100, OFFSET + 1150, 0) == OFFSET + 1150


def test_what_a_message_took_longer_than_the_quickest_it_lay() -> None:
    door = Doorstep()
    door.came_ns(100, OFFSET + 150, 0)
    assert door.came_ns(1000, OFFSET + 1750, 0) == OFFSET + 1050


def test_nothing_came_before_the_last_look_nor_after_now() -> None:
    door = Doorstep()
    door.came_ns(100, OFFSET + 150, 0)
    assert door.came_ns(1000, OFFSET + 1750, OFFSET + 1600) == OFFSET + 1600
    assert door.came_ns(1000, OFFSET + 1750, OFFSET + 1800) == OFFSET + 1750


def test_a_sender_that_does_not_say_is_taken_to_have_sent_now() -> None:
    assert Doorstep().came_ns(0, 500, 100) == 500


def test_a_quickest_of_long_ago_is_forgotten_since_clocks_drift() -> None:
    door = Doorstep()
    door.came_ns(0 + 1, OFFSET, 0)
    later = MEMORY_NS + 10
    assert door.came_ns(later, OFFSET + later + 500, 0) < OFFSET + later + 500  # still remembered
    much_later = 3 * later + MEMORY_NS
    door.came_ns(much_later, OFFSET + much_later + 500, 0)
    assert door.came_ns(much_later + 9, OFFSET + much_later + 509, 0) == OFFSET + much_later + 509


def test_the_quickest_of_the_time_before_counts_until_the_next_turn() -> None:
    door = Doorstep()
    door.came_ns(1, OFFSET, 0)
    door.came_ns(MEMORY_NS + 10, OFFSET + MEMORY_NS + 509, 0)
    assert door.came_ns(MEMORY_NS + 100, OFFSET + MEMORY_NS + 600, 0) == OFFSET + MEMORY_NS + 99
    third = 2 * MEMORY_NS + 1000
    assert door.came_ns(third, OFFSET + third + 700, 0) == OFFSET + third + 499


@given(st.lists(st.tuples(st.integers(-(2**63), 2**64), st.integers(0, 10**12), st.integers(0, 10**12))))
def test_whatever_a_sender_says_is_taken_to_lie_between_two_looks(messages: list[tuple[int, int, int]]) -> None:
    door, seen = Doorstep(), 10**12
    for sent, later, since in messages:
        seen += later
        assert seen - since <= door.came_ns(sent, seen, seen - since) <= seen


def test_in_a_worker_that_is_always_busy_the_guess_is_off_by_less_than_a_few_steps_in_a_hundred() -> None:
    """Messages come at any instant of steps of 100 ms, and take 0.2 ms and now and then more."""
    rng, door, step = random.Random(5), Doorstep(), 100_000_000
    errors = []
    sent = 1
    for count in range(2000):
        sent += rng.randrange(40_000_000)
        came = sent + 200_000 + (rng.randrange(3_000_000) if rng.random() < 0.1 else 0)
        seen = -(-came // step) * step
        guess = door.came_ns(sent, OFFSET + seen, OFFSET + seen - step) - OFFSET
        assert seen - step <= guess <= seen
        errors += [abs(guess - came)] if count > 100 else []
    assert sum(errors) / len(errors) < 0.03 * step
