"""Which request is explained where nobody names one: by time, by rank, by how it ended."""

from __future__ import annotations

import pytest

from tests.observe.conftest import MakeLedger
from tests.observe.made import NOON_NS, SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import Settings
from tokenworks.contract.errors import NotFound
from tokenworks.observe.diagnose.pick import pick
from tokenworks.observe.ledger import Ledger, Window


@pytest.fixture
def mixed(make_ledger: MakeLedger) -> Ledger:
    """Twelve requests, the earlier the slower, of which numbers 0, 4 and 8 were turned away and 6 was lost."""
    ends = {0: "no_worker", 4: "no_worker", 8: "no_worker", 6: "worker_lost"}
    frames = (
        record(at, NOON_NS + at * SECOND_NS, e2e_ns=SECOND_NS * (20 - at), outcome=ends.get(at, "ok"))
        for at in range(12)
    )
    return make_ledger(frames, Settings())


def test_last_and_slowest_are_picked_by_rank(mixed: Ledger) -> None:
    assert [pick(mixed, None, is_slowest=False, rank=rank) for rank in (1, 3)] == ["req-11", "req-9"]
    assert pick(mixed, None, is_slowest=True) == "req-0"
    with pytest.raises(NotFound, match=r"only 12 records in this window; give a number up to 12"):
        pick(mixed, None, is_slowest=True, rank=13)
    with pytest.raises(NotFound, match="no single records yet"):
        pick(mixed, Window(0, 1), is_slowest=True)
    with pytest.raises(NotFound, match="no single records yet"):
        pick(MemoryLedger(), None, is_slowest=False)


def test_an_outcome_is_looked_for_by_time_and_by_rank(mixed: Ledger) -> None:
    latest = [pick(mixed, None, is_slowest=False, rank=rank, outcome="no_worker") for rank in (1, 2, 3)]
    assert latest == ["req-8", "req-4", "req-0"]
    assert pick(mixed, None, is_slowest=True, outcome="worker_lost") == "req-6"
    assert [pick(mixed, None, is_slowest=False, rank=rank, outcome="failed") for rank in (1, 2)] == ["req-8", "req-6"]
    assert [pick(mixed, None, is_slowest=True, rank=rank, outcome="failed") for rank in (1, 2)] == ["req-0", "req-4"]
    assert [pick(mixed, None, is_slowest=slow, outcome="ok") for slow in (False, True)] == ["req-11", "req-1"]


def test_an_outcome_that_nothing_has_is_answered_with_those_that_there_are(mixed: Ledger) -> None:
    with pytest.raises(
        NotFound, match=r"of the 12 .* 'no_workr': did you mean no_worker\?.* ok \(8\), no_worker \(3\)"
    ):
        pick(mixed, None, is_slowest=False, outcome="no_workr")
    with pytest.raises(NotFound, match="only 3 records that ended as 'no_worker'"):
        pick(mixed, None, is_slowest=False, rank=4, outcome="no_worker")
