"""What several gateways tell of one worker, as a signal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tokenworks.contract.record import Incident
from tokenworks.observe.diagnose.use_signals import USE_SIGNALS


@pytest.mark.parametrize(("lives", "num_lost"), [((5, 5), 1), ((5, 6), 2), ((5, 5, 6, 6), 2), ((0, 0), 2), ((), 0)])
def test_a_life_that_several_gateways_lost_was_lost_once(lives: tuple[int, ...], num_lost: int) -> None:
    """Where the life is not known, each is one of its own."""
    lost = [Incident(100 + number, "worker_lost", "w0", life_ns=life) for number, life in enumerate(lives)]
    side = SimpleNamespace(incidents=[*lost, Incident(1, "worker_left", "w0", life_ns=9)])
    [read] = [read for name, (_, _, read) in USE_SIGNALS.items() if "lost" in name]
    assert read(side) == num_lost  # type: ignore[arg-type]
