"""Faults provoked in a running system are found by `tokenworks diagnose`, from its ledger alone.

One system that grows: one worker, two, three. Each fault is compared with usual traffic in the same system, and where
somebody else may speak up too, that is written down with the fault. Rules about speed may speak at any time on a
machine that does other work beside; `python -m benchmarks.diagnosis` makes clean runs in which they must be silent too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.diagnosis.faults import usual_run
from benchmarks.diagnosis.host_faults import FAR, SECOND, join_far, join_second, leave, short_breath
from benchmarks.diagnosis.place import TRIES, Fault, Place, Visit, visiting
from benchmarks.diagnosis.pool import APART, BEHIND, CROWDED, POOL, one_worker
from benchmarks.diagnosis.system import System

pytestmark = pytest.mark.slow

SPEED = frozenset({"slow_worker", "starved_worker", "host_bound", "jitter", "cost_by_speed", "late_by_queue",
    "late_by_prompt", "prefill_interference", "slow_network", "gateway_bound", "slow_client", "uneven_load",
    "slowed_down"})  # fmt: skip
"""What a machine that does other work beside may really have, while the system is as it should be."""


def visited(place: Place, system: System) -> AbstractContextManager[Visit]:
    """The place in a system that runs."""
    return visiting(replace(place, opened=lambda folder: nullcontext(system)), system.folder)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Of one worker, at first."""
    with one_worker(tmp_path_factory.mktemp("pool")) as system:
        yield system


@pytest.fixture(scope="module")
def behind(system: System) -> Iterator[Visit]:
    with visited(BEHIND, system) as visit:
        yield visit


@pytest.fixture(scope="module")
def apart(system: System) -> Iterator[Visit]:
    join_far(system)
    with visited(APART, system) as visit:
        yield visit


@pytest.fixture(scope="module")
def near(system: System) -> System:
    """Without the worker from elsewhere."""
    if FAR in system.workers():
        leave(system)
    return system


@pytest.fixture(scope="module")
def crowded(near: System) -> Iterator[Visit]:
    with visited(CROWDED, near) as visit:
        yield visit


@pytest.fixture(scope="module")
def pool(near: System) -> Iterator[Visit]:
    join_second(near)
    with visited(POOL, near) as visit:
        yield visit


def check(visit: Visit, fault: Fault, *, is_growing: bool = False) -> None:
    """Its rule speaks up.

    A machine that does other work beside may have other troubles at the time: that nothing is invented is for the usual
    run, and for `benchmarks.diagnosis`.
    """
    findings = visit.provoked(fault)
    if fault.finding(findings) is None:
        if is_growing:  # the worker that came comes again
            leave(visit.system)
        else:
            visit.usual = visit.place.usual(visit.system)
        findings = visit.provoked(fault, TRIES)
    finding = fault.finding(findings)
    assert finding is not None, findings
    assert finding["evidence"]


def test_a_fault_of_a_run_without_a_past_is_found_and_tells_whom_it_hurts(system: System) -> None:
    """The first that this system does: a usual run, then a fault. It stands first, and asks the command."""
    usual_run(system, seconds=2.5)
    faulty = short_breath(system)
    told = json.loads(system.run("diagnose", "--json"))
    assert told["is_own_baseline"]
    in_fault_ns = told["baseline"][1] - faulty.start_ns
    assert in_fault_ns < (faulty.end_ns - faulty.start_ns) / 3
    assert SPEED & {finding["rule"] for finding in told["findings"]}
    assert any(each["value"] > each["before"] for finding in told["findings"] for each in finding["hurt"])


@pytest.mark.parametrize("fault", BEHIND.faults, ids=lambda fault: fault.rule)
def test_a_fault_behind_a_starved_gateway_is_found(behind: Visit, fault: Fault) -> None:
    check(behind, fault, is_growing=True)


@pytest.mark.parametrize("fault", APART.faults, ids=lambda fault: fault.rule)
def test_a_fault_of_a_worker_elsewhere_is_found(apart: Visit, fault: Fault) -> None:
    check(apart, fault)


@pytest.mark.parametrize("fault", CROWDED.faults, ids=lambda fault: fault.rule)
def test_a_fault_of_workers_on_one_core_is_found(crowded: Visit, fault: Fault) -> None:
    check(crowded, fault, is_growing=True)


def test_nothing_is_invented_about_a_usual_run(pool: Visit) -> None:
    assert set(pool.clean()) <= SPEED


@pytest.mark.parametrize("fault", POOL.faults, ids=lambda fault: fault.rule)
def test_a_fault_of_a_pool_is_found(pool: Visit, fault: Fault) -> None:
    check(pool, fault)


def test_explain_tells_of_a_request_of_the_running_system(pool: Visit) -> None:
    system = pool.system
    text = system.run("explain", "--slowest", "2")
    assert "went to" in text
    assert "workers" in text
    told = json.loads(system.run("explain", "--last", "--json"))
    assert sum(line["ns"] for line in told["stages"]) == told["e2e_ns"]
    assert json.loads(system.run("explain", told["id"], "--json")) == told


def test_a_rule_of_ones_own_is_asked(pool: Visit, tmp_path: Path) -> None:
    rules = tmp_path / "ours.toml"
    rules.write_text(
        '[[rule]]\nname = "anything"\nover = "worker"\nwhen = "requests > 0"\nsignal = "{subject}: {requests}"\n'
        'cause = "-"\naction = "-"\nmin_requests = 1\n'
    )
    findings = pool.system.diagnose(pool.usual, None, "--rules", str(rules))
    assert {each["subject"] for each in findings if each["rule"] == "anything"} <= {"w0", SECOND}
    assert any(each["rule"] == "anything" for each in findings)
