"""The table: each figure against the records themselves, computed once more by hand."""

from __future__ import annotations

import math
import random
from array import array

import numpy as np
import pytest

from tests.observe.conftest import MakeLedger
from tests.observe.made import NOON_NS, worker_sample
from tests.observe.memory_ledger import end_of
from tests.observe.tables.test_bill import DAY, HOUR_NS, disclosed_day
from tokenworks.cli.table_page import table_notes
from tokenworks.contract.config import CostSettings, ObjectiveSettings, Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import (
    Frame,
    Gap,
    Leg,
    Record,
    SequenceReport,
    Stage,
    Work,
    WorkerSample,
    WorkerUse,
)
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import SKETCHES, Cell
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.sketch import ERROR
from tokenworks.observe.tables.columns import COLUMNS, PERCENTILES, columns_named, preset_columns
from tokenworks.observe.tables.facts import Facts, Machines
from tokenworks.observe.tables.presets import PRESETS
from tokenworks.observe.tables.quantities import quantity
from tokenworks.observe.tables.table import Table, build_table

SECOND_NS = 10**9
START_NS = 1_772_359_200 * SECOND_NS
WINDOW = Window(START_NS, START_NS + 600 * SECOND_NS)
SETTINGS = Settings(objectives=ObjectiveSettings(online_ttft_s=1.0), cost=CostSettings(energy_per_kwh=0.2))
OUTCOMES = ["ok"] * 8 + ["deadline_exceeded", "client_gone", "engine_failed", "no_worker"]


def mixed_records(count: int = 300, seed: int = 1) -> list[Record]:
    """All kinds of ends, scenarios, tenants and versions, on two workers."""
    chance = random.Random(seed)
    return [_record(number, chance) for number in range(count)]


def _record(number: int, chance: random.Random) -> Record:
    outcome = chance.choice(OUTCOMES)
    e2e_ns = int(chance.lognormvariate(0, 1) * SECOND_NS)
    queue_ns = e2e_ns // 10
    ended_ns = WINDOW.start_ns + int(chance.random() * 600 * SECOND_NS)
    version, output = chance.choice(["old", "new"]), chance.randrange(2, 50)
    report = SequenceReport(
        stages_ns={Stage.QUEUE: queue_ns, Stage.DECODE: e2e_ns - queue_ns},
        device_ns={Work.PREFILL: chance.randrange(10**8), Work.DECODE: chance.randrange(10**9)},
        recomputed_tokens=chance.randrange(3),
        draft_tokens=8,
        rejected_tokens=chance.randrange(8),
        preemptions=chance.randrange(2),
        fetched_bytes={Tier.HOST: chance.randrange(1000)},
        published_bytes=500,
    )
    leg = Leg(f"w-{version}", span_ns=e2e_ns, report=report, price_per_hour=1.5, watts=200.0, saved_ns=10**7)
    return Record(
        f"r{number}",
        ended_ns - e2e_ns,
        e2e_ns,
        chance.choice(["acme", "zeta", "'; DROP TABLE cells; --"]),
        "m",
        chance.choice(list(Scenario)),
        outcome,
        200,
        version=version,
        tags={"user": f"u{number % 7}"},
        prompt_tokens=chance.randrange(100, 1000),
        cached_tokens={Tier.DEVICE: chance.randrange(50), Tier.HOST: chance.randrange(50)},
        output_tokens=output,
        ttft_ns=e2e_ns // 4,
        gaps_us=array("I", [chance.randrange(1, 10**5) for _ in range(output - 1)]).tobytes(),
        stages_ns={Stage.QUEUE: queue_ns, Stage.DECODE: e2e_ns - queue_ns},
        legs=[] if outcome == "no_worker" else [leg],
    )


def workers_of(records: list[Record]) -> list[Frame]:
    """Two workers that lived through the window, and whose steps are exactly what the records say."""
    frames: list[Frame] = []
    for version in ("old", "new"):
        legs = [leg for record in records for leg in record.legs if leg.worker == f"w-{version}"]
        steps = {w: sum(leg.report.device_ns[w] for leg in legs if leg.report) for w in (Work.PREFILL, Work.DECODE)}
        wall_ns = 600 * SECOND_NS
        use = WorkerUse(
            WINDOW.start_ns,
            wall_ns,
            steps,
            between_ns=SECOND_NS,
            idle_ns=wall_ns - SECOND_NS - sum(steps.values()),
            flops=1e12,
            read_bytes=5e11,
            cpu_s=1200.0,
            rss_bytes=3 << 30,
            disk_read_bytes=6000,
            disk_write_bytes=60_000,
        )
        frames.append(
            WorkerSample(
                WINDOW.end_ns - 1,
                f"w-{version}",
                "m",
                use,
                version=version,
                price_per_hour=1.5,
                watts=200.0,
                peak_flops=1e11,
                peak_bytes_per_s=2e10,
                free_blocks=75,
                total_blocks=100,
            )
        )
    return frames


def mixed_frames(seed: int = 1) -> list[Frame]:
    records = mixed_records(seed=seed)
    return [*records, *workers_of(records)]


@pytest.fixture
def ledger(make_ledger: MakeLedger) -> Ledger:
    """A mixed ten minutes."""
    return make_ledger(mixed_frames(), SETTINGS)


def table_of(ledger: Ledger, window: Window = WINDOW, **asked: object) -> Table:
    return build_table(ledger, window, SETTINGS, **{"preset": "all", **asked})  # type: ignore[arg-type]


def test_rates_and_sums_are_the_records(ledger: Ledger) -> None:
    records = mixed_records()
    row = table_of(ledger, by="all").rows[0]
    ok = [record for record in records if record.outcome == "ok"]
    kept = [r for r in ok if r.scenario != Scenario.ONLINE or (r.ttft_ns or 0) <= SECOND_NS]
    assert row["requests"] == len(records)
    assert row["success_rate"] == len(ok) / len(records)
    shares = [row[name] for name in ("success_rate", "timeout_rate", "rejection_rate", "failure_rate", "gone_rate")]
    assert sum(shares) == pytest.approx(1)
    assert row["rejection_rate"] == sum(r.outcome == "no_worker" for r in records) / len(records)
    assert row["timeout_rate"] == sum(r.outcome == "deadline_exceeded" for r in records) / len(records)
    waited_for = sum(record.outcome != "client_gone" for record in records)
    assert 0 < row["kept_rate"] <= len(kept) / waited_for
    assert row["goodput"] == pytest.approx(row["kept_rate"] * waited_for / 600, rel=1e-6)
    assert row["input_tokens_per_s"] == pytest.approx(sum(r.prompt_tokens for r in records) / 600)
    assert row["concurrency"] == pytest.approx(sum(r.e2e_ns for r in records) / 600 / 1e9)
    cached = sum(sum(r.cached_tokens.values()) for r in records)
    assert row["hit_rate"] == pytest.approx(cached / sum(r.prompt_tokens for r in records))
    assert row["hit_rate"] == pytest.approx(row["hit_rate_device"] + row["hit_rate_host"])
    assert row["stage_queue"] + row["stage_decode"] == pytest.approx(1)


@pytest.mark.parametrize("share", PERCENTILES)
def test_percentiles_are_within_the_sketchs_error(ledger: Ledger, share: str) -> None:
    records = mixed_records()
    row = table_of(ledger, by="all").rows[0]
    quantile = PERCENTILES[share]
    told = [record for record in records if not record.is_rejected]
    gaps = [np.frombuffer(record.gaps_us, "<u4") / 1e6 for record in records]
    values = {
        "e2e": [record.e2e_ns / 1e9 for record in told],
        "ttft": [(record.ttft_ns or 0) / 1e9 for record in records],
        "queue": [record.stages_ns[Stage.QUEUE] / 1e9 for record in told],
        "itl": np.concatenate(gaps),
        "jitter": [each.std() for each in gaps if len(each) > 1],
    }
    for name, exact in values.items():
        low = np.quantile(exact, quantile, method="lower") * (1 - ERROR) * 0.999
        high = np.quantile(exact, quantile, method="higher") * (1 + ERROR) * 1.001
        assert low <= row[f"{name}_{share}"] <= high, name


def test_machines_are_told_where_they_belong_to_the_row_as_a_whole(ledger: Ledger) -> None:
    found = table_of(ledger, by="version")
    row = found.rows[0]
    step_s = row["busy"] * 600
    assert row["mfu"] == pytest.approx(1e12 / (1e11 * step_s))
    assert row["mbu"] == pytest.approx(5e11 / (2e10 * step_s))
    assert (row["cpu_cores"], row["kv_used"]) == (pytest.approx(2.0), pytest.approx(0.25))
    assert (row["memory_bytes"], found.total["memory_bytes"]) == (pytest.approx(3 << 30), pytest.approx(6 << 30))
    assert row["disk_read_bytes_per_s"] == pytest.approx(10)
    assert row["joules_per_token"] == pytest.approx(200 * 600 / (row["input_tokens"] + row["output_tokens"]))
    assert found.total["cpu_cores"] == pytest.approx(4.0)


def test_a_peak_that_was_beaten_is_told_of_as_too_low(make_ledger: MakeLedger, ledger: Ledger) -> None:
    assert table_of(ledger).as_json()["low_peaks"] == []
    quick = WorkerUse(WINDOW.start_ns, 10**9, {Work.DECODE: 10**9}, read_bytes=3e10)
    sample = WorkerSample(WINDOW.end_ns - 1, "quick", "m", quick, peak_flops=1e12, peak_bytes_per_s=2e10)
    found = table_of(make_ledger([*mixed_frames(), sample], SETTINGS), by="worker")
    assert found.low_peaks == ["quick"]
    assert {row["worker"]: row["mbu"] for row in found.rows}["quick"] == pytest.approx(1.5)


def test_a_worker_that_only_idles_has_its_row(make_ledger: MakeLedger) -> None:
    frames = mixed_frames()
    idle = WorkerUse(WINDOW.start_ns, 600 * SECOND_NS, idle_ns=600 * SECOND_NS)
    ledger = make_ledger([*frames, WorkerSample(WINDOW.end_ns - 1, "lazy", "m", idle, price_per_hour=6.0)], SETTINGS)
    rows = {row["worker"]: row for row in table_of(ledger, by="worker").rows}
    assert (rows["lazy"]["requests"], rows["lazy"]["busy"]) == (0, 0.0)
    assert "lazy" not in {row["tenant"] for row in table_of(ledger, by="tenant").rows}
    assert table_of(ledger).bill.of("idle") > 10**12


@pytest.mark.parametrize("by", ["scenario", "tenant", "tag:user"])
def test_machines_that_rows_share_are_told_of_none(ledger: Ledger, by: str) -> None:
    found = table_of(ledger, by=by)
    assert {row["mfu"] for row in found.rows} == {None}
    assert found.total["mfu"] is not None
    assert table_of(ledger, by="all", where={"tenant": "acme"}).total["cpu_cores"] is None


@pytest.mark.parametrize("by", ["scenario", "tenant", "model", "version", "worker", "tag:user", "tag:none"])
def test_rows_sum_to_the_total_and_full_costs_to_the_bill(ledger: Ledger, by: str) -> None:
    found = table_of(ledger, by=by)
    for key in ("requests", "input_tokens", "output_tokens", "retries", "preemptions", "migrations"):
        assert sum(row[key] for row in found.rows) == found.total[key]
    assert math.fsum(row["cost"] for row in found.rows) == pytest.approx(found.total["cost"], rel=1e-12)
    assert math.fsum(row["full_cost"] for row in found.rows) == pytest.approx(found.bill.total / 1e12, rel=1e-9)
    assert found.bill.of("unrecorded") == 0
    assert found.bill.total == sum(line.pico for line in found.bill.lines)


def test_a_filter_keeps_only_its_requests_and_leaves_the_bill_alone(ledger: Ledger) -> None:
    tenant = "'; DROP TABLE cells; --"
    found = table_of(ledger, by="scenario", where={"tenant": tenant})
    assert found.total["requests"] == sum(r.tenant == tenant for r in mixed_records())
    assert found.bill == table_of(ledger).bill


def test_the_rows_with_most_requests_are_kept_and_the_rest_counted(ledger: Ledger) -> None:
    found = table_of(ledger, by="tag:user", limit=3)
    assert (len(found.rows), found.num_hidden) == (3, 4)
    counts = [row["requests"] for row in found.rows]
    assert counts == sorted(counts, reverse=True)
    assert found.total["requests"] == 300


def test_rates_are_over_the_time_in_which_there_was_a_system(ledger: Ledger) -> None:
    longer = Window(WINDOW.start_ns - 24 * HOUR_NS, WINDOW.end_ns + 24 * HOUR_NS)
    found = table_of(ledger, longer, by="all")
    assert found.observed.seconds == pytest.approx(600, abs=0.001)
    assert found.total["requests_per_s"] == pytest.approx(table_of(ledger, by="all").total["requests_per_s"])


def test_an_empty_ledger_has_no_rows_and_no_invented_figures(make_ledger: MakeLedger) -> None:
    found = table_of(make_ledger([], SETTINGS))
    assert (found.rows, found.extent, found.bill.total) == ([], None, 0)
    told = {key for key, value in found.total.items() if value}
    assert told == set()
    assert found.total["ttft_p99"] is None is found.total["success_rate"]


def test_the_table_prices_the_day_that_deepseek_disclosed(make_ledger: MakeLedger) -> None:
    found = build_table(make_ledger(disclosed_day(), Settings()), DAY, Settings(), by="all", preset="all").total
    assert (found["full_cost"], found["hit_rate"]) == (pytest.approx(87_072), pytest.approx(342 / 608))
    assert f"{found['full_cost_per_m_tokens']:.3f} {found['full_cost_per_m_output']:.3f}" == "0.112 0.518"


@pytest.mark.parametrize(("second_from_s", "is_shared"), [(30, True), (55, False), (60, False), (90, False)])
def test_a_name_that_two_workers_have_at_a_time_is_told(
    make_ledger: MakeLedger, second_from_s: int, is_shared: bool
) -> None:
    """Not one that was started again, nor one whose clock was set back a little meanwhile."""
    frames: list[Frame] = [
        worker_sample(from_ns + lived_ns, 0, lived_ns, started_ns=from_ns, worker=name)
        for name, from_s in (("w0", 1), ("w1", 1), ("w0", second_from_s))
        for from_ns in [NOON_NS + from_s * SECOND_NS]
        for lived_ns in (5 * SECOND_NS, 59 * SECOND_NS)
    ]
    window = Window(NOON_NS, NOON_NS + 600 * SECOND_NS)
    found = build_table(make_ledger(frames, SETTINGS), window, SETTINGS, by="worker")
    assert found.shared_names == found.as_json()["shared_names"] == ["w0"] * is_shared
    notes = " ".join(table_notes(found))
    assert ("w0: several workers had this name at a time" in notes, "--ledger-path" in notes) == (is_shared, is_shared)


def test_gaps_are_told(make_ledger: MakeLedger) -> None:
    gap = Gap(START_NS, START_NS + SECOND_NS, 7, "disk full")
    assert table_of(make_ledger([gap], SETTINGS)).as_json()["gaps"] == [
        {"from_ns": START_NS, "until_ns": START_NS + SECOND_NS, "frames": 7, "reason": "disk full", "type": "gap"}
    ]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"by": "tennant"}, "rows cannot be by 'tennant'; give one of scenario, tenant"),
        ({"by": "tag:"}, "rows cannot be by 'tag:'"),
        ({"where": {"colour": "red"}}, "`where` knows scenario, .*not 'colour'"),
        ({"preset": "fast"}, "no preset 'fast'; give one of overview, online"),
        ({"columns": ["tfft_p99"]}, "no column 'tfft_p99'; the nearest one is 'ttft_p99'"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(
    ledger: Ledger, asked: dict[str, object], complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        table_of(ledger, **asked)


def test_every_column_can_be_computed_of_nothing_and_says_what_it_is() -> None:
    empty = Facts(Cell(), 0.0, Machines())
    for key, column in COLUMNS.items():
        assert column.key == key
        assert column.help.endswith(".")
        assert not column.of(empty)
        if column.quantile:
            assert column.quantile[0] in SKETCHES
        else:
            assert all(quantity(word) for word in column.words if word)
    assert len({column.heading for column in COLUMNS.values()}) == len(COLUMNS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_made_of_columns(preset: str) -> None:
    keys = list(preset_columns(preset))
    assert [column.key for column in columns_named(keys)] == keys
    assert len(keys) > 5


def test_a_record_belongs_to_the_window_in_which_it_ended(ledger: Ledger) -> None:
    records = mixed_records()
    half = Window(WINDOW.start_ns, WINDOW.start_ns + 300 * SECOND_NS)
    inside = sum(end_of(record) < half.end_ns for record in records)
    assert table_of(ledger, half).total["requests"] == inside
