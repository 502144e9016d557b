"""The ledger against the slow and obvious one in memory: the same answers, whatever was rolled up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from random import Random

import pytest

from tests.observe.made import DAY_NS, HOUR_NS, MINUTE_NS, NOON_NS, SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Frame, Stage
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import SqlLedger


def traffic(random: Random, count: int, from_ns: int, until_ns: int) -> list[Frame]:
    tenants, workers = ["anna", "bert", "'; DROP TABLE records; --"], ["w0", "w1", ""]
    return [
        record(
            number,
            random.randrange(from_ns, until_ns),
            random.randrange(SECOND_NS),
            tenant=random.choice(tenants),
            worker=random.choice(workers),
            scenario=random.choice(list(Scenario)),
            outcome=random.choice(["ok", "ok", "ok", "timeout", "client_gone"]),
            tags=random.choice([{}, {"team": "a"}, {"team": "b", "stage": "test"}]),
        )
        for number in range(count)
    ]


def assert_same(found: Cell, wanted: Cell) -> None:
    for name in Cell.__struct_fields__:
        ours, theirs = getattr(found, name), getattr(wanted, name)
        if name == "kv_byte_s":
            assert ours == pytest.approx(theirs)
        else:
            assert ours == theirs, name


def assert_same_groups(found: dict[str, Cell], wanted: dict[str, Cell]) -> None:
    assert set(found) == set(wanted)
    for value, cell in wanted.items():
        assert_same(found[value], cell)


@pytest.mark.parametrize("seed", range(2))
def test_any_window_of_any_group_is_what_single_records_come_to(ledger: SqlLedger, seed: int) -> None:
    random = Random(seed)
    start, end = NOON_NS - 3 * DAY_NS, NOON_NS
    frames = traffic(random, 300, start, end)
    oracle = MemoryLedger(frames)
    for first in range(0, 300, 50):
        ledger.take_in(frames[first : first + 50])
        while random.random() < 0.7 and ledger.keep_up(start + first // 50 * 12 * HOUR_NS):
            pass
    for _ in range(20):
        window = Window(*sorted(random.randrange(start - HOUR_NS, end + HOUR_NS) for _ in range(2)))
        by = random.choice([None, "tenant", "worker", "scenario", "tag:team", "tag:stage", "tag:none"])
        where = random.choice([None, {"tenant": "anna"}, {"tenant": "'; DROP TABLE records; --", "worker": "w1"}])
        assert_same_groups(ledger.cells(window, by, where), oracle.cells(window, by, where))
        by = random.choice([None, "tenant", "worker", "tag:team"])
        where = {**(where or {}), "tag:team": random.choice(["a", "b", "", "none"])}
        assert_same_groups(ledger.cells(window, by, where), oracle.cells(window, by, where))


@pytest.mark.parametrize("days", [0, 10])
def test_a_record_may_stand_for_many(ledger: SqlLedger, days: int) -> None:
    """While the record is whole, which is when windows have odd ends, and when only its line is left."""
    refused = {"outcome": "invalid_api_key", "status": 401, "worker": "", "ttft_ns": None, "output_tokens": 0}
    frames: list[Frame] = [
        record(
            number, NOON_NS + number * 7 * SECOND_NS, 1000, stages_ns={Stage.RECEIVE: 1000}, num_alike=alike, **refused
        )
        for number, alike in enumerate([1, 40, 1, 1000, 5])
    ]
    ledger.take_in([*frames, record(9, NOON_NS)])
    while ledger.keep_up(NOON_NS + days * DAY_NS):
        pass
    oracle = MemoryLedger([*frames, record(9, NOON_NS)])
    odd = [] if days else [Window(NOON_NS + 6 * SECOND_NS, NOON_NS + 22 * SECOND_NS)]
    for window in (Window(NOON_NS, NOON_NS + DAY_NS), *odd):
        found, wanted = ledger.cells(window)[""], oracle.cells(window)[""]
        assert (found.requests, found.invalid, found.e2e_ns) == (wanted.requests, wanted.invalid, wanted.e2e_ns)
    assert ledger.cells(Window(NOON_NS, NOON_NS + DAY_NS))[""].invalid == 1047
    assert sorted(ended.record.num_alike for ended in ledger.records(Window(0, NOON_NS + DAY_NS))) == [
        1,
        1,
        1,
        5,
        40,
        1000,
    ]


@pytest.mark.parametrize("where", [{}, {"tag:team": "b"}, {"tag:team": "", "tenant": "bert"}], ids=str)
def test_a_series_is_cell_after_cell(ledger: SqlLedger, where: dict[str, str]) -> None:
    frames = traffic(Random(1), 100, NOON_NS, NOON_NS + 3 * HOUR_NS)
    ledger.take_in(frames)
    while ledger.keep_up(NOON_NS + 2 * HOUR_NS + 10 * MINUTE_NS):
        pass
    oracle = MemoryLedger(frames)
    for step_ns in (MINUTE_NS, 7 * MINUTE_NS, HOUR_NS, 10 * SECOND_NS):
        start = NOON_NS - NOON_NS % step_ns
        window = Window(start, start + 40 * step_ns)
        found, wanted = ledger.series(window, step_ns, where), oracle.series(window, step_ns, where)
        assert [start for start, _ in found] == [start for start, _ in wanted]
        for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("days", [0, 30])
def test_single_records_are_found_by_how_they_ended(ledger: SqlLedger, days: int) -> None:
    ends = ["ok", "ok", "timeout", "ok", "no_worker", "client_gone", "ok"]
    random = Random(5)
    frames = [
        record(n, NOON_NS + n * MINUTE_NS, random.randrange(SECOND_NS), outcome=ends[n % 7], worker=f"w{n % 2}")
        for n in range(100)
    ]
    ledger.take_in(frames)
    while ledger.keep_up(NOON_NS + days * DAY_NS + HOUR_NS):
        pass
    oracle = MemoryLedger(frames)
    windows = [Window(0, NOON_NS + DAY_NS), Window(NOON_NS + 5 * MINUTE_NS, NOON_NS + 80 * MINUTE_NS)]
    for window, slowest in product(windows, (False, True)):
        counted, there = ledger.outcomes(window), oracle.outcomes(window)
        assert counted | {"ok": 0} == there | {"ok": 0}
        assert counted["ok"] == there["ok"] or (days and window == windows[1])  # to the hour by then
        for outcome, where in product(["", "failed", "nothing", *ends], [{}, {"worker": "w1"}, {"worker": "w9"}]):
            found, wanted = (
                [each.record.id for each in one.records(window, where, 20, slowest=slowest, outcome=outcome)]
                for one in (ledger, oracle)
            )
            assert found == wanted, (outcome, where)


@pytest.mark.parametrize("slowest", [False, True])
@pytest.mark.parametrize("team", ["a", "b", "", "none"])
def test_single_records_are_found_by_a_tag_as_long_as_they_are_whole(
    ledger: SqlLedger, team: str, slowest: bool
) -> None:
    frames = traffic(Random(3), 100, NOON_NS, NOON_NS + 3 * HOUR_NS)
    ledger.take_in(frames)
    oracle = MemoryLedger(frames)
    for where in ({"tag:team": team}, {"tag:team": team, "tenant": "anna"}):
        for window in (Window(NOON_NS, NOON_NS + 3 * HOUR_NS), Window(NOON_NS + HOUR_NS + 7, NOON_NS + 2 * HOUR_NS)):
            found, wanted = (each.records(window, where, 10, slowest=slowest) for each in (ledger, oracle))
            assert [ended.record.id for ended in found] == [ended.record.id for ended in wanted]
    while ledger.keep_up(NOON_NS + 30 * DAY_NS):
        pass
    assert list(ledger.records(Window(NOON_NS, NOON_NS + DAY_NS), {"tag:team": team})) == []


def test_cells_are_kept_for_one_tag_at_a_time(ledger: SqlLedger) -> None:
    window = Window(NOON_NS, NOON_NS + HOUR_NS)
    with pytest.raises(LedgerError, match="tag:stage with tag:team"):
        ledger.cells(window, "tag:team", {"tag:stage": "test"})
    with pytest.raises(LedgerError, match="'colour' is nothing to group or filter by"):
        ledger.series(window, HOUR_NS, {"colour": "red"})


def test_tags_of_a_window_are_known_by_their_keys(ledger: SqlLedger) -> None:
    frames = traffic(Random(2), 60, NOON_NS, NOON_NS + HOUR_NS)
    ledger.take_in([*frames, record(99, NOON_NS + 5 * HOUR_NS + 1, tags={"late": "1"})])
    for _ in range(2):
        assert ledger.tags(Window(NOON_NS, NOON_NS + HOUR_NS)) == ["stage", "team"]
        assert ledger.tags(Window(NOON_NS + 2 * HOUR_NS, NOON_NS + 6 * HOUR_NS)) == ["late"]
        assert ledger.tags(Window(NOON_NS + 2 * HOUR_NS, NOON_NS + 3 * HOUR_NS)) == []
        while ledger.keep_up(NOON_NS + 20 * DAY_NS):  # minutes go, hours stay
            pass


def test_two_writers_take_turns(settings: LedgerSettings, opened: Callable[..., SqlLedger]) -> None:
    """As observers of two machines do, with one PostgreSQL; they meet in the same cells."""
    ledgers = [opened(settings) for _ in range(2)]

    def write(writer: int) -> None:
        for number in range(10):
            ledgers[writer].take_in([record(number, tenant=f"t{number}", id=f"{writer}-{number}", tags={"a": "b"})])

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(2)))
    window = Window(NOON_NS, NOON_NS + HOUR_NS)
    assert {tenant: cell.requests for tenant, cell in ledgers[0].cells(window, "tenant").items()} == {
        f"t{number}": 2 for number in range(10)
    }
    assert ledgers[0].cells(window, "tag:a")["b"].requests == 20
    assert len(list(ledgers[1].records(window))) == 20
