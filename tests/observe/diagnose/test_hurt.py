"""A finding names the tenants for whom something is clearly worse than before, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.observe.diagnose.test_diagnosis import SETTINGS, clean
from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.contract.record import Stage
from tokenworks.observe.diagnose.diagnosis import Finding, diagnose
from tokenworks.observe.diagnose.hurt import MAX_HURT
from tokenworks.observe.ledger import Window


def finding_of(scene: Scene, rule: str, window: Window = NOW) -> Finding:
    return next(each for each in diagnose(scene.ledger(), window, SETTINGS) if each.rule == rule)


def tenants(finding: Finding) -> Sequence[str]:
    return [each.tenant for each in finding.hurt]


def test_a_slow_workers_tenants_are_named_and_those_of_others_are_not() -> None:
    finding = finding_of(
        clean(rates=(10e9, 1e9)).requests(NOW, 80, {Stage.DECODE: 1500}, worker="w1", tenant="bert"), "slow_worker"
    )
    assert (finding.subject, tenants(finding)) == ("w1", ["bert"])
    [bert] = finding.hurt
    assert bert.name.startswith("tpot_p")
    assert bert.value == pytest.approx(1.5 / 40, rel=0.1)
    assert bert.before == pytest.approx(0.4 / 40, rel=0.1)
    assert bert.text.endswith("before): " + bert.meaning)
    assert bert.requests == 105


def test_a_noisy_neighbour_hurts_the_others_and_not_itself() -> None:
    scene = clean().requests(NOW, 200, {Stage.QUEUE: 900}, tenant="carl")
    scene.requests(NOW, 60, {Stage.QUEUE: 900}, tenant="anna")
    assert tenants(finding_of(scene, "noisy_neighbour")) == ["anna"]


def test_whoever_pays_more_is_hurt_by_a_price() -> None:
    scene = Scene().usual(BEFORE, 80).usual(BEFORE, 80, tenant="bert")
    scene.usual(NOW, 60, price=9.0).usual(NOW, 60, tenant="bert")
    [anna] = finding_of(scene, "cost_by_price").hurt
    assert (anna.tenant, anna.name) == ("anna", "cost_per_mtoken")
    assert anna.value / anna.before == pytest.approx(2.5, rel=0.05)


def test_of_many_those_are_named_who_are_hurt_most() -> None:
    scene = Scene()
    for number in range(8):
        scene.usual(BEFORE, 40, tenant=f"t{number}")
        scene.requests(NOW, 40, {Stage.PREFILL: 300 + 100 * number}, tenant=f"t{number}")
    assert tenants(finding_of(scene, "late_by_prompt")) == [f"t{number}" for number in range(7, 7 - MAX_HURT, -1)]


def test_nobody_is_named_where_nothing_is_known_of_before_or_too_little_happened() -> None:
    new = clean(rates=(10e9, 1e9)).requests(NOW, 80, {Stage.DECODE: 1500}, worker="w1", tenant="dora")
    assert "dora" not in tenants(finding_of(new, "slow_worker"))
    rare = clean().requests(NOW, 9, {Stage.WRITE: 900}, tenant="emil").usual(BEFORE, 9, tenant="emil")
    rare.requests(NOW, 60, {Stage.WRITE: 900})
    assert "emil" not in tenants(finding_of(rare, "slow_client"))
    alone = Scene().requests(NOW, 30, {Stage.WRITE: 900})
    assert finding_of(alone, "slow_client").hurt == []
