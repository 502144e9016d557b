"""Faults that are easily missed: short ones, two at once, one of many, such as change their name or hide in a mix."""

from __future__ import annotations

import pytest

from tests.observe.diagnose.test_diagnosis import FAULTS, SETTINGS, TAIL, clean, found, names, two_tenants
from tests.observe.diagnose.test_innocent import ALL, parts
from tests.observe.made import MINUTE_NS, SECOND_NS
from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.contract.record import Incident, Stage, Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.diagnose.diagnosis import Finding, diagnosis
from tokenworks.observe.ledger import Window

DILUTED = {"slow_worker", "starved_worker", "workers_wait_for_gateway", "cost_by_cache"}
"""What looks at means, or at half of a worker's requests: a fault of half a window is told by what comes of it."""


@pytest.mark.parametrize("rule", [rule for rule in FAULTS if rule not in DILUTED])
def test_a_fault_of_half_a_window_is_found(rule: str) -> None:
    half = Window(NOW.start_ns - (NOW.end_ns - NOW.start_ns), NOW.end_ns)
    told = diagnosis(FAULTS[rule]().ledger(), half, SETTINGS, baseline=Window(BEFORE.start_ns, half.start_ns))
    assert rule in names(told.findings)


@pytest.mark.parametrize("rule", sorted(DILUTED))
def test_a_fault_that_is_diluted_is_told_of_all_the_same(rule: str) -> None:
    half = Window(NOW.start_ns - (NOW.end_ns - NOW.start_ns), NOW.end_ns)
    assert diagnosis(FAULTS[rule]().ledger(), half, SETTINGS, baseline=Window(BEFORE.start_ns, half.start_ns)).findings


def test_two_minutes_of_an_hour_in_which_nobody_was_served_are_found() -> None:
    hour = Window(NOW.end_ns - 60 * MINUTE_NS, NOW.end_ns)
    before = Window(hour.start_ns - 60 * MINUTE_NS, hour.start_ns)
    outage = Window(hour.start_ns + 20 * MINUTE_NS, hour.start_ns + 22 * MINUTE_NS)
    scene = Scene().usual(before, 300).usual(hour, 580).usual(outage, 20, outcome="no_worker", worker="")
    findings = {finding.rule: finding for finding in found(scene, window=hour)}
    assert findings.keys() == {"turned_away"}
    worst = findings["turned_away"].worst
    assert worst is not None
    assert worst.start_ns <= outage.start_ns < outage.end_ns <= worst.end_ns + MINUTE_NS
    assert findings["turned_away"].hurt


def test_one_failure_in_a_hundred_is_found_and_a_single_one_is_not() -> None:
    for count, is_found in ((6, True), (1, False)):
        scene = Scene().usual(BEFORE, 200).usual(NOW, 594).usual(NOW, count, outcome="worker_lost")
        assert ("failing" in names(found(scene))) is is_found


def test_clients_who_wait_in_vain_are_seen_though_no_first_token_is_late() -> None:
    """The system hung: whoever asked gave up before anything came, and left no time to a first token behind."""
    scene = Scene().usual(BEFORE, 200).usual(NOW, 100)
    scene.requests(NOW, 30, {Stage.QUEUE: 30_000}, outcome="client_gone", worker="", output=1)
    findings = {finding.rule: finding for finding in found(scene)}
    assert "leaving_clients" in findings
    assert not findings.keys() & {"late_by_queue", "slowed_down"}


def lost(worker: str, minute: int, lived_s: int) -> Incident:
    at_ns = NOW.start_ns + minute * MINUTE_NS
    return Incident(at_ns, "worker_lost", worker, "exited", at_ns - lived_s * SECOND_NS)


@pytest.mark.parametrize(
    ("losses", "is_loop"),
    [
        ([lost("w0", 1, 5000), lost("w0", 4, 100), lost("w0", 8, 100)], True),
        ([lost("w-x7", 1, 100), lost("w-y2", 4, 100), lost("w-z1", 8, 100)], True),
        ([lost("w0", 1, 5000), lost("w1", 4, 5000), lost("w2", 8, 5000)], False),
        ([lost("w0", 1, 5000)] * 3, False),  # three gateways tell of one
        ([lost("w0", 1, 5000), lost("w0", 4, 100)], False),
        ([lost("w0", minute, 5000 + 60 * minute) for minute in range(3)], True),
    ],
    ids=[
        "one that dies again and again",
        "the same under new names",
        "three old ones",
        "one death",
        "twice",
        "one that falls silent again and again",
    ],
)
def test_a_restart_loop_is_told_by_its_deaths_whatever_the_worker_is_called(
    losses: list[Incident], is_loop: bool
) -> None:
    scene = clean()
    scene.frames += losses
    assert ("restart_loop" in names(found(scene))) is is_loop


def of(findings: list[Finding], rule: str) -> set[str]:
    return {finding.subject for finding in findings if finding.rule == rule}


def test_one_of_four_workers_that_is_slow_is_named() -> None:
    scene = Scene()
    for number in range(4):
        is_slow = number == 2
        scene.worker(ALL, f"w{number}", rates=(10e9, 1e9) if is_slow else (50e9, 5e9))
        scene.usual(BEFORE, 30, worker=f"w{number}")
        scene.requests(NOW, 30, {Stage.DECODE: 1300} if is_slow else {}, worker=f"w{number}")
    assert of(found(scene), "slow_worker") == {"w2"}


def test_a_worker_that_was_slow_for_a_fifth_of_the_window_is_named() -> None:
    start, rest = parts(NOW, 0.2)
    scene = Scene().worker(ALL, "w0").worker(ALL, "w1", rates=(30e9, 3e9))
    for worker in ("w0", "w1"):
        scene.usual(BEFORE, 50, worker=worker).usual(rest, 80, worker=worker)
        scene.requests(start, 20, {Stage.DECODE: 2000} if worker == "w1" else {}, worker=worker)
    assert of(found(scene), "slow_worker") == {"w1"}


def test_the_trouble_of_one_scenario_hides_none_of_another() -> None:
    scene = Scene().usual(BEFORE, 80).usual(BEFORE, 80, scenario=Scenario.REALTIME)
    scene.requests(NOW, 100, slow=(TAIL, {Stage.PREEMPTED: 3000}))
    work_ms = {Work.PREFILL: 20.0, Work.DECODE: 140.0}
    scene.usual(NOW, 60, spikes=(4, 150.0), work_ms=work_ms, scenario=Scenario.REALTIME)
    findings = found(scene)
    assert of(findings, "late_by_preemption") == {"online"}
    assert of(findings, "jitter") == {"realtime"}


def test_a_tenant_whose_prompts_no_longer_begin_alike_is_named_though_another_hides_it() -> None:
    """The other one grows, and finds more: the share of all stays."""
    findings = found(two_tenants(cached=0).usual(NOW, 100))
    assert of(findings, "tenant_cache_collapse") == {"bert"}
    assert not {"cache_collapse", "cache_lost"} & names(findings)


def test_a_fault_from_the_first_moment_on_is_found_without_a_past() -> None:
    """Nothing is better anywhere in the run: what is compared with the others, or counted, speaks up all the same."""
    for rule in ("slow_worker", "restart_loop", "turned_away", "host_bound", "gateway_bound"):
        scene = FAULTS[rule]()
        scene.frames = [frame for frame in scene.frames if getattr(frame, "started_ns", NOW.end_ns) >= NOW.start_ns]
        assert rule in names(found(scene)), rule
