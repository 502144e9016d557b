"""Short memory, dying workers and lost records are found in a running system of one worker, from its ledger alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.diagnosis.bad_checkpoint import BAD_CHECKPOINT
from benchmarks.diagnosis.one_worker import ONE_WORKER
from benchmarks.diagnosis.place import TRIES, Fault, Visit, visiting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    with visiting(ONE_WORKER, tmp_path_factory.mktemp("one-worker")) as visit:
        yield visit


def test_nothing_of_it_is_found_in_a_usual_run(visit: Visit) -> None:
    """Of this system's rules; those about speed may speak on a machine that does other work beside."""
    assert not visit.clean().keys() & set(ONE_WORKER.rules)


@pytest.mark.parametrize("fault", ONE_WORKER.faults, ids=lambda fault: fault.rule)
def test_a_fault_is_found(visit: Visit, fault: Fault) -> None:
    findings = visit.provoked(fault, TRIES)
    finding = fault.finding(findings)
    assert finding is not None, findings
    assert finding["evidence"]


def test_a_worker_that_cannot_start_is_found_and_who_is_turned_away_for_it(tmp_path: Path) -> None:
    with visiting(BAD_CHECKPOINT, tmp_path) as visit:
        assert not visit.findings(visit.usual).keys() & set(BAD_CHECKPOINT.rules)
        found = {fault.rule: fault.finding(visit.provoked(fault)) for fault in BAD_CHECKPOINT.faults}
    unready, refused = found["worker_cannot_start"], found["turned_away"]
    assert unready is not None
    assert unready["signal"].startswith("Workers that died before they were ready")
    assert refused is not None
    assert refused["hurt"]
