"""Who is turned away thousands of times a second is counted each time and written down now and then."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.record import Record
from tokenworks.contract.request import Scenario
from tokenworks.gateway.keys.tenants import UNKNOWN, Caller
from tokenworks.gateway.pool.legs import Trail
from tokenworks.gateway.records import floods
from tokenworks.gateway.records.floods import MAX_KINDS, SINGLE_PER_S, Floods
from tokenworks.gateway.records.record import Recording
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import open_ledger
from tokenworks.observe.store.open import open_writing
from tokenworks.observe.tables.table import build_table
from tokenworks.policy.top_names import OTHER

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig

ALL = Window(0, 2**62)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(floods.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def refused(outcome: str = "invalid_api_key", status: int = 401, caller: Caller = UNKNOWN) -> Recording:
    recording = Recording("id", "/v1/completions", None, time.monotonic_ns())
    recording.caller, recording.tags = caller, {"app": "search"}
    recording.ended(outcome, status, time.monotonic_ns())
    return recording


def served() -> Recording:
    recording = refused("ok", 200)
    recording.placed(Trail(time.monotonic_ns()))
    return recording


def test_few_refusals_have_a_record_each(clock: Callable[[float], None]) -> None:
    thinning = Floods()
    for _ in range(3):
        ended = [refused() for _ in range(SINGLE_PER_S)]
        assert thinning.thinned(ended) == ended
        clock(1.0)
    assert thinning.num_together == 0


def test_what_comes_beyond_is_one_record_a_kind_that_says_for_how_many(clock: Callable[[float], None]) -> None:
    thinning = Floods()
    singles = [refused() for _ in range(SINGLE_PER_S)]
    flood = [refused() for _ in range(500)] + [refused("model_not_found", 404) for _ in range(7)]
    random.Random(1).shuffle(flood)
    kept = thinning.thinned([*singles, *flood])
    assert kept[:SINGLE_PER_S] == singles
    assert {each.outcome: each.num_alike for each in kept[SINGLE_PER_S:]} == {
        "invalid_api_key": 500,
        "model_not_found": 7,
    }
    assert all(not each.tags for each in kept[SINGLE_PER_S:])
    assert all(each.tags for each in singles)
    assert thinning.num_together == 507


def test_who_was_served_or_left_is_never_put_together(clock: Callable[[float], None]) -> None:
    ended = [served() for _ in range(300)] + [refused("client_gone", 499) for _ in range(300)]
    assert Floods().thinned(ended) == ended


def test_tenants_scenarios_and_keys_are_kept_apart_until_they_are_too_many(clock: Callable[[float], None]) -> None:
    callers = [Caller(f"tenant-{number}", f"key-{number}", Scenario.OFFLINE) for number in range(1000)]
    thinning = Floods()
    thinning.thinned([refused() for _ in range(SINGLE_PER_S)])
    kept = thinning.thinned([refused(caller=caller) for caller in callers])
    assert len(kept) == MAX_KINDS + 1
    assert sum(each.num_alike for each in kept) == 1000
    assert [each.caller for each in kept[:MAX_KINDS]] == callers[:MAX_KINDS]
    assert kept[-1].caller.tenant == OTHER
    assert kept[-1].num_alike == 1000 - MAX_KINDS


def test_a_flood_is_told_of_once_a_minute(clock: Callable[[float], None], caplog: pytest.LogCaptureFixture) -> None:
    thinning = Floods()
    for _ in range(61):
        thinning.thinned([refused() for _ in range(SINGLE_PER_S + 100)])
        clock(1.0)
    assert [("turned away" in message) for message in caplog.messages] == [True, True]


def test_every_refusal_is_in_journal_ledger_table_and_metrics(
    running_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of wrong keys at a real gateway, between requests that are served."""
    monkeypatch.setattr(floods, "SINGLE_PER_S", 1)  # a busy machine does not come to many a second
    settings = Settings(ledger=LedgerSettings(path=str(tmp_path), flush_s=0.2))
    body = {"prompt": [100, 110], "max_tokens": 2}
    with running_rig(ledger=settings.ledger, auth="off") as rig:
        rig.add_worker()
        for number in range(3):
            assert rig.http.post("/v1/completions", json=body).status_code == 200
            for _ in range(100):
                wrong = {**body, "model": "gpt-9"} if number else {**body, "max_tokens": -1}
                assert rig.http.post("/v1/completions", json=wrong).status_code in (400, 404)
        counted = rig.metrics()
        rig.gateway.begin_drain()
        rig.gateway.wait()
        frames = rig.frames()
    records = [frame for frame in frames if isinstance(frame, Record)]
    alike: Counter[str] = Counter()
    for record in records:
        alike[record.outcome] += record.num_alike
        assert sum(record.stages_ns.values()) == record.e2e_ns
    assert alike == {"ok": 3, "invalid_value": 100, "model_not_found": 200}
    assert len(records) < 303
    with closing(open_writing(settings)) as ledger:
        ledger.take_in(frames)
    with closing(open_ledger(settings.ledger)) as ledger:
        table = build_table(ledger, ALL, settings, by="all", columns=["requests", "invalid_rate"])
        cell = ledger.cells(ALL)[""]
    assert (cell.requests, cell.ok, cell.invalid) == (303, 3, 300)
    assert table.total == {"requests": 303, "invalid_rate": pytest.approx(300 / 303)}
    assert sum(value for name, value in counted.items() if name[0] == "tokenworks_records_total") == 303
    assert counted["tokenworks_tenant_requests_total", "not_promised", "anonymous"] == 300
    durations = "gen_ai_server_request_duration_seconds_count"
    assert sum(value for name, value in counted.items() if name[0] == durations) == 303
