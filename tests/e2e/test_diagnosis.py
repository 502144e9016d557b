"""Faults provoked in a running system are found by `tokenworks diagnose`, from its ledger alone.

One system that grows: one worker, two, three. Each fault is compared with usual traffic in the same system, and where
somebody else may speak up too, that is written down with the fault. Rules about speed may speak at any time on a
machine that does other work beside; `python -m benchmarks.diagnosis` makes clean runs in which they must be silent too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest

from benchmarks.diagnosis.host_faults import SECOND_WORKER, join_second
from benchmarks.diagnosis.place import Fault, Findings, Place, Visit, visiting
from benchmarks.diagnosis.pool import BEGINNING, GROWN, POOL, one_worker
from benchmarks.diagnosis.system import System

pytestmark = pytest.mark.slow

TRIES = 2
"""A machine that does other work beside may hide a fault of two seconds; not twice."""
SPEED = frozenset({"slow_worker", "starved_worker", "host_bound", "jitter", "cost_by_speed", "late_by_queue",
    "late_by_prompt", "prefill_interference", "slow_network", "gateway_bound", "slow_client", "uneven_load",
    "slowed_down"})  # fmt: skip
"""What a machine that does other work beside may really have, while the system is as it should be."""


def here(place: Place, system: System) -> Place:
    """The place in a system that runs."""
    return replace(place, opened=lambda folder: nullcontext(system))


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("pool")
    with one_worker(folder) as system, visiting(here(BEGINNING, system), folder) as visit:
        yield visit


@pytest.fixture(scope="module")
def pool(beginning: Visit) -> Iterator[Visit]:
    if SECOND_WORKER not in beginning.system.workers():
        join_second(beginning.system)
    with visiting(here(POOL, beginning.system), beginning.system.folder) as visit:
        yield visit


@pytest.fixture(scope="module")
def grown(pool: Visit) -> Iterator[Visit]:
    with visiting(here(GROWN, pool.system), pool.system.folder) as visit:
        yield visit


def check(visit: Visit, fault: Fault) -> None:
    """Its rule speaks up, and nobody whose business it is not."""
    findings: Findings = visit.provoked(fault, TRIES)
    assert fault.rule in findings, findings
    assert findings[fault.rule]["evidence"]
    assert set(findings) <= {fault.rule} | fault.also | SPEED


@pytest.mark.parametrize("fault", BEGINNING.faults, ids=lambda fault: fault.rule)
def test_a_fault_of_a_system_that_begins_is_found(beginning: Visit, fault: Fault) -> None:
    check(beginning, fault)


def test_nothing_is_invented_about_a_usual_run(pool: Visit) -> None:
    assert set(pool.clean()) <= SPEED


@pytest.mark.parametrize("fault", POOL.faults, ids=lambda fault: fault.rule)
def test_a_fault_of_a_pool_is_found(pool: Visit, fault: Fault) -> None:
    check(pool, fault)


@pytest.mark.parametrize("fault", GROWN.faults, ids=lambda fault: fault.rule)
def test_a_fault_of_a_pool_that_grew_is_found(grown: Visit, fault: Fault) -> None:
    check(grown, fault)
