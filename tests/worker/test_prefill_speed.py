"""What steps teach about the speed of computing prompts, and which teach nothing."""

from __future__ import annotations

import pytest

from tests.worker.kv.conftest import card
from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.engine import StepTime
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Chunk, StepPlan
from tokenworks.worker.prefill_speed import PrefillSpeed


def step(rows: int, seconds: float, *, has_failed: bool = False) -> StepTime:
    sequence = Sequence(Request("r", "model", list(range(rows)), Sampling(max_tokens=9)), 8, "f")
    return StepTime(StepPlan((Chunk(sequence, 0, rows, 0),)), 0, int(seconds * 1e9), has_failed)


def test_a_step_twice_as_slow_as_the_card_says_raises_the_prediction() -> None:
    speed = PrefillSpeed(card(1e-3), 512)
    assert speed.seconds(100, 0) == pytest.approx(0.1)
    for _ in range(100):
        speed.observe(step(64, 0.128))
    assert speed.seconds(100, 0) == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("useless", [step(64, 9.0, has_failed=True), step(31, 9.0), step(64, 0.0)])
def test_a_step_that_failed_or_was_no_prompt_or_took_no_time_teaches_nothing(useless: StepTime) -> None:
    speed = PrefillSpeed(card(1e-3), 512)
    speed.observe(useless)
    assert speed.seconds(100, 0) == pytest.approx(0.1)
