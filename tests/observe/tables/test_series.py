"""The table over time: each step is the table of that step, whatever is asked, and a gap is a row."""

from __future__ import annotations

import pytest
from msgspec import structs

from tests.observe.conftest import MakeLedger
from tests.observe.made import MINUTE_NS, NOON_NS, SECOND_NS, record, worker_sample
from tests.observe.memory_ledger import MemoryLedger
from tests.observe.traffic import MARKUP, mixed_traffic
from tokenworks.contract.config import CostSettings, Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Frame, Record, StoreSample
from tokenworks.observe.ledger import Window
from tokenworks.observe.tables.bill import bill
from tokenworks.observe.tables.over_time import SOME, build_over_time
from tokenworks.observe.tables.series import NO_REQUESTS, build_series
from tokenworks.observe.tables.steps import handy_step_ns, parse_step
from tokenworks.observe.tables.table import build_table

SETTINGS = Settings(cost=CostSettings(energy_per_kwh=0.3, host_per_gb_hour=0.1))
END_NS = NOON_NS + 10 * MINUTE_NS
WINDOW = Window(END_NS - 250 * SECOND_NS, END_NS)


def partly_tagged_traffic() -> list[Frame]:
    """Of which every other request has no tag."""
    frames = mixed_traffic(END_NS, 240)
    return [structs.replace(f, tags={}) if isinstance(f, Record) and n % 2 else f for n, f in enumerate(frames)]


WHERES: dict[str, dict[str, str]] = {
    "all": {},
    "tenant": {"tenant": "acme"},
    "worker": {"worker": "w0"},
    "tag": {"tag:feature": MARKUP},
    "no-tag": {"tag:feature": ""},
}


@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES)
@pytest.mark.parametrize("step_s", [20, 60])
def test_each_step_is_the_table_of_that_step(make_ledger: MakeLedger, where: dict[str, str], step_s: int) -> None:
    ledger = make_ledger(partly_tagged_traffic(), SETTINGS)
    found = build_series(ledger, WINDOW, SETTINGS, step_s * SECOND_NS, where=where, preset="all")
    assert [step.window.start_ns for step in found.steps[1:]] == [step.window.end_ns for step in found.steps[:-1]]
    assert (found.steps[0].window.start_ns, found.steps[-1].window.end_ns) == WINDOW
    for step in found.steps[1:]:
        alone = build_table(ledger, step.window, SETTINGS, by="all", where=where, preset="all")
        assert step.figures == alone.total
    assert sum(step.figures["requests"] for step in found.steps) > 20
    assert found.steps[-1].figures["full_cost"] >= found.steps[-1].figures["cost"] > 0


def test_a_stretch_without_requests_is_told(make_ledger: MakeLedger) -> None:
    times = [0, 1, 5, 6]
    ledger = make_ledger([record(n, NOON_NS + minute * MINUTE_NS) for n, minute in enumerate(times)], SETTINGS)
    found = build_over_time(ledger, Window(NOON_NS, NOON_NS + 30 * MINUTE_NS), SETTINGS, "1m")
    assert [step.note for step in found.series["all"].steps] == ["", "", *[NO_REQUESTS] * 3, "", ""]
    assert [row["requests"] for row in found.rows] == [1, 1, 0, 0, 0, 1, 1]
    assert found.rows[2]["ttft_p99"] is None


@pytest.mark.parametrize("by", ["tenant", "tag:feature"])
def test_subjects_come_one_after_the_other_and_sum_to_the_table(make_ledger: MakeLedger, by: str) -> None:
    ledger = make_ledger(partly_tagged_traffic(), SETTINGS)
    found = build_over_time(ledger, WINDOW, SETTINGS, "30s", by=by, limit=2)
    assert list(found.series) == [row[by] for row in found.table.rows]
    assert len(found.series) == 2
    for row in found.table.rows:
        steps = [step for step in found.rows if step[by] == row[by]]
        assert sum(step["requests"] for step in steps) == row["requests"]
        assert sum(step["cost"] for step in steps) == pytest.approx(row["cost"])
    assert found.as_json()["step_s"] == 30


def test_steps_that_are_chosen_fit_a_screen() -> None:
    ledger = MemoryLedger(mixed_traffic(END_NS, 240))
    found = build_over_time(ledger, Window(END_NS - 7 * 24 * 60 * MINUTE_NS, END_NS), SETTINGS, "auto")
    assert found.step_ns == 10 * SECOND_NS
    assert SOME / 2 < len(found.rows) <= SOME
    assert handy_step_ns(WINDOW, 30, 10_000) == MINUTE_NS


@pytest.mark.parametrize(
    ("text", "step_ns"),
    [("10s", 10 * SECOND_NS), ("60s", MINUTE_NS), ("1h30m", 90 * MINUTE_NS), ("1d", 1440 * MINUTE_NS)],
)
def test_steps_are_seconds_up_to_a_minute_and_whole_minutes_above(text: str, step_ns: int) -> None:
    assert parse_step(text, WINDOW) == step_ns


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("90s", "`every` cannot be '90s'; give whole seconds up to a minute, or whole minutes"),
        ("500ms", "`every` cannot be '500ms'"),
        ("0s", "`every` cannot be '0s'"),
        ("often", "`every` cannot be 'often'"),
        ("1s", "more than 2,000 rows; give longer steps or a shorter window"),
    ],
)
def test_other_steps_are_refused_with_what_can_be_asked(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        parse_step(text, Window(0, 3600 * SECOND_NS))


def test_two_tags_cannot_be_asked_for_together() -> None:
    with pytest.raises(InvalidRequest, match="tag:team and tag:user cannot be asked for together"):
        build_over_time(MemoryLedger(), WINDOW, SETTINGS, "1m", by="tag:user", where={"tag:team": "a"})


def test_energy_is_at_the_price_of_its_time(make_ledger: MakeLedger) -> None:
    """A worker of 3.6 kW is idle for four minutes; energy costs 1 a kWh for 61 seconds, and then 5."""
    minute_wh = 3600 / 60
    samples = [
        worker_sample(NOON_NS + m * MINUTE_NS, 0, m * MINUTE_NS, price_per_hour=None, watts=3600.0) for m in range(1, 5)
    ]
    ledger = make_ledger(samples, SETTINGS)
    cheap, dear = CostSettings(energy_per_kwh=1.0), CostSettings(energy_per_kwh=5.0)
    asked = Settings(cost=dear)
    note_prices(ledger, [(NOON_NS - MINUTE_NS, cheap), (NOON_NS + MINUTE_NS + SECOND_NS, dear)])
    whole = build_table(ledger, Window(NOON_NS, NOON_NS + 5 * MINUTE_NS), asked, by="all")
    assert whole.bill.total / 1e12 == pytest.approx(minute_wh / 1000 * (61 / 60 + 179 / 60 * 5))
    assert sum(line.pico for line in whole.bill.lines) == whole.bill.total
    first = build_table(ledger, Window(NOON_NS, NOON_NS + MINUTE_NS + SECOND_NS), asked, by="all").bill
    assert first.total / 1e12 == pytest.approx(minute_wh / 1000 * 61 / 60)
    assert whole.bill.as_json()["currency"] == "USD"


def note_prices(ledger: object, noted: list[tuple[int, CostSettings]]) -> None:
    """As whoever keeps the ledger does at its start."""
    for from_ns, cost in noted:
        if isinstance(ledger, MemoryLedger):
            ledger.noted.append((from_ns, cost))
        else:
            ledger.note_prices(cost, from_ns)  # type: ignore[attr-defined]


def test_before_anything_was_noted_the_prices_of_who_asks_hold(make_ledger: MakeLedger) -> None:
    samples = [worker_sample(NOON_NS + MINUTE_NS, 0, MINUTE_NS, price_per_hour=None, watts=3600.0)]
    ledger = make_ledger(samples, SETTINGS)
    note_prices(ledger, [(NOON_NS + 2 * MINUTE_NS, CostSettings(energy_per_kwh=100.0))])
    window = Window(NOON_NS, NOON_NS + 3 * MINUTE_NS)
    found = build_table(ledger, window, Settings(cost=CostSettings(energy_per_kwh=1.0)), by="all")
    assert found.bill.total / 1e12 == pytest.approx(0.06)


def test_full_cost_is_never_below_own_cost_and_never_made_up(make_ledger: MakeLedger) -> None:
    """Samples tell of a tenth of the work that the records have; then of nothing at all."""
    told = make_ledger([record(), worker_sample(NOON_NS, SECOND_NS // 10, 0, NOON_NS - SECOND_NS)], SETTINGS)
    window = Window(NOON_NS - MINUTE_NS, NOON_NS + MINUTE_NS)
    short = build_table(told, window, SETTINGS, by="tenant", columns=["cost", "full_cost"])
    assert short.rows[0]["full_cost"] == short.rows[0]["cost"] > short.bill.total / 1e12
    assert short.bill.as_json()["excess"] == pytest.approx(0.00075 - 0.0001)
    silent = build_table(
        make_ledger([record()], SETTINGS), window, SETTINGS, by="tenant", columns=["cost", "full_cost"]
    )
    assert silent.rows[0]["full_cost"] is None
    assert silent.rows[0]["cost"] > 0
    assert silent.bill.as_json()["is_full_cost_known"] is False


def test_a_window_without_work_owes_nothing_and_knows_it(make_ledger: MakeLedger) -> None:
    found = build_table(make_ledger([], SETTINGS), WINDOW, SETTINGS, by="all", columns=["full_cost"])
    assert found.total["full_cost"] == 0
    assert found.bill.as_json()["is_full_cost_known"] is True


@pytest.mark.parametrize("by", ["all", "worker"])
def test_steps_shorter_than_samples_distance_have_their_part(make_ledger: MakeLedger, by: str) -> None:
    """Samples five seconds apart, of half a core and a GiB: a step of a second has that, up to the last sample."""
    gib = 1 << 30
    samples = []
    for second in range(5, 35, 5):
        one = worker_sample(NOON_NS + second * SECOND_NS, 0, second * SECOND_NS)
        use = structs.replace(one.use, rss_bytes=gib, cpu_s=second / 2, disk_read_bytes=second * 1000)
        samples.append(structs.replace(one, use=use))
    records = [record(n, NOON_NS + n * SECOND_NS) for n in range(1, 31)]
    ledger = make_ledger([*records, *samples], SETTINGS)
    window = Window(NOON_NS + SECOND_NS, NOON_NS + 31 * SECOND_NS)
    columns = ["memory_bytes", "cpu_cores", "disk_read_bytes_per_s", "busy"]
    found = build_over_time(ledger, window, SETTINGS, "1s", by=by, columns=columns)
    assert len(found.rows) == 30
    for row in found.rows[:-1]:
        assert [row[key] for key in columns[:3]] == pytest.approx([gib, 0.5, 1000], rel=1e-6)
    assert all(found.rows[-1][key] is None for key in columns)


@pytest.mark.parametrize("step_s", [1, 7, 60])
def test_bills_of_steps_add_up_to_the_bill_of_the_window(make_ledger: MakeLedger, step_s: int) -> None:
    """To the last digit of what workers and moved bytes cost; kept KV is rounded once a step."""
    settings = Settings(cost=CostSettings(energy_per_kwh=0.3, host_per_gb_hour=0.1, transfer_per_gb=0.01))
    stores = [
        StoreSample(END_NS - second * SECOND_NS, "kv9", {Tier.HOST: 10**9 + second}, hits={Tier.HOST: 1000 - second})
        for second in range(295, -1, -5)
    ]
    ledger = make_ledger([*partly_tagged_traffic(), *stores], settings)
    steps = [
        Window(at_ns, min(at_ns + step_s * SECOND_NS, END_NS))
        for at_ns in range(WINDOW.start_ns, END_NS, step_s * SECOND_NS)
    ]
    bills = [bill(ledger, step, settings.cost) for step in steps]
    whole = bill(ledger, WINDOW, settings.cost)
    for each in (whole, *bills):
        assert sum(line.pico for line in each.lines) == each.total
    kinds = {line.kind for line in whole.lines} - {"kv", "unrecorded", "rounding"}
    assert {kind: sum(each.of(kind) for each in bills) for kind in kinds} == {kind: whole.of(kind) for kind in kinds}
    assert sum(each.total - each.of("kv") for each in bills) == whole.total - whole.of("kv")
    assert abs(sum(each.of("kv") for each in bills) - whole.of("kv")) <= len(bills)
    hits = [each.hits[Tier.HOST] for step in steps for each in ledger.stores(step) if each.store == "kv9"]
    assert sum(hits) == WINDOW.seconds
