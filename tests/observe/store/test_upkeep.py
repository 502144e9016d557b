"""Roll-up and retention: what is dropped when, and that sums never change by it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.observe.made import DAY_NS, HOUR_NS, MINUTE_NS, NOON_NS, SECOND_NS, record
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.record import Gap, Incident
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Span, Window
from tokenworks.observe.store import SqlLedger
from tokenworks.observe.store.tag_limits import MAX_KEYS, MAX_VALUES, OTHER

ALL = Window(0, 2 * NOON_NS)
TRACE = "0123456789abcdef0123456789abcdef"


def keep_up(ledger: SqlLedger, now_ns: int) -> None:
    while ledger.keep_up(now_ns):
        pass


def rows(ledger: SqlLedger, what: str) -> int:
    with ledger._database.reading() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {what}").scalar() or 0)


def test_details_go_first_and_records_later_and_sums_stay(ledger: SqlLedger) -> None:
    ledger.take_in(
        [record(number, NOON_NS + number * MINUTE_NS, trace_id=TRACE, tags={"a": "b"}) for number in range(99)]
        + [record(99, NOON_NS + 99 * MINUTE_NS, outcome="timeout")]
        + [Incident(NOON_NS, "joined", "w0"), Gap(NOON_NS, NOON_NS + 1, 7, "why")],
        [Span(TRACE, "0123456789abcdef", "", "rag", "search", "server", NOON_NS, 5)],
    )
    total, found = ledger.cells(ALL), ledger.record("req-5")
    assert found == ledger.record("req-5")
    assert ledger.record(TRACE) is not None
    keep_up(ledger, NOON_NS + 20 * DAY_NS)
    assert [rows(ledger, what) for what in ("details", "spans", "cells WHERE level = 1")] == [0, 0, 0]
    assert ledger.cells(ALL) == total
    compact = ledger.record("req-5")
    assert found is not None
    assert compact is not None
    assert (compact.record.e2e_ns, compact.record.prompt_tokens, compact.costs) == (SECOND_NS, 10, found.costs)
    assert compact.record.tags == {}
    assert ledger.record(TRACE) is None
    assert len(list(ledger.records(ALL))) == 100
    assert rows(ledger, "failures") == 1
    keep_up(ledger, NOON_NS + 200 * DAY_NS)
    assert [rows(ledger, what) for what in ("records", "names", "failures", "events")] == [0, 0, 0, 0]
    assert ledger.record("req-5") is None
    assert ledger.cells(ALL) == total
    assert ledger.extent() == (NOON_NS, NOON_NS + HOUR_NS + 1)


def test_what_comes_late_is_in_minutes_hours_and_days(ledger: SqlLedger) -> None:
    ledger.take_in([record(1, NOON_NS)])
    keep_up(ledger, NOON_NS + 3 * DAY_NS)
    ledger.take_in([record(2, NOON_NS + SECOND_NS), record(3, NOON_NS - 5 * HOUR_NS)])
    day = NOON_NS - NOON_NS % DAY_NS
    for window in (Window(day, day + DAY_NS), Window(day + HOUR_NS, day + DAY_NS), Window(day + 1, day + DAY_NS)):
        assert ledger.cells(window)[""].requests == 3


def test_the_hour_that_runs_is_not_made_yet(ledger: SqlLedger) -> None:
    ledger.take_in([record(1, NOON_NS), record(2, NOON_NS + HOUR_NS)])
    keep_up(ledger, NOON_NS + HOUR_NS + 10 * MINUTE_NS)
    assert rows(ledger, "cells WHERE level = 2") == 1
    keep_up(ledger, NOON_NS + 2 * HOUR_NS + 10 * MINUTE_NS)
    assert rows(ledger, "cells WHERE level = 2") == 2
    assert rows(ledger, "cells WHERE level = 3") == 0


def test_a_record_from_a_clock_far_ahead_disturbs_nothing(ledger: SqlLedger) -> None:
    ledger.take_in([record(1, NOON_NS), record(2, NOON_NS + 4000 * DAY_NS), record(3, 2**63 - 1), record(4, 10)])
    keep_up(ledger, NOON_NS + DAY_NS)
    ledger.take_in([record(5, NOON_NS + DAY_NS)])
    assert ledger.cells(Window(NOON_NS, NOON_NS + 2 * DAY_NS))[""].requests == 2
    assert ledger.cells(Window(0, 2**62))[""].requests == 4


def test_records_that_end_in_the_same_nanosecond_are_all_kept(ledger: SqlLedger) -> None:
    ledger.take_in([record(number) for number in range(10)])
    ledger.take_in([record(number) for number in range(10, 20)])
    assert ledger.cells(Window(NOON_NS, NOON_NS + SECOND_NS))[""].requests == 20
    assert {ended.record.id for ended in ledger.records(ALL)} == {f"req-{number}" for number in range(20)}


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_many_distinct_tags_make_few_cells(ledger: SqlLedger) -> None:
    made = [record(n, NOON_NS + n, tags={"user": f"u{n}", f"key{n}": "x"}) for n in range(1000)]
    for first in range(0, 1000, 250):
        ledger.take_in(made[first : first + 250])
    found = ledger.cells(Window(NOON_NS, NOON_NS + HOUR_NS), "tag:user")
    assert len(found) == MAX_VALUES + 1
    assert found[OTHER].requests == 1000 - MAX_VALUES
    edge = ledger.cells(Window(NOON_NS + 10, NOON_NS + 1000), "tag:user")
    assert sum(cell.requests for cell in edge.values()) == 990
    assert len(edge) <= MAX_VALUES + 1
    hour = Window(NOON_NS, NOON_NS + HOUR_NS)
    for value, count in ((OTHER, 1000 - MAX_VALUES), ("u5", 1), ("u999", 0)):
        where = {"tag:user": value}
        assert sum(cell.requests for cell in ledger.cells(hour, "tenant", where).values()) == count
        assert len(list(ledger.records(hour, where, limit=2000))) == count
    with ledger._database.reading() as connection:
        keys = connection.exec_driver_sql("SELECT count(DISTINCT tag_key) FROM cells").scalar()
    assert keys <= MAX_KEYS + 2
    assert rows(ledger, "words") <= MAX_KEYS + MAX_VALUES + 2


def test_the_limit_of_tags_holds_over_a_restart(
    settings: LedgerSettings, opened: Callable[..., SqlLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenworks.observe.store.tag_limits.MAX_VALUES", 3)
    for part in range(4):
        opened(settings).take_in(
            [record(n, NOON_NS + n, tags={"user": f"u{n}"}) for n in range(part * 5, part * 5 + 5)]
        )
    found = opened(settings, is_writing=False).cells(Window(NOON_NS, NOON_NS + HOUR_NS), "tag:user")
    assert {value: cell.requests for value, cell in found.items()} == {"u0": 1, "u1": 1, "u2": 1, OTHER: 17}


@pytest.mark.parametrize("name", ["'; DROP TABLE records; --", 'a"b`c\\', "nul\0inside", "ü" * 3000, "", "%_"])
def test_any_name_is_a_name(ledger: SqlLedger, name: str) -> None:
    ledger.take_in([record(1, tenant=name, model=name, worker="w" + name, tags={name: name}), record(2)])
    found = ledger.cells(Window(NOON_NS, NOON_NS + SECOND_NS), "tenant", {"tenant": name})
    assert [cell.requests for cell in found.values()] == [1]
    tagged = ledger.cells(Window(NOON_NS, NOON_NS + SECOND_NS), f"tag:{name}")
    assert sum(cell.requests for cell in tagged.values()) == 2
    assert len(tagged) == (2 if name else 1)
    stored = ledger.record("req-1")
    assert stored is not None
    assert stored.record.tenant == name


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)  # PostgreSQL gives space back by itself
def test_space_is_given_back(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenworks.observe.store.database.SPARE_PAGES", 10)
    ledger.take_in([record(number, NOON_NS + number, gaps_us=os.urandom(2000)) for number in range(1000)])

    def pages() -> int:
        with ledger._database.reading() as connection:
            return int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)

    before = pages()
    keep_up(ledger, NOON_NS + 20 * DAY_NS)
    assert pages() < before / 2


def test_nothing_kept_is_an_empty_ledger(ledger: SqlLedger) -> None:
    assert ledger.extent() is None
    assert ledger.cells(ALL) == {}
    assert ledger.workers(ALL) == []
    assert ledger.series(Window(NOON_NS, NOON_NS + HOUR_NS), HOUR_NS) == [(NOON_NS, Cell())]
    assert not ledger.keep_up(NOON_NS)
