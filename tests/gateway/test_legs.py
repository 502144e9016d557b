"""How a leg's time is shared out, and what the way of a request comes to: figures that can be computed by hand."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from msgspec.structs import replace

from tokenworks.contract import wire
from tokenworks.contract.card import Card
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.record import SequenceReport, Stage
from tokenworks.gateway.pool.legs import Sending, Trail
from tokenworks.gateway.pool.registry import Worker

CARD = Card("cpu", 1, "float32", "float32", 1, 1, "float32", 1, 100, (), (), 9.0, 0.5, 0.25, 0, 0, 0)
HELLO = wire.Hello(wire.PROTOCOL, "w0", os.getpid(), "m", 100, KVSpec("scripted", 1, 1, 8, 4, "float32"), CARD)
WORKER = Worker(b"w0", HELLO, 0.0)


def sent(at_ns: int = 100, sequence: int = 0) -> Sending:
    return Sending(WORKER, sequence, "whole", "only worker", at_ns)


def stages(of: Sending | Trail) -> dict[Stage, int]:
    total: dict[Stage, int] = {}
    of.add_stages(total)
    return total


def report(**spent: int) -> SequenceReport:
    return SequenceReport(stages_ns={Stage(name): spent_ns for name, spent_ns in spent.items()})


def test_what_the_worker_does_not_report_is_on_the_wire() -> None:
    sending = sent()
    sending.end(200, "ok", report(queue=10, prefill=40, decode=30))
    assert stages(sending) == {Stage.QUEUE: 10, Stage.PREFILL: 40, Stage.DECODE: 30, Stage.WIRE: 20}


@pytest.mark.parametrize("outcome", ["lost", "refused"])
def test_what_was_in_vain_is_lost_whatever_was_reported(outcome: str) -> None:
    sending = sent()
    sending.end(200, outcome, report(queue=10))
    assert stages(sending) == {Stage.LOST: 100}


def test_without_a_report_the_first_token_divides_it() -> None:
    sending = sent()
    sending.first_ns = 130
    sending.end(200, "ok")
    assert stages(sending) == {Stage.PREFILL: 30, Stage.DECODE: 70}
    silent = sent()
    silent.end(200, "failed", SequenceReport())
    assert stages(silent) == {Stage.WIRE: 100}


def test_what_ran_on_after_it_was_cancelled_is_no_part_of_the_way() -> None:
    """Left after 100 ns, told after 150 with 140 reported: 10 on the wire, so 90 of the 140 were waited for."""
    sending = sent()
    sending.end(200, "cancelled")
    sending.end(250, "cancelled", report(queue=20, prefill=40, decode=45, stall=35))
    assert sending.left_ns == 200
    assert sending.leg(0).span_ns == 150
    assert stages(sending) == {
        Stage.QUEUE: 20,
        Stage.PREFILL: 40,
        Stage.STALL: 30,
        Stage.WIRE: 10,
    }


def test_a_cancelled_one_that_had_ended_in_time_is_as_it_was() -> None:
    sending = sent()
    sending.end(200, "cancelled")
    sending.end(900, "ok", report(prefill=40, decode=50))
    assert stages(sending) == {Stage.PREFILL: 40, Stage.DECODE: 50, Stage.WIRE: 10}


def test_a_report_that_cannot_be_is_passed_over() -> None:
    for impossible in (report(receive=500), report(decode=-10)):
        sending = sent()
        sending.first_ns = 150
        sending.end(200, "ok", impossible)
        assert stages(sending) == {Stage.PREFILL: 50, Stage.DECODE: 50}


def test_what_was_found_is_worth_what_computing_it_would_take() -> None:
    """Half a second a token and a quarter a pair; the step's base is paid for the rest of the prompt anyway."""
    sending = sent()
    sending.found_tokens = 4
    sending.end(200, "ok")
    assert sending.leg(0).saved_ns == (4 * 0.5 + 0.25 * 8) * 1e9
    sending.handed_tokens = 2
    assert sending.leg(0).saved_ns == (2 * 0.5 + 0.25 * 6) * 1e9
    sending.handed_tokens = 4  # all of it was computed for this request, and is in its price
    assert sending.leg(0).saved_ns == 0


def test_a_worker_that_names_no_weights_has_no_version() -> None:
    assert WORKER.version == "scripted"
    assert Worker(b"f", replace(HELLO, kv=None), 0.0).version == ""
    assert len(Worker(b"l", replace(HELLO, kv=replace(HELLO.kv, fingerprint="f" * 64)), 0.0).version) == 12


def test_between_two_legs_it_is_routed_and_the_last_sequence_counts() -> None:
    trail = Trail(50)
    first, again, other = sent(100), sent(300), sent(110, sequence=1)
    trail.sendings += [first, other, again]
    first.end(220, "lost")
    other.end(160, "ok", report(decode=50))
    again.end(400, "ok", report(decode=90))
    trail.ended(1, 160)
    trail.ended(0, 410)
    assert trail.end_ns == 410
    assert stages(trail) == {Stage.ROUTE: 50 + 80 + 10, Stage.LOST: 120, Stage.DECODE: 90, Stage.WIRE: 10}


def test_a_trail_that_nobody_was_sent_along_is_empty() -> None:
    assert (stages(Trail(50)), Trail(50).end_ns) == ({}, 50)


@pytest.mark.parametrize("seed", range(200))
def test_stages_are_a_partition_whatever_happened(seed: int) -> None:
    """Legs that end in every way and at any time, with reports of anything: no nanosecond is counted twice or none."""
    draw = random.Random(seed)
    trail, now_ns = Trail(draw.randrange(100)), 0
    now_ns = trail.began_ns
    for _ in range(draw.randrange(1, 4)):
        now_ns += draw.randrange(50)
        sending = sent(now_ns)
        trail.sendings.append(sending)
        now_ns += draw.randrange(200)
        sending.first_ns = draw.choice([0, draw.randint(sending.sent_ns, now_ns)])
        outcome = draw.choice(["ok", "lost", "refused", "failed", "cancelled"])
        told: Any = draw.choice([None, _random_report(draw)])
        sending.end(now_ns, outcome, None if outcome == "cancelled" else told)
        if outcome == "cancelled":
            sending.end(now_ns + draw.randrange(100), outcome, told)
    trail.ended(0, now_ns + draw.randrange(50))
    found = stages(trail)
    assert sum(found.values()) == trail.end_ns - trail.began_ns
    assert min(found.values(), default=0) >= 0


def _random_report(draw: random.Random) -> SequenceReport:
    return SequenceReport(stages_ns={stage: draw.randrange(80) for stage in draw.sample(list(Stage), 5)})
