"""When a figure stood out: the stretch that had the fault, and nothing where all of the window had it."""

from __future__ import annotations

import pytest

from tests.observe.made import MINUTE_NS
from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.contract.config import Settings
from tokenworks.contract.record import Stage
from tokenworks.observe.diagnose.diagnosis import Finding, diagnose
from tokenworks.observe.ledger import Window

FAULTY = Window(NOW.start_ns + 4 * MINUTE_NS, NOW.start_ns + 6 * MINUTE_NS)


def turned_away(scene: Scene, window: Window, count: int) -> Scene:
    return scene.usual(window, count, outcome="no_worker", worker="")


def found(scene: Scene, rule: str) -> Finding:
    """The first finding of a rule."""
    return next(finding for finding in diagnose(scene.ledger(), NOW, Settings()) if finding.rule == rule)


def test_an_outage_is_told_with_its_time() -> None:
    scene = turned_away(Scene().usual(BEFORE, 80).usual(NOW, 120), FAULTY, 20)
    worst = found(scene, "turned_away").worst
    assert worst is not None
    assert FAULTY.start_ns - MINUTE_NS <= worst.start_ns < worst.end_ns <= FAULTY.end_ns + MINUTE_NS


@pytest.mark.parametrize("has_past", [True, False])
def test_a_slow_stretch_of_one_scenario_is_told_with_its_time(has_past: bool) -> None:
    scene = Scene().usual(NOW, 120).requests(FAULTY, 20, {Stage.QUEUE: 3000})
    worst = found(scene.usual(BEFORE, 80) if has_past else scene, "late_by_queue").worst
    assert worst is not None
    assert FAULTY.start_ns - MINUTE_NS <= worst.start_ns < worst.end_ns <= FAULTY.end_ns + MINUTE_NS


def test_a_fault_of_the_whole_window_has_no_time_of_its_own() -> None:
    scene = turned_away(Scene().usual(BEFORE, 80).usual(NOW, 60), NOW, 40)
    assert found(scene, "turned_away").worst is None


def test_an_outage_is_found_in_a_run_without_a_past_though_who_was_served_was_served_well() -> None:
    """Who is turned away has no first token: the best stretch must not be the one with the outage in it."""
    scene = turned_away(Scene().usual(NOW, 200), FAULTY, 30)
    finding = found(scene, "turned_away")
    assert finding.worst is not None
    assert finding.baseline.end_ns <= FAULTY.start_ns or finding.baseline.start_ns >= FAULTY.end_ns
