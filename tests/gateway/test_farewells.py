"""Cancelled sendings whose workers have yet to tell: each is closed once, by a word, a loss, time or a crowd."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.gateway.test_legs import HELLO, WORKER, sent
from tokenworks.contract.record import SequenceReport
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.gateway.pool import farewells
from tokenworks.gateway.pool.farewells import Farewells
from tokenworks.gateway.pool.legs import Sending, Trail
from tokenworks.gateway.pool.registry import Worker

REPORT = SequenceReport(steps=3)


@pytest.fixture
def waiting() -> tuple[Farewells, Trail, list[Sending], list[int]]:
    """Two sendings of one request that were cancelled, and how often it was told that all have been heard of."""
    table, trail, told = Farewells(5.0), Trail(0), [0]
    trail.sendings = [sent(), sent(sequence=1)]
    for number, sending in enumerate(trail.sendings):
        sending.end(200, "cancelled")
        table.expect(f"id-{number}", sending, trail)
    trail.on_told = lambda: told.__setitem__(0, told[0] + 1)
    return table, trail, trail.sendings, told


def last_word(number: int, reason: EndReason = EndReason.CANCELLED) -> SequenceOutput:
    return SequenceOutput(f"id-{number}", end=End(reason, report=REPORT))


def test_the_last_word_of_each_is_awaited(waiting: tuple[Farewells, Trail, list[Sending], list[int]]) -> None:
    table, trail, (first, second), told = waiting
    table.hear(WORKER, last_word(0), 300)
    assert (first.report, first.outcome, first.left_ns, first.ended_ns) == (REPORT, "cancelled", 200, 300)
    assert (trail.num_untold, told) == (1, [0])
    table.hear(WORKER, last_word(1, EndReason.STOP), 310)  # it had ended by itself
    assert (second.outcome, trail.num_untold, told, len(table)) == ("ok", 0, [1], 0)


def test_what_is_no_last_word_of_it_is_passed_over(waiting: tuple[Farewells, Trail, list[Sending], list[int]]) -> None:
    table, trail, (first, _), _ = waiting
    table.hear(WORKER, SequenceOutput("id-0", [5]), 300)
    table.hear(Worker(b"w1", HELLO, 0.0), last_word(0), 300)
    table.hear(WORKER, last_word(7), 300)
    assert (first.report, trail.num_untold) == (None, 2)


CLOSING: dict[str, Callable[[Farewells], None]] = {
    "lost": lambda table: table.lose(WORKER),
    "late": lambda table: table.expire(time.monotonic_ns() + 6 * 10**9),
    "shut down": lambda table: table.give_up(),
}


@pytest.mark.parametrize("how", CLOSING)
def test_who_will_not_tell_is_not_waited_for(
    waiting: tuple[Farewells, Trail, list[Sending], list[int]], how: str
) -> None:
    table, trail, (first, _), told = waiting
    table.expire(time.monotonic_ns())
    table.lose(Worker(b"w1", HELLO, 0.0))
    assert len(table) == 2
    CLOSING[how](table)
    table.hear(WORKER, last_word(0), 300)
    assert (first.report, first.ended_ns, trail.num_untold, told, len(table)) == (None, 200, 0, [1], 0)


def test_there_are_never_too_many(
    waiting: tuple[Farewells, Trail, list[Sending], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, trail, _, told = waiting
    monkeypatch.setattr(farewells, "MAX_UNTOLD", 2)
    other = Trail(0)
    for number in range(2):
        table.expect(f"other-{number}", sent(), other)
    assert (len(table), trail.num_untold, told, other.num_untold) == (2, 0, [1], 2)
