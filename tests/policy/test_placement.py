"""The rule of `pick_worker`, clause by clause."""

from __future__ import annotations

import random

import pytest

from tokenworks.policy.placement import MAX_EXTRA_LOAD, Candidate, held_prefix_blocks, pick_worker

PROMPT = [b"one", b"two", b"three"]


def candidate(
    worker_id: str, *held: bytes, running: int = 0, waiting: int = 0, in_flight: int = 0, is_ready: bool = True
) -> Candidate:
    return Candidate(worker_id, is_ready, running, waiting, in_flight, frozenset(held))


def test_nobody_ready_means_no_answer() -> None:
    assert pick_worker([], PROMPT) is None
    assert pick_worker([candidate("a", *PROMPT, is_ready=False)], PROMPT) is None


def test_the_longest_prefix_wins() -> None:
    candidates = [candidate("a", b"one"), candidate("b", b"one", b"two", running=3), candidate("c")]
    assert pick_worker(candidates, PROMPT) == "b"


def test_a_gap_ends_a_prefix() -> None:
    candidates = [candidate("a", b"two", b"three"), candidate("b", b"one", running=1)]
    assert [held_prefix_blocks(each, PROMPT) for each in candidates] == [0, 1]
    assert pick_worker(candidates, PROMPT) == "b"


@pytest.mark.parametrize(("extra", "expected"), [(MAX_EXTRA_LOAD, "full"), (MAX_EXTRA_LOAD + 1, "idle")])
def test_a_prefix_is_worth_a_stated_extra_load(extra: int, expected: str) -> None:
    candidates = [candidate("full", *PROMPT, running=2 + extra), candidate("idle", running=2)]
    assert pick_worker(candidates, PROMPT) == expected


def test_ties_go_to_the_lower_load_then_to_the_smaller_id() -> None:
    assert pick_worker([candidate("a", running=1), candidate("c"), candidate("b")], PROMPT) == "b"
    assert pick_worker([candidate("a", waiting=1), candidate("b", in_flight=2)], []) == "a"


def test_load_counts_what_was_sent_and_ended_since_the_heartbeat() -> None:
    assert candidate("a", running=3, waiting=2, in_flight=-4).load == 1
    assert candidate("a", running=1, in_flight=-4).load == 0


@pytest.mark.parametrize("seed", range(50))
def test_the_choice_is_ready_close_in_load_and_best_in_prefix(seed: int) -> None:
    random_ = random.Random(seed)
    candidates = [
        candidate(
            f"w{number}",
            *random_.sample(PROMPT, random_.randrange(4)),
            running=random_.randrange(20),
            is_ready=random_.random() < 0.7,
        )
        for number in range(random_.randrange(1, 6))
    ]
    chosen = pick_worker(candidates, PROMPT)
    ready = [each for each in candidates if each.is_ready]
    if not ready:
        assert chosen is None
        return
    best = next(each for each in ready if each.worker_id == chosen)
    assert best.load <= min(each.load for each in ready) + MAX_EXTRA_LOAD
    for each in ready:
        if each.load <= best.load:
            assert held_prefix_blocks(each, PROMPT) <= held_prefix_blocks(best, PROMPT)
