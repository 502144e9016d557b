"""Tiers of the KV store that turn slow are found in a running system, from its ledger alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from benchmarks.diagnosis.place import TRIES, Place, Visit, visiting
from benchmarks.diagnosis.slow_tiers import DISK, SERVER

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[DISK, SERVER], ids=lambda place: place.rules[0])
def visit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    place: Place = request.param
    if place is SERVER and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: `apt-get install redis-server`, or your system's package")
    with visiting(place, tmp_path_factory.mktemp("tiers")) as visit:
        yield visit


def test_nothing_of_it_is_found_in_a_usual_run(visit: Visit) -> None:
    """Other work on the machine may make a tier slow for a moment, and the rule right; not twice."""
    if visit.clean().keys() & set(visit.place.rules):
        visit.place.settle(visit.system)
        visit.usual = visit.place.usual(visit.system)
        assert not visit.clean().keys() & set(visit.place.rules)


def test_a_fault_of_the_place_is_found(visit: Visit) -> None:
    for fault in visit.place.faults:
        findings = visit.provoked(fault, TRIES)
        finding = fault.finding(findings)
        assert finding is not None, findings
        assert finding["evidence"]
