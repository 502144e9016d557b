"""The rule of `pick_worker`, clause by clause."""

from __future__ import annotations

import random

import pytest

from tokenworks.contract.wire import Role
from tokenworks.policy.placement import MAX_EXTRA_LOAD, Candidate, held_prefix_blocks, pick_worker


def candidate(
    worker_id: str,
    held_tokens: int = 0,
    *,
    running: int = 0,
    waiting: int = 0,
    in_flight: int = 0,
    is_ready: bool = True,
    role: Role = Role.BOTH,
) -> Candidate:
    return Candidate(worker_id, is_ready, running, waiting, in_flight, held_tokens, role)


def test_nobody_ready_means_no_answer() -> None:
    assert pick_worker([]) is None
    assert pick_worker([candidate("a", 96, is_ready=False)]) is None


def test_the_longest_prefix_wins() -> None:
    assert pick_worker([candidate("a", 32), candidate("b", 64, running=3), candidate("c")]) == "b"


def test_a_gap_ends_a_prefix() -> None:
    prompt = [b"one", b"two", b"three"]
    assert held_prefix_blocks({b"two", b"three"}, prompt) == 0
    assert held_prefix_blocks({b"one", b"three"}, prompt) == 1
    assert held_prefix_blocks({b"one", b"two", b"three", b"four"}, prompt) == 3


@pytest.mark.parametrize(("extra", "expected"), [(MAX_EXTRA_LOAD, "full"), (MAX_EXTRA_LOAD + 1, "idle")])
def test_a_prefix_is_worth_a_stated_extra_load(extra: int, expected: str) -> None:
    assert pick_worker([candidate("full", 96, running=2 + extra), candidate("idle", running=2)]) == expected


def test_ties_go_to_the_lower_load_then_to_the_smaller_id() -> None:
    assert pick_worker([candidate("a", running=1), candidate("c"), candidate("b")]) == "b"
    assert pick_worker([candidate("a", waiting=1), candidate("b", in_flight=2)]) == "a"


def test_load_counts_what_was_sent_and_ended_since_the_heartbeat() -> None:
    assert candidate("a", running=3, waiting=2, in_flight=-4).load == 1
    assert candidate("a", running=1, in_flight=-4).load == 0


def test_prefill_workers_serve_where_nobody_else_is_ready() -> None:
    prefill = candidate("p", 96, role=Role.PREFILL)
    busy = candidate("d", running=50, role=Role.DECODE)
    assert pick_worker([prefill, busy]) == "d"
    assert pick_worker([prefill, candidate("d", is_ready=False)]) == "p"


@pytest.mark.parametrize("seed", range(50))
def test_the_choice_is_ready_close_in_load_and_best_in_prefix(seed: int) -> None:
    random_ = random.Random(seed)
    candidates = [
        candidate(
            f"w{number}",
            random_.randrange(4),
            running=random_.randrange(20),
            is_ready=random_.random() < 0.7,
            role=random_.choice(list(Role)),
        )
        for number in range(random_.randrange(1, 6))
    ]
    chosen = pick_worker(candidates)
    ready = [each for each in candidates if each.is_ready]
    if not ready:
        assert chosen is None
        return
    best = next(each for each in ready if each.worker_id == chosen)
    if best.role is Role.PREFILL:
        assert all(each.role is Role.PREFILL for each in ready)
    peers = [each for each in ready if (each.role is Role.PREFILL) == (best.role is Role.PREFILL)]
    assert best.load <= min(each.load for each in peers) + MAX_EXTRA_LOAD
    for each in peers:
        if each.load <= best.load:
            assert each.held_tokens <= best.held_tokens
