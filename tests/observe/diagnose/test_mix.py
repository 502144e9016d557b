"""What would be usual of a mix: each part's own past, and nothing of parts that have none."""

from __future__ import annotations

import math

import pytest

from tests.observe.diagnose.test_diagnosis import two_tenants
from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import Cell
from tokenworks.observe.diagnose.mix import MIN_REQUESTS, dearest_cost_ratio, usual_hit_share
from tokenworks.observe.diagnose.sides import Sides


def cell(prompt: int, cached: int, requests: int = 10) -> Cell:
    return Cell(requests=requests, prompt_tokens=prompt, cached_tokens={Tier.DEVICE: cached})


@pytest.mark.parametrize(
    ("parts", "share"),
    [
        ([(cell(100, 0), cell(900, 450))], 0.5),
        ([(cell(300, 0), cell(10, 10)), (cell(100, 0), cell(10, 0))], 0.75),
        ([(cell(100, 20), cell(0, 0, requests=0)), (cell(100, 0), cell(10, 6))], 0.4),  # a part that is new is usual
        ([(cell(100, 20), cell(10, 10, requests=MIN_REQUESTS - 1))], 0.2),
        ([(cell(0, 0), cell(10, 10))], math.nan),
        ([], math.nan),
    ],
    ids=["one part", "two in their mix of now", "a new one", "one hardly known", "no prompts", "nobody"],
)
def test_each_part_is_taken_as_it_was(parts: list[tuple[Cell, Cell]], share: float) -> None:
    assert usual_hit_share(parts) == pytest.approx(share, nan_ok=True)


def priced(device_s: float, price: float, tokens: int = 100, requests: int = 10) -> Cell:
    device_ns = {Work.DECODE: int(device_s * 1e9)}
    cost = {Work.DECODE: int(device_s * price * 1e6)}
    return Cell(requests=requests, output_tokens=tokens, device_ns=device_ns, cost_device=cost)


@pytest.mark.parametrize(
    ("workers", "ratio"),
    [
        ([priced(10, 1), priced(10, 5)], 5.0),
        ([priced(10, 5), priced(20, 1)], 2.5),
        ([priced(10, 1), priced(1, 5)], 0.5),  # dear, and ten times as fast
        ([priced(10, 1), priced(10, 5, requests=MIN_REQUESTS - 1)], math.nan),
        ([priced(10, 1), priced(10, 0)], math.nan),
        ([priced(10, 1), Cell(requests=10)], math.nan),
        ([], math.nan),
    ],
    ids=["as fast", "slow and cheap", "ten times as fast", "hardly asked", "no price", "no work", "nobody"],
)
def test_whether_a_dear_worker_pays_is_seen_beside_a_cheap_one(workers: list[Cell], ratio: float) -> None:
    assert dearest_cost_ratio(workers) == pytest.approx(ratio, nan_ok=True)


def test_the_parts_of_a_subject_are_its_tenants_in_each_scenario() -> None:
    scene = two_tenants(cached=20).usual(BEFORE, 10, scenario=Scenario.OFFLINE).usual(NOW, 7, scenario=Scenario.OFFLINE)
    sides = Sides(scene.ledger(), NOW)
    whole = [(now.requests, before.requests) for now, before in sides.parts_of(sides.whole)]
    assert sorted(whole) == [(7, 10), (25, 80), (60, 80)]
    tenants = {each.name: each for each in sides.subjects("tenant")}
    assert sorted((now.requests, before.requests) for now, before in sides.parts_of(tenants["anna"])) == [
        (7, 10),
        (60, 80),
    ]
    online = next(each for each in sides.subjects("scenario") if each.name == "online")
    assert sorted(now.requests for now, _ in sides.parts_of(online)) == [25, 60]


def test_what_is_compared_with_may_come_later() -> None:
    scene = Scene().usual(BEFORE, 40).usual(NOW, 40)
    assert Sides(scene.ledger(), NOW).lead_s > 0
    assert Sides(scene.ledger(), BEFORE, NOW).lead_s < 0
