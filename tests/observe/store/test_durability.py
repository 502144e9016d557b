"""Kills of a real system under load: what clients were answered is in the ledger once, but for what a kill may cost.

How much that is at most is measured by `python -m benchmarks.durability`.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from benchmarks.durability.__main__ import run
from benchmarks.durability.parts import EVERYTHING, GATEWAY, OBSERVER
from benchmarks.durability.verdict import is_right
from tokenworks.contract.config import LedgerSettings


@pytest.mark.slow
def test_nothing_is_lost_but_by_a_kill_of_the_gateway_and_nothing_is_twice(
    settings: LedgerSettings, tmp_path: Path
) -> None:
    both = (GATEWAY, OBSERVER)  # the other database differs behind the observer alone
    found = run(
        tmp_path, [both] if settings.database else [(OBSERVER,), both, EVERYTHING], Random(0), settings.database
    )
    assert is_right(found), found
    assert found.answered > 5
    assert found.worker_lives == (1 if settings.database else 2)
