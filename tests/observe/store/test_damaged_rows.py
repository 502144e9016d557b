"""Rows that the disk has changed in a database that is otherwise whole: what is told, and that the rest goes on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.observe.made import DAY_NS, NOON_NS, SECOND_NS, record, span, worker_sample
from tokenworks.contract.config import CostSettings, LedgerSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Gap, Incident, StoreSample
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import SqlLedger, database
from tokenworks.observe.store.periods import HOUR_NS
from tokenworks.observe.store.schema import tables

ALL = Window(0, 2 * NOON_NS)
TRACE = "ab" * 16
PACKED = [table.name for table in tables.sorted_tables if "body" in table.c]
Opened = Callable[..., SqlLedger]


def test_a_body_that_the_disk_changed_is_told_and_the_rest_goes_on(
    settings: LedgerSettings, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = opened(settings)
    ledger.take_in([record(1), record(2, tenant="bert")])
    with ledger._database.writing() as connection:
        statement = database.sa.text("UPDATE cells SET body = :body WHERE dimension = 1")
        connection.execute(statement, {"body": b"\1\xff\xff"})
    with pytest.raises(LedgerError, match="cannot be read"):
        ledger.cells(Window(0, NOON_NS + DAY_NS))
    ledger.take_in([record(3), record(4, tenant="bert")])
    assert ledger.cells(Window(0, NOON_NS + DAY_NS), "tenant")["anna"].requests == 1
    assert ledger.cells(Window(0, NOON_NS + DAY_NS), "tenant")["bert"].requests == 2
    assert "is damaged" in ledger.gaps(ALL)[0].reason


def test_an_hour_that_is_made_of_a_damaged_minute_says_what_is_missing(
    settings: LedgerSettings, opened: Opened
) -> None:
    ledger = opened(settings)
    ledger.take_in([record(1)])
    with ledger._database.writing() as connection:
        connection.execute(database.sa.text("UPDATE cells SET body = :body"), {"body": b"\1\xff"})
    while ledger.keep_up(NOON_NS + 3 * HOUR_NS):
        pass
    (gap,) = ledger.gaps(ALL)
    assert (gap.until_ns - gap.from_ns, gap.reason[:20]) == (HOUR_NS, "a cell of one minute")


def store_sample(second: int) -> StoreSample:
    return StoreSample(NOON_NS + second * SECOND_NS, "kv0", started_ns=NOON_NS, alive_ns=second * SECOND_NS)


@pytest.mark.parametrize("table", PACKED)
def test_bodies_that_the_disk_changed_stop_neither_taking_in_nor_retention(
    settings: LedgerSettings, opened: Opened, table: str
) -> None:
    ledger = opened(msgspec.structs.replace(settings, detail_days=1.0, record_days=2.0))
    ledger.note_prices(CostSettings(), NOON_NS)
    happened = [Incident(NOON_NS, "worker_lost", "w0"), Gap(NOON_NS, NOON_NS, 1)]
    told = [worker_sample(NOON_NS, 1, 1), store_sample(1), *happened, record(1, trace_id=TRACE)]
    ledger.take_in(told, [span("cd" * 8, 0, 1, trace_id=TRACE)])
    with ledger._database.writing() as connection:
        assert connection.execute(database.sa.text(f"UPDATE {table} SET body = :body"), {"body": b"\1\xff"}).rowcount
        if table == "records":  # which are read where there are no details any more
            connection.execute(database.sa.text("DELETE FROM details"))

    def ask() -> list[object]:
        return [
            *(ledger.cells(ALL), list(ledger.records(ALL)), ledger.workers(ALL), ledger.stores(ALL)),
            *(ledger.prices(ALL), ledger.incidents(ALL), ledger.gaps(ALL), ledger.spans(TRACE)),
        ]

    with pytest.raises(LedgerError, match="cannot be read"):
        ask()
    ledger.note_prices(CostSettings(energy_per_kwh=1.0), NOON_NS + 5)
    ledger.take_in([worker_sample(NOON_NS + SECOND_NS, 2, 2), store_sample(2), record(2)])
    while ledger.keep_up(NOON_NS + 4 * DAY_NS):
        pass
    with ledger._database.reading() as connection:
        for name in ("records", "details", "spans", "events"):
            assert not connection.execute(database.sa.text(f"SELECT COUNT(*) FROM {name}")).scalar(), name
