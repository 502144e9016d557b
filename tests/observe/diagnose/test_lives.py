"""Workers counted as they come and go, whenever they were heard last; and deaths that go in a circle."""

from __future__ import annotations

import pytest

from tests.observe.made import MINUTE_NS, SECOND_NS, worker_sample
from tests.observe.memory_ledger import MemoryLedger
from tests.observe.scenes import NOW
from tokenworks.contract.record import Frame, Incident
from tokenworks.observe.cell import Cell
from tokenworks.observe.diagnose.lives import CIRCLE_NS, losses_in_a_row, workers
from tokenworks.observe.diagnose.sides import Side
from tokenworks.observe.ledger import Window

START_NS = NOW.start_ns - 60 * MINUTE_NS
MINUTE = Window(NOW.start_ns, NOW.start_ns + MINUTE_NS)


def samples(worker: str, *after_s: float, started_ns: int = START_NS) -> list[Frame]:
    """Of one life, so many seconds after the window's start."""
    found: list[Frame] = []
    for each in after_s:
        at_ns = MINUTE.start_ns + round(each * SECOND_NS)
        found.append(worker_sample(at_ns, 1, at_ns - started_ns, started_ns, worker=worker))
    return found


def gone(kind: str, worker: str, after_s: int) -> Incident:
    return Incident(MINUTE.start_ns + after_s * SECOND_NS, kind, worker)


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        (samples("w0", -5, 5, 40), 1.0),
        (samples("w0", -5, 5, 55) + samples("w1", -4, 35), 2.0),
        (samples("w0", 40, started_ns=MINUTE.start_ns + 30 * SECOND_NS), 0.5),
        ([*samples("w0", -5, 14), gone("worker_left", "w0", 15)], 0.25),
        ([*samples("w0", -5, 14), gone("worker_lost", "w0", 15)], 0.25),
        ([*samples("w0", -5, 44), gone("worker_lost", "w0", 15)], 1.0),  # another gateway still has it
        (samples("w0", -5, 14) + samples("w0", 46, 56, started_ns=MINUTE.start_ns + 45 * SECOND_NS), 44 / 60 + 0.25),
    ],
    ids=["heard late", "two", "came", "left", "lost", "lost by one of two", "lost unheard, and started again"],
)
def test_a_worker_counts_while_it_is_there(frames: list[Frame], count: float) -> None:
    ledger = MemoryLedger(frames)
    side = Side(MINUTE, Cell(), ledger.workers(MINUTE), incidents=ledger.incidents(MINUTE))
    assert workers(side) == pytest.approx(count)


def test_losses_that_are_further_apart_than_a_circle_are_none() -> None:
    def most(apart_ns: int) -> float:
        lost = [Incident(START_NS + number * apart_ns, "worker_lost", "w0", life_ns=number + 1) for number in range(9)]
        return losses_in_a_row(Side(NOW, Cell(), incidents=lost))

    assert most(CIRCLE_NS) == 1
    assert most(CIRCLE_NS // 2) == 2
    assert most(CIRCLE_NS // 3) == 3
    assert losses_in_a_row(Side(NOW, Cell())) == 0
