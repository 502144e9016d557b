"""A window without a past: its halves hold equally much, whatever the time took."""

from __future__ import annotations

import pytest

from tests.observe.made import NOON_NS, SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.observe.drift.drift import MIN_VALUES
from tokenworks.observe.drift.halves import halves
from tokenworks.observe.ledger import Window

HOUR = Window(NOON_NS - 3600 * SECOND_NS, NOON_NS + 60 * SECOND_NS)


def at_seconds(*seconds: float) -> MemoryLedger:
    return MemoryLedger(record(number, NOON_NS + round(at * SECOND_NS)) for number, at in enumerate(seconds))


def test_both_halves_hold_equally_much_and_nothing_beyond_the_first_and_the_last() -> None:
    ledger = at_seconds(*(number / 10 for number in range(100)), *(10 + number / 2 for number in range(100)))
    found = halves(ledger, HOUR)
    assert found is not None
    assert found[0].start_ns == NOON_NS
    assert found[0].end_ns == found[1].start_ns
    assert found[1].end_ns == NOON_NS + round(59.5 * SECOND_NS) + 1
    nums = [ledger.cells(half)[""].requests for half in found]
    assert sum(nums) == 200
    assert nums == pytest.approx([100, 100], abs=10)


@pytest.mark.parametrize(("num", "is_enough"), [(2 * MIN_VALUES - 1, False), (2 * MIN_VALUES + 10, True)])
def test_each_half_needs_enough(num: int, is_enough: bool) -> None:
    assert (halves(at_seconds(*(number / 10 for number in range(num))), HOUR) is not None) == is_enough


def test_what_cannot_be_cut_has_no_halves() -> None:
    assert halves(at_seconds(*(0.0 for _ in range(500))), HOUR) is None
    assert halves(MemoryLedger(), HOUR) is None
    assert halves(at_seconds(*range(200)), Window(NOON_NS - 9, NOON_NS)) is None
