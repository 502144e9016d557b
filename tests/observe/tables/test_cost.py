"""What a request costs: by hand, at odd prices, and where nothing is known."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import PICO, Costs, Leg, Record, SequenceReport, Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.tables.cost import costs_of, device_cost, energy_cost, modelled_energy_cost, residence_cost

SECOND_NS = 10**9
ALL_PRICED = CostSettings(energy_per_kwh=0.3, transfer_per_gb=0.02)


def record(*legs: Leg) -> Record:
    return Record("r1", 0, SECOND_NS, "acme", "m", Scenario.ONLINE, "ok", 200, legs=list(legs))


def test_a_requests_cost_is_each_legs_work_at_its_own_workers_price() -> None:
    prompt = SequenceReport(device_ns={Work.PREFILL: 2 * SECOND_NS}, published_bytes=10**9)
    answer = SequenceReport(
        device_ns={Work.PREFILL: SECOND_NS // 10, Work.DECODE: 5 * SECOND_NS, Work.DRAFT: SECOND_NS},
        fetched_bytes={Tier.HOST: 3 * 10**8, Tier.DISK: 7 * 10**8},
    )
    found = costs_of(
        record(
            Leg("fast", report=prompt, price_per_hour=3.6, watts=900.0),
            Leg("slow", report=answer, price_per_hour=0.36, watts=100.0, saved_ns=3 * SECOND_NS),
        ),
        ALL_PRICED,
    )
    milli = PICO // 1000
    assert found.device == {
        Work.PREFILL: 2 * milli + milli // 100,
        Work.DECODE: 5 * milli // 10,
        Work.DRAFT: milli // 10,
    }
    assert found.transfer == 2 * PICO * 2 // 100
    joules = 900 * 2 + Fraction("6.1") * 100
    assert found.energy == pytest.approx(float(joules / 3_600_000 * Fraction("0.3") * PICO), abs=1)
    assert found.saved == 3 * milli // 10
    assert found.total == sum(found.device.values()) + found.transfer + found.energy


def test_a_leg_without_a_report_or_without_a_price_costs_nothing() -> None:
    report = SequenceReport(device_ns={Work.DECODE: SECOND_NS}, fetched_bytes={Tier.HOST: 10**9})
    assert costs_of(record(), ALL_PRICED) == Costs()
    assert costs_of(record(Leg("dead", price_per_hour=1.0, watts=5.0)), ALL_PRICED) == Costs()
    assert costs_of(record(Leg("unpriced", report=report, saved_ns=7)), CostSettings()) == Costs()


def test_a_lost_workers_saving_counts_though_it_never_reported() -> None:
    assert costs_of(record(Leg("dead", price_per_hour=3.6, saved_ns=SECOND_NS)), ALL_PRICED).saved == PICO // 1000


@given(st.integers(0, 10**18), st.floats(0, 1e6), st.floats(0, 1e6))
def test_an_amount_is_the_exact_one_to_half_a_pico(duration_ns: int, price: float, other: float) -> None:
    half = Fraction(1, 2)
    exact = PICO * Fraction(duration_ns, 3600 * SECOND_NS) * Fraction(price)
    assert abs(device_cost(duration_ns, price) - exact) <= half
    energy = PICO * Fraction(duration_ns, SECOND_NS) * Fraction(price) / 3_600_000 * Fraction(other)
    assert abs(modelled_energy_cost(duration_ns, price, other) - energy) <= half
    assert abs(energy_cost(price, other) - PICO * Fraction(price) / 3_600_000 * Fraction(other)) <= half
    kept = PICO * Fraction(price) / (10**9 * 3600) * Fraction(other)
    assert abs(residence_cost(price, other) - kept) <= half


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (device_cost(3600 * SECOND_NS, 2.0), 2 * PICO),
        (modelled_energy_cost(3600 * SECOND_NS, 1000.0, 0.25), PICO // 4),
        (energy_cost(3_600_000.0, 0.25), PICO // 4),
        (residence_cost(3600e9, 0.5), PICO // 2),
    ],
)
def test_an_hour_a_kilowatt_hour_and_a_gigabyte_hour_cost_their_price(amount: int, expected: int) -> None:
    assert amount == expected
