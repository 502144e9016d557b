"""The bill: its lines sum to it, whatever happened; and a day that somebody has disclosed comes out as they said."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import (
    PICO,
    Frame,
    Leg,
    Record,
    SequenceReport,
    StoreSample,
    Work,
    WorkerSample,
    WorkerUse,
)
from tokenworks.contract.request import Scenario
from tokenworks.observe.ledger import Window
from tokenworks.observe.tables.bill import Bill, bill

SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS
DAY = Window(0, 24 * HOUR_NS)
PRICES = st.floats(0, 100, allow_subnormal=False)
TIMES = st.integers(0, 10**13)


def record(
    number: int = 0,
    *,
    tenant: str = "acme",
    outcome: str = "ok",
    at_ns: int = HOUR_NS,
    tokens: tuple[int, int, int] = (0, 0, 0),
    legs: tuple[Leg, ...] = (),
) -> Record:
    """One that ended at `at_ns`; `tokens` are prompt, cached, output."""
    return Record(
        f"r{number}",
        at_ns - SECOND_NS,
        SECOND_NS,
        tenant,
        "m",
        Scenario.ONLINE,
        outcome,
        200,
        prompt_tokens=tokens[0],
        cached_tokens={Tier.DEVICE: tokens[1]},
        output_tokens=tokens[2],
        legs=list(legs),
    )


def leg(worker: str, price: float | None, prefill_ns: int, decode_ns: int, watts: float | None = None) -> Leg:
    report = SequenceReport(device_ns={Work.PREFILL: prefill_ns, Work.DECODE: decode_ns})
    return Leg(worker, report=report, price_per_hour=price, watts=watts)


def sample(
    worker: str,
    price: float | None,
    steps_ns: dict[Work, int],
    between_ns: int = 0,
    idle_ns: int = 0,
    *,
    watts: float | None = None,
    energy_j: float | None = None,
) -> WorkerSample:
    """A worker that started at 0, at its end."""
    wall_ns = sum(steps_ns.values()) + between_ns + idle_ns
    use = WorkerUse(0, wall_ns, steps_ns, between_ns, idle_ns, energy_j=energy_j)
    return WorkerSample(min(wall_ns, DAY.end_ns - 1), worker, "m", use, price_per_hour=price, watts=watts)


def bill_for(*frames: Frame, cost: CostSettings | None = None, window: Window = DAY) -> Bill:
    cost = cost or CostSettings()
    found = bill(MemoryLedger(frames, cost=cost), window, cost)
    assert sum(line.pico for line in found.lines) == found.total
    return found


def test_a_workers_hour_goes_to_tenants_failed_work_what_lay_between_and_idle_time() -> None:
    part_ns = HOUR_NS // 10
    found = bill_for(
        record(1, tenant="acme", legs=(leg("w0", 10.0, part_ns, 2 * part_ns),)),
        record(2, tenant="zeta", legs=(leg("w0", 10.0, 0, part_ns),)),
        record(3, tenant="zeta", outcome="timeout", legs=(leg("w0", 10.0, part_ns, 0),)),
        sample("w0", 10.0, {Work.PREFILL: 2 * part_ns, Work.DECODE: 3 * part_ns}, part_ns, 4 * part_ns),
    )
    lines = {(line.kind, line.name): line.pico / PICO for line in found.lines}
    assert lines == {
        ("tenant", "acme"): 3.0,
        ("tenant", "zeta"): 1.0,
        ("failed", ""): 1.0,
        ("between", ""): 1.0,
        ("idle", ""): 4.0,
    }
    assert found.by_work == {Work.PREFILL: 2 * PICO, Work.DECODE: 3 * PICO}


def test_work_that_no_record_has_is_a_line_until_its_request_ends() -> None:
    at_work = sample("w0", 3.6, {Work.DECODE: 10 * SECOND_NS})
    assert bill_for(at_work).of("unrecorded") == PICO // 100
    ended = record(at_ns=20 * SECOND_NS, legs=(leg("w0", 3.6, 0, 10 * SECOND_NS),))
    assert bill_for(at_work, ended).of("unrecorded") == 0


def test_a_window_after_the_work_owes_what_the_one_before_could_not_book() -> None:
    at_work = sample("w0", 3.6, {Work.DECODE: 10 * SECOND_NS})
    ended = record(at_ns=2 * HOUR_NS, legs=(leg("w0", 3.6, 0, 10 * SECOND_NS),))
    before = bill_for(at_work, ended, window=Window(0, HOUR_NS))
    after = bill_for(at_work, ended, window=Window(HOUR_NS, 3 * HOUR_NS))
    assert (before.total, after.total) == (PICO // 100, 0)
    assert before.of("unrecorded") == -after.of("unrecorded") == after.of("tenant")


def test_fractions_of_a_pico_are_named_as_such() -> None:
    price = 0.1  # 27 and 7/9 pico a microsecond
    found = bill_for(
        *(record(n, legs=(leg("w0", price, 0, 1000),)) for n in range(9)), sample("w0", price, {Work.DECODE: 9000})
    )
    assert (found.total, found.of("tenant"), found.of("rounding"), found.of("unrecorded")) == (250, 9 * 28, -2, 0)


def test_a_worker_without_a_price_is_named_and_costs_nothing() -> None:
    found = bill_for(
        record(legs=(leg("free", None, SECOND_NS, 0),)),
        sample("free", None, {Work.PREFILL: SECOND_NS}),
        sample("paid", 1.0, {}, idle_ns=HOUR_NS),
    )
    assert (found.total, found.unpriced_workers) == (PICO, ("free",))


def test_energy_is_the_cards_watts_where_nothing_measures_it_and_says_so() -> None:
    cost = CostSettings(energy_per_kwh=1.0)
    ended = record(legs=(leg("w0", 0.0, 0, HOUR_NS // 2, watts=1000.0),))
    modelled = bill_for(ended, sample("w0", 0.0, {Work.DECODE: HOUR_NS // 2}, 0, HOUR_NS // 2, watts=1000.0), cost=cost)
    assert modelled.is_energy_modelled
    assert (modelled.total, modelled.of("tenant"), modelled.of("idle")) == (PICO, PICO // 2, PICO // 2)


def test_measured_energy_beyond_the_cards_watts_is_a_line() -> None:
    cost = CostSettings(energy_per_kwh=1.0)
    ended = record(legs=(leg("w0", 0.0, 0, HOUR_NS, watts=1000.0),))
    measured = bill_for(
        ended, sample("w0", 0.0, {Work.DECODE: HOUR_NS}, watts=1000.0, energy_j=1.25 * 3.6e6), cost=cost
    )
    assert not measured.is_energy_modelled
    assert (measured.total, measured.of("tenant"), measured.of("energy")) == (PICO * 5 // 4, PICO, PICO // 4)


def test_kept_kv_and_moved_bytes_cost_where_they_are_priced() -> None:
    cost = CostSettings(host_per_gb_hour=0.5, transfer_per_gb=0.25)
    mover = Leg("w0", report=SequenceReport(published_bytes=10**9, fetched_bytes={Tier.HOST: 10**9}))
    held = {Tier.HOST: 4 * 10**9, Tier.DISK: 10**12}
    found = bill_for(
        record(legs=(mover,)),
        StoreSample(0, "s", used_bytes=held),
        StoreSample(HOUR_NS, "s", used_bytes=held),
        cost=cost,
    )
    assert (found.of("kv"), found.of("tenant"), found.total) == (2 * PICO, PICO // 2, 5 * PICO // 2)


@st.composite
def worlds(draw: st.DrawFn) -> list[Frame]:
    """Workers and requests in any relation to each other: lost reports, killed workers, prices that changed."""
    frames: list[Frame] = []
    for number in range(draw(st.integers(0, 4))):
        price = draw(st.none() | PRICES)
        steps = {work: draw(TIMES) for work in draw(st.sets(st.sampled_from(Work)))}
        energy = draw(st.none() | st.floats(0, 1e9))
        watts = draw(st.none() | st.floats(0, 2000))
        frames.append(sample(f"w{number}", price, steps, draw(TIMES), draw(TIMES), watts=watts, energy_j=energy))
    for number in range(draw(st.integers(0, 6))):
        legs = tuple(
            leg(
                f"w{draw(st.integers(0, 4))}",
                draw(st.none() | PRICES),
                draw(TIMES),
                draw(TIMES),
                draw(st.none() | st.floats(0, 2000)),
            )
            for _ in range(draw(st.integers(0, 2)))
        )
        tenant, outcome = draw(st.sampled_from("abc")), draw(st.sampled_from(["ok", "ok", "worker_lost"]))
        frames.append(record(number, tenant=tenant, outcome=outcome, legs=legs))
    held = draw(st.dictionaries(st.sampled_from(Tier), st.integers(0, 10**13)))
    return [*frames, StoreSample(0, "s", used_bytes=held), StoreSample(HOUR_NS, "s", used_bytes=held)]


@given(worlds(), PRICES, PRICES, PRICES)
def test_the_lines_sum_to_the_bill_exactly(frames: list[Frame], energy: float, host: float, transfer: float) -> None:
    cost = CostSettings(energy_per_kwh=energy, host_per_gb_hour=host, transfer_per_gb=transfer)
    found = bill_for(*frames, cost=cost)  # which holds it
    tenants = {frame.tenant for frame in frames if isinstance(frame, Record)}
    assert {line.name for line in found.lines if line.kind == "tenant"} <= tenants
    assert sum(line["pico"] for line in found.as_json()["lines"]) == found.as_json()["total_pico"]


def disclosed_day() -> list[Frame]:
    """DeepSeek, "DeepSeek-V3/R1 Inference System Overview" (1 March 2025): 226.75 nodes of 8 H800 on average, each GPU
    at 2 dollars an hour; 608 G input tokens, 342 G of them cache hits; 168 G output tokens.

    226 nodes all day and one for 18 hours; a record for each G tokens of input, no two at one nanosecond.
    """
    node_price, frames = 8 * 2.0, list[Frame]()
    for node in range(227):
        life_ns = 24 * HOUR_NS if node < 226 else 18 * HOUR_NS
        frames.append(
            sample(f"node{node}", node_price, {Work.PREFILL: life_ns // 4, Work.DECODE: life_ns // 2}, life_ns // 4)
        )
    giga = 10**9
    for number in range(608):
        tokens = (giga, giga if number < 342 else 0, 168 * giga // 608 + (number < 168 * giga % 608))
        work = leg(f"node{number % 227}", node_price, HOUR_NS, 2 * HOUR_NS)
        frames.append(record(number, at_ns=(number % 24 + 1) * HOUR_NS - 1 - number, tokens=tokens, legs=(work,)))
    return frames


def test_the_day_that_deepseek_disclosed_comes_out_as_they_said() -> None:
    found = bill_for(*disclosed_day())
    assert found.total == 87_072 * PICO == int(Fraction("226.75") * 8 * 24 * 2 * PICO)
    assert (found.prompt_tokens, found.output_tokens) == (608 * 10**9, 168 * 10**9)
    assert found.per_million_tokens == pytest.approx(87_072 / 776_000)
    assert found.per_million_output_tokens == pytest.approx(87_072 / 168_000)
    assert f"{found.per_million_tokens:.3f} {found.per_million_output_tokens:.3f}" == "0.112 0.518"
