"""Faults provoked in a running system are found by `tokenworks diagnose`, from its ledger alone.

Each is compared with the same traffic without the fault, in the same system. Rules about speed are held here where the
fault is far larger than what a busy machine does; `python -m benchmarks.diagnosis` provokes the rest and makes the
clean runs in which every rule must stay silent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.diagnosis.faults import POOL, POOL_FAULTS, SMALL, SMALL_FAULTS, usual_of_one, usual_run
from benchmarks.diagnosis.place import Fault
from benchmarks.diagnosis.system import System, running
from tokenworks.observe.ledger import Window

pytestmark = pytest.mark.slow

Running = tuple[System, Window, dict[object, Window]]
HERE = {"slow_worker", "noisy_neighbour", "cache_collapse", "cost_by_cache", "slow_client", "wrong_requests",
        "cost_by_waste", "worker_lost"}  # fmt: skip
THERE = {
    "preemption_thrashing"
}  # evictions are told every five seconds: `python -m benchmarks.diagnosis` waits so long
SPEED = {"slow_worker", "starved_worker", "host_bound", "jitter", "cost_by_speed", "late_by_queue", "late_by_prompt",
         "prefill_interference", "slow_network", "gateway_bound", "slow_client", "uneven_load"}  # fmt: skip
"""What a machine that does other work beside may really have, while the system is as it should be."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A system, its usual run, and what was provoked in it."""
    with running(tmp_path_factory.mktemp("pool"), *POOL, workers=2) as system:
        yield system, usual_run(system), {}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("small"), *SMALL) as system:
        yield system, usual_run(system, usual_of_one), {}


TRIES = 2
"""A machine that does other work beside may hide a fault of two seconds; not twice."""


def found(at: Running, fault: Fault) -> dict[str, dict[str, object]]:
    """Findings by rule; a fault that two rules find is provoked once, and again where its rule does not find it."""
    system, usual, windows = at
    findings: dict[str, dict[str, object]] = {}
    for attempt in range(TRIES):
        if attempt or fault.provoke not in windows:
            windows[fault.provoke] = fault.provoke(system)
        findings = {str(each["rule"]): each for each in system.diagnose(windows[fault.provoke], usual)}
        if fault.rule in findings:
            break
    return findings


def test_nothing_is_invented_about_a_usual_run(pool: Running) -> None:
    system, usual, _ = pool
    rules = {each["rule"] for each in system.diagnose(usual_run(system, seconds=4.0), usual)}
    assert rules <= SPEED


@pytest.mark.parametrize("fault", [fault for fault in POOL_FAULTS if fault.rule in HERE], ids=lambda fault: fault.rule)
def test_a_fault_of_a_pool_is_found(pool: Running, fault: Fault) -> None:
    findings = found(pool, fault)
    assert fault.rule in findings, findings
    assert findings[fault.rule]["evidence"]


@pytest.mark.parametrize(
    "fault", [fault for fault in SMALL_FAULTS if fault.rule in THERE], ids=lambda fault: fault.rule
)
def test_a_fault_of_a_system_short_of_memory_is_found(small: Running, fault: Fault) -> None:
    assert fault.rule in found(small, fault)


def test_explain_tells_of_a_request_of_the_running_system(pool: Running) -> None:
    system, _, _ = pool
    text = system.run("explain", "--slowest", "2")
    assert "went to" in text
    assert "workers" in text
    told = json.loads(system.run("explain", "--last", "--json"))
    assert sum(line["ns"] for line in told["stages"]) == told["e2e_ns"]
    assert json.loads(system.run("explain", told["id"], "--json")) == told


def test_a_rule_of_ones_own_is_asked(pool: Running, tmp_path: Path) -> None:
    system, usual, _ = pool
    rules = tmp_path / "ours.toml"
    rules.write_text(
        '[[rule]]\nname = "anything"\nover = "worker"\nwhen = "requests > 0"\nsignal = "{subject}: {requests}"\n'
        'cause = "-"\naction = "-"\nmin_requests = 1\n'
    )
    findings = system.diagnose(usual, None, "--rules", str(rules))
    assert {each["subject"] for each in findings if each["rule"] == "anything"} <= {"w0", "w1"}
    assert any(each["rule"] == "anything" for each in findings)
