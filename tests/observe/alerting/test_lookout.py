"""The observer's look-out over the real ledger: what it finds is written down, told, and survives what goes wrong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from tests.observe.drift.test_drift import traffic
from tests.observe.made import HOUR_NS, MINUTE_NS, NOON_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import AlertReceiver, AlertSettings, LedgerSettings, Settings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Gap
from tokenworks.observe.alerting.alert_book import REPEAT_S
from tokenworks.observe.alerting.alerts import DRIFT_EVERY_S, Lookout, look_out
from tokenworks.observe.drift.drift import drift
from tokenworks.observe.drift.traffic_sample import sampled
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.figures import FILE, read_figures
from tokenworks.observe.observer.tasks import TASKS
from tokenworks.observe.store import SqlLedger, open_ledger

SETTINGS = Settings(alerts=AlertSettings(drift_hours=1, drift_reference_hours=1))
PATIENCE_S = 60.0  # a bound for a busy machine, not an expectation


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[SqlLedger]:
    """A ledger in a database."""
    ledger = open_ledger(LedgerSettings(path=str(tmp_path)), is_writing=True)
    yield ledger
    ledger.close()


def broken(at_ns: int, number: int = 20) -> list[object]:
    return [record(each, ended_ns=at_ns, outcome="worker_lost", status=502) for each in range(number)]


def test_what_is_found_is_told_once_and_written_down(kept: SqlLedger, tmp_path: Path) -> None:
    gap = Gap(NOON_NS - 5 * MINUTE_NS, NOON_NS - 4 * MINUTE_NS, 7, "full")
    kept.take_in([*broken(NOON_NS - MINUTE_NS), gap])  # type: ignore[list-item]
    lookout = Lookout(lambda: kept, SETTINGS, tmp_path)
    told = {notice.alert.key for notice in lookout.look(NOON_NS)}
    assert told == {"ErrorBudgetBurn/online/page", "ErrorBudgetBurn/online/ticket", "LedgerGap//ticket"}
    figures = read_figures(tmp_path)
    assert figures is not None
    assert {alert.name for alert in figures.alerts} == {"ErrorBudgetBurn", "LedgerGap"}
    assert (figures.at_ns, figures.missing_frames) == (NOON_NS, 7)
    assert lookout.look(NOON_NS + 30 * 10**9) == []


def test_an_observer_that_restarts_tells_nothing_anew(kept: SqlLedger, tmp_path: Path) -> None:
    kept.take_in(broken(NOON_NS - MINUTE_NS))  # type: ignore[arg-type]
    assert len(Lookout(lambda: kept, SETTINGS, tmp_path).look(NOON_NS)) == 2
    assert Lookout(lambda: kept, SETTINGS, tmp_path).look(NOON_NS + MINUTE_NS) == []
    (tmp_path / FILE).write_text('{"at_ns": "half a fi')
    assert len(Lookout(lambda: kept, SETTINGS, tmp_path).look(NOON_NS + MINUTE_NS)) == 2


def test_drift_is_found_over_the_database_and_looked_for_every_ten_minutes(kept: SqlLedger, tmp_path: Path) -> None:
    before, after = Window(NOON_NS, NOON_NS + HOUR_NS), Window(NOON_NS + HOUR_NS, NOON_NS + 2 * HOUR_NS)
    kept.take_in([*traffic(before, 1), *traffic(after, 2, input_scale=3)])
    lookout = Lookout(lambda: kept, SETTINGS, tmp_path)
    (notice,) = lookout.look(after.end_ns)
    assert (notice.alert.name, notice.alert.subject) == ("Drift", "input_tokens")
    figures = read_figures(tmp_path)
    assert figures is not None
    assert [each.feature for each in figures.drift if each.moved] == ["input_tokens"]
    again = lookout.look(after.end_ns + (DRIFT_EVERY_S - 1) * 10**9)
    assert again == []
    assert (REPEAT_S, lookout.look(after.end_ns + DRIFT_EVERY_S * 10**9)) == (4 * 3600, [])


@pytest.mark.parametrize("limit", [200, 100_000])
def test_a_sample_of_the_database_is_one_of_the_oracle(kept: SqlLedger, limit: int) -> None:
    window = Window(NOON_NS + 7 * MINUTE_NS + 13, NOON_NS + 50 * MINUTE_NS + 5)
    frames = list(traffic(Window(NOON_NS, NOON_NS + HOUR_NS), 3, num=600))
    kept.take_in(frames)
    memory = MemoryLedger(frames)
    found = [each for run in sampled(kept, window, limit) for each in run]
    inside = [ended.record.started_ns for ended in memory.records(window, limit=10_000)]
    assert {each.started_ns for each in found} <= set(inside)
    assert len(found) == pytest.approx(min(limit, len(inside)), rel=0.15)
    wanted = {each.feature: each.moved for each in drift(memory, window, window)}
    assert {each.feature: each.moved for each in drift(kept, window, window)} == wanted


def test_a_ledger_that_fails_is_opened_anew(kept: SqlLedger, tmp_path: Path) -> None:
    opened: list[Callable[[], Ledger]] = []

    def opener() -> Ledger:
        opened.append(opener)
        if len(opened) == 1:
            raise LedgerError("locked")
        return kept

    lookout = Lookout(opener, SETTINGS, tmp_path)
    with pytest.raises(LedgerError):
        lookout.look(NOON_NS)
    assert lookout.look(NOON_NS) == []
    assert lookout.look(NOON_NS + 1) == []
    assert len(opened) == 2


async def test_the_task_tells_each_receiver_what_it_is_to_know_of(
    kept: SqlLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them, of which one is down: it keeps nobody waiting."""
    got: dict[str, asyncio.Queue[str]] = {"/all": asyncio.Queue(), "/pages": asyncio.Queue()}

    async def take(request: web.Request) -> web.Response:
        notice = json.loads(await request.read())
        got[request.path].put_nowait(f"{notice['alert']} {notice['severity']}")
        return web.Response()

    app = web.Application()
    app.router.add_post("/{name}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    others = (AlertReceiver(url="http://127.0.0.1:9/down"), AlertReceiver(url=f"{url}/pages", severities=("page",)))
    alerts = AlertSettings(
        kind="webhook", url=f"{url}/all", secret_variable="HOOK_SECRET", interval_s=1, receivers=others
    )
    ledger_settings = LedgerSettings(path=str(tmp_path))
    kept.take_in(broken(time.time_ns() - 10**9))  # type: ignore[arg-type]
    settings = Settings(alerts=alerts, ledger=ledger_settings)
    context = ObserverContext(settings, tmp_path, partial(open_ledger, ledger_settings), lambda _: None, [])
    task = asyncio.create_task(look_out(context))  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_S):
        told = {await got["/all"].get(), await got["/all"].get()}
        assert await got["/pages"].get() == "ErrorBudgetBurn page"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await runner.cleanup()
    assert told == {"ErrorBudgetBurn page", "ErrorBudgetBurn ticket"}
    assert got["/pages"].empty()
    assert look_out in TASKS
