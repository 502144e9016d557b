"""What records and costs say of themselves."""

from __future__ import annotations

import pytest

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Costs, Leg, Record, Work
from tokenworks.contract.request import Scenario


def test_what_was_saved_is_no_part_of_the_total() -> None:
    costs = Costs({Work.PREFILL: 3, Work.DECODE: 40}, {Tier.HOST: 500}, transfer=6000, energy=70_000, saved=10**9)
    assert costs.total == 76_543
    assert Costs().total == 0


@pytest.mark.parametrize(
    ("outcome", "legs", "is_rejected"),
    [("ok", [Leg("w0")], False), ("no_worker", [], True), ("engine_failed", [Leg("w0")], False), ("ok", [], False)],
)
def test_rejected_is_who_no_worker_had(outcome: str, legs: list[Leg], is_rejected: bool) -> None:
    record = Record("r", 0, 1, "acme", "m", Scenario.ONLINE, outcome, 200, legs=legs)
    assert record.is_rejected == is_rejected
