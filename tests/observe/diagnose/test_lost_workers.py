"""A request that met a dying worker: its stages in the order in which they happened, and which life of a worker."""

from __future__ import annotations

from tests.observe.made import NOON_NS, SECOND_NS, record, worker_sample
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.record import Frame, Incident, Leg, Record, Stage
from tokenworks.observe.diagnose.explain import Explanation, explain
from tokenworks.observe.diagnose.stage_lines import AGAIN, stage_lines

MS = 10**6
START_NS = NOON_NS - 10 * SECOND_NS
FIRST, SECOND = NOON_NS - 90 * SECOND_NS, NOON_NS - 4 * SECOND_NS  # lives of w0


def request(*legs: Leg, route_ms: int, lost_ms: int, prefill_ms: int = 100) -> Record:
    """Received in 1 ms, with those legs; what is left of ten seconds is decode."""
    stages = {Stage.RECEIVE: MS, Stage.ROUTE: route_ms * MS, Stage.PREFILL: prefill_ms * MS, Stage.LOST: lost_ms * MS}
    stages[Stage.DECODE] = 10 * SECOND_NS - sum(stages.values())
    return record(e2e_ns=10 * SECOND_NS, stages_ns=stages, legs=list(legs))


def order(one: Record) -> list[tuple[str, int]]:
    return [(line.stage.value, line.ns // MS) for line in stage_lines(one)]


def leg(start_ms: int, span_ms: int, outcome: str = "ok", worker: str = "w0", sequence: int = 0) -> Leg:
    return Leg(worker, start_ns=start_ms * MS, span_ns=span_ms * MS, outcome=outcome, sequence=sequence)


def test_time_on_a_lost_worker_stands_before_the_wait_for_another() -> None:
    one = request(leg(3, 20, "lost"), leg(7023, 2977), route_ms=7002, lost_ms=20)
    assert order(one) == [
        ("receive", 1), ("route", 2), ("lost", 20), ("route", 7000), ("prefill", 100), ("decode", 2877),
    ]  # fmt: skip
    lines = stage_lines(one)
    assert [line.start_ns for line in lines] == [sum(line.ns for line in lines[:at]) for at in range(len(lines))]
    assert sum(line.ns for line in lines) == one.e2e_ns
    assert [line.meaning for line in lines if line.stage is Stage.ROUTE][1] == AGAIN
    assert lines[2].meaning.endswith(": w0, lost")


def test_every_worker_that_was_lost_has_its_place() -> None:
    legs = (leg(3, 20, "lost"), leg(1023, 30, "refused", "w1"), leg(3053, 6947))
    one = request(*legs, route_ms=2 + 1000 + 2000, lost_ms=50)
    assert [ns for stage, ns in order(one) if stage in ("route", "lost")] == [2, 20, 1000, 30, 2000]


def test_a_request_whose_only_worker_was_lost_waits_in_the_end() -> None:
    one = request(leg(3, 20, "lost"), route_ms=9979, lost_ms=20, prefill_ms=0)
    assert order(one) == [("receive", 1), ("route", 2), ("lost", 20), ("route", 9977)]


def test_stages_are_those_of_the_choice_that_ended_last() -> None:
    legs = (leg(3, 9997), leg(3, 20, "lost", "w1", sequence=1), leg(40, 900, "ok", "w1", sequence=1))
    assert order(request(*legs, route_ms=2, lost_ms=0))[:2] == [("receive", 1), ("route", 2)]


def test_legs_that_contradict_the_stages_lose_no_time() -> None:
    one = request(leg(500, 9000, "lost"), route_ms=2, lost_ms=20)
    assert sum(ns for _, ns in order(one)) == 10_000
    assert [ns for stage, ns in order(one) if stage in ("route", "lost")] == [2, 20]


def told(*beside: Frame) -> Explanation:
    legs = (leg(3, 20, "lost"), leg(7023, 1000, "lost", "w1"), leg(9000, 1000))
    one = request(*legs, route_ms=8000, lost_ms=1020)
    return explain(MemoryLedger([one, *beside]), one.id)


def lost(worker: str, after_ms: int, life_ns: int) -> Incident:
    return Incident(START_NS + after_ms * MS, "worker_lost", worker, f"exited {after_ms}", life_ns)


def lives(worker: str, *starts_ns: int) -> list[Frame]:
    return [worker_sample(NOON_NS - SECOND_NS + at, MS, 0, start, worker=worker) for at, start in enumerate(starts_ns)]


def test_legs_tell_how_a_worker_was_lost_and_that_it_has_started_again() -> None:
    beside = [lost("w0", 1, 5), lost("w0", 24, FIRST), lost("w1", 8100, 7)]
    legs = told(*beside, *lives("w0", FIRST, SECOND), *lives("w1", 7)).legs
    assert [each.lost for each in legs] == ["exited 24", "exited 8100", ""]
    assert [each.is_new_life for each in legs] == [False, False, True]


def test_a_worker_that_only_lost_its_connection_has_no_other_life() -> None:
    assert not any(each.is_new_life for each in told(lost("w0", 24, FIRST), *lives("w0", FIRST)).legs)


def test_a_loss_that_nobody_wrote_down_is_not_made_up() -> None:
    legs = told(lost("w0", 24 + 5000, FIRST), *lives("w0", FIRST, SECOND)).legs
    assert [(each.lost, each.is_new_life) for each in legs] == [("", False)] * 3


def test_the_sentence_says_that_the_wait_was_for_another_worker() -> None:
    assert "w0 was lost while it had the request, which then waited for another worker" in told().story
