"""Which names get a line of their own: bounded whatever comes, the heavy ones found, places seldom changing hands."""

from __future__ import annotations

import random
from collections import Counter

from tokenworks.policy.top_names import OTHER, TopNames


def test_names_have_places_until_these_are_taken() -> None:
    names = TopNames(2)
    assert [names.place(name) for name in ("a", "b", "a", "c")] == [
        ("a", None),
        ("b", None),
        ("a", None),
        (OTHER, None),
    ]
    assert len(names) == 2


def test_a_million_names_that_come_once_take_no_place_and_no_room() -> None:
    names = TopNames(3)
    for name in ("a", "b", "c"):
        names.place(name, 10)
    for number in range(100_000):
        assert names.place(f"tenant-{number}") == (OTHER, None), number
        if number % 1000 == 0:
            for name in ("a", "b", "c"):
                names.place(name, 1000)
    assert len(names) == 3
    assert len(names._candidates) <= 12


def test_a_name_that_is_surely_used_twice_as_much_takes_the_place_of_the_least_used() -> None:
    names = TopNames(2)
    names.place("large", 100)
    names.place("small", 10)
    assert names.place("new", 20) == (OTHER, None)
    assert names.place("new", 1) == ("new", "small")
    assert names.place("small", 1) == (OTHER, None)


def test_what_a_candidate_took_over_from_another_is_not_its_own_use() -> None:
    names = TopNames(1)
    names.place("placed", 5)
    for number in range(4):
        names.place(f"candidate-{number}", 10)
    assert names.place("late", 1) == (OTHER, None)  # counted as 11, of which 1 is sure


def test_what_was_large_long_ago_makes_room() -> None:
    names = TopNames(1, half_life=10)
    names.place("old", 1000)
    labels = [names.place("new", 5)[0] for _ in range(100)]
    assert labels[0] == OTHER
    assert labels[-1] == "new"


def test_candidates_that_are_forgotten_leave_the_table() -> None:
    names = TopNames(1, half_life=3)
    names.place("placed", 100)
    names.place("once")
    assert names._candidates
    names.place("placed")
    assert not names._candidates


def test_the_heavy_names_of_skewed_traffic_have_the_places() -> None:
    draw = random.Random(5)
    used: Counter[str] = Counter()
    names = TopNames(10)
    weights = [1 / (rank + 1) ** 1.5 for rank in range(1000)]
    for rank in draw.choices(range(1000), weights, k=20_000):
        name = f"tenant-{rank}"
        used[name] += 1
        names.place(name)
    assert {f"tenant-{rank}" for rank in range(5)} <= set(names._placed)


def test_it_is_space_saving_as_published() -> None:
    """Against the slow version: the least of the candidates, found by looking at all of them, makes room."""
    draw = random.Random(9)
    names = TopNames(2)
    names.place("a", 1 << 40)
    names.place("b", 1 << 40)
    slow: dict[str, tuple[int, int]] = {}
    for _ in range(5000):
        name, weight = f"n{min(int(draw.paretovariate(0.7)), 60)}", draw.randint(1, 5)
        names.place(name, weight)
        count, error = slow.get(name, (0, 0))
        if not count and len(slow) >= 8:
            least = min(slow.values())[0]
            gone = next(each for each, counts in slow.items() if counts[0] == least and each not in names._candidates)
            del slow[gone]
            count = error = least
        slow[name] = (count + weight, error)
        if names._uses_until_halving == 10_000:
            slow = {each: (counts[0] // 2, counts[1] // 2) for each, counts in slow.items()}
        assert names._candidates == slow


def test_many_uses_at_once_count_as_many_towards_the_next_halving() -> None:
    names = TopNames(1, half_life=3)
    names.place("a", 8, uses=2)
    assert names._placed == {"a": 8}
    names.place("a", 8, uses=2)  # the third and the fourth
    assert names._placed == {"a": 12}
    assert names._uses_until_halving == 3
