"""A run with nothing before it is compared with its own best stretch, which is all of it where it was good."""

from __future__ import annotations

import pytest

from tests.observe.made import MINUTE_NS, NOON_NS
from tests.observe.scenes import NO_PROMISES, NOW, Scene
from tokenworks.contract.config import Settings
from tokenworks.contract.record import Stage
from tokenworks.observe.diagnose.best_stretch import best_stretch
from tokenworks.observe.diagnose.diagnosis import diagnosis
from tokenworks.observe.ledger import Window

SETTINGS = Settings(objectives=NO_PROMISES)
SLOW = {Stage.DECODE: 1400.0}


def minutes(start: int, end: int) -> Window:
    return Window(NOON_NS + start * MINUTE_NS, NOON_NS + end * MINUTE_NS)


def run_with(slow: Window, num_slow: int = 60) -> Scene:
    """Twelve minutes, of which some were slow."""
    whole, scene = minutes(0, 12), Scene()
    for part in (Window(whole.start_ns, slow.start_ns), Window(slow.end_ns, whole.end_ns)):
        if part.seconds > 0:
            scene.usual(part, int(part.seconds / 4))
    return scene.requests(slow, num_slow, SLOW)


@pytest.mark.parametrize(
    ("slow", "good"),
    [
        (minutes(5, 8), minutes(0, 5)),
        (minutes(0, 7), minutes(7, 12)),
        (minutes(8, 12), minutes(0, 8)),
        (minutes(3, 12), minutes(0, 3)),
    ],
    ids=["middle", "start", "end", "most"],
)
def test_the_stretch_is_all_of_what_was_good(slow: Window, good: Window) -> None:
    best = best_stretch(run_with(slow).ledger(), minutes(-60, 30))
    assert best is not None
    assert abs(best.start_ns - good.start_ns) < MINUTE_NS
    assert abs(best.end_ns - good.end_ns) < MINUTE_NS


@pytest.mark.parametrize("seed", range(5))
def test_a_run_in_which_nothing_is_wrong_is_compared_with_nearly_all_of_it(seed: int) -> None:
    scene = Scene(seed).usual(minutes(0, 12), 200)
    best = best_stretch(scene.ledger(), minutes(0, 12))
    assert best is not None
    assert best.seconds > 0.7 * minutes(0, 12).seconds
    assert diagnosis(scene.ledger(), minutes(0, 12), SETTINGS).findings == []


def test_a_fault_in_a_run_without_a_past_is_found_and_what_it_was_compared_with_is_told() -> None:
    told = diagnosis(run_with(minutes(5, 8)).ledger(), minutes(0, 12), SETTINGS)
    assert told.is_own_baseline
    assert minutes(0, 12).start_ns <= told.baseline.start_ns < told.baseline.end_ns <= minutes(0, 12).end_ns
    assert [finding.rule for finding in told.findings] == ["slowed_down"]


def test_what_came_before_is_what_a_window_is_compared_with_where_there_is_enough() -> None:
    scene = run_with(minutes(5, 8)).usual(minutes(-10, 0), 20)
    told = diagnosis(scene.ledger(), minutes(0, 12), SETTINGS)
    assert (told.baseline.end_ns, told.is_own_baseline) == (minutes(0, 12).start_ns, False)
    few = run_with(minutes(5, 8)).usual(minutes(-10, 0), 19)
    assert diagnosis(few.ledger(), minutes(0, 12), SETTINGS).is_own_baseline


def test_a_baseline_that_was_given_is_used_as_it_is() -> None:
    told = diagnosis(run_with(minutes(5, 8)).ledger(), minutes(0, 12), SETTINGS, baseline=minutes(0, 12))
    assert (told.baseline, told.is_own_baseline) == (minutes(0, 12), False)


def test_too_little_is_compared_with_nothing() -> None:
    assert best_stretch(Scene().usual(NOW, 39).ledger(), NOW) is None
    assert best_stretch(Scene().ledger(), NOW) is None
    assert best_stretch(Scene().usual(NOW, 100).ledger(), minutes(20, 30)) is None


def test_requests_that_never_had_a_token_are_no_reason_to_fail() -> None:
    scene = Scene().usual(NOW, 100, outcome="no_worker", worker="", output=0, gap_ms=1.0)
    best = best_stretch(scene.ledger(), NOW)
    assert best is None or best.seconds > 0
