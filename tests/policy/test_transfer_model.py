"""What may come of a fetch: as the last ones went, the newest most likely."""

from __future__ import annotations

import pytest

from tokenworks.contract.kv import Tier
from tokenworks.policy.transfer_model import HALF_LIFE_S, LARGEST_RATIO, LASTS, NUM_KEPT, UNKNOWN, Observation
from tokenworks.policy.transfer_model import TransferModel as Model


def model_of(*ratios: float, tier: Tier = Tier.DISK, model: Model | None = None) -> Model:
    model = model or Model()
    for ratio in ratios:
        model.learn([Observation(tier, 2.0, 2.0 * ratio)], 0.0)
    return model


def chances(model: Model, now_s: float = 0.0) -> dict[float, float]:
    found: dict[float, float] = {}
    for chance, ratios in model.outlooks([Tier.DISK], now_s):
        found[ratios[Tier.DISK]] = found.get(ratios[Tier.DISK], 0.0) + chance
    return found


def test_where_nothing_is_known_predictions_are_thought_to_be_off_by_half() -> None:
    assert chances(Model()) == {UNKNOWN: 1.0}
    assert Model().usual(Tier.DISK, 5.0) == UNKNOWN


def test_each_fetch_counts_twice_as_much_as_the_one_before_it() -> None:
    assert chances(model_of(3.0, 2.0, 1.0)) == {1.0: 0.5, 2.0: 0.25, 3.0: 0.125, UNKNOWN: 0.125}


def test_the_last_eight_are_all_that_is_known() -> None:
    seen = chances(model_of(*(float(n) for n in range(20))))
    assert len(seen) == NUM_KEPT
    assert seen[19.0] == 0.5
    assert sum(seen.values()) == 1.0
    assert seen[12.0] == seen[13.0] == 1 / 128


def test_what_was_learnt_fades_until_the_next_fetch() -> None:
    model = model_of(9.0, 9.0)
    assert chances(model, HALF_LIFE_S) == {9.0: 0.375, UNKNOWN: 0.625}
    assert chances(model, 1e6) == {UNKNOWN: 1.0}
    assert chances(model, -5.0) == chances(model)
    model.learn([Observation(Tier.DISK, 1.0, 1.0)], 1e6)
    assert chances(model, 1e6) == {1.0: 0.5, 9.0: 0.375, UNKNOWN: 0.125}


def test_what_did_not_come_in_time_is_thought_to_take_longer() -> None:
    model = Model()
    model.learn([Observation(Tier.DISK, 1.0, 1.0), Observation(Tier.DISK, 1.0, 10.0, is_late=True)], 0.0)
    assert chances(model) == {10.0 * LASTS: 0.5, UNKNOWN: 0.5}


@pytest.mark.parametrize(("took_s", "ratio"), [(0.0, 1 / LARGEST_RATIO), (1e99, LARGEST_RATIO)])
def test_no_ratio_is_beyond_bounds(took_s: float, ratio: float) -> None:
    model = Model()
    model.learn([Observation(Tier.DISK, 1.0, took_s)], 0.0)
    assert chances(model)[ratio] == 0.5


def test_the_usual_ratio_is_the_middle_one() -> None:
    assert model_of(*[1.0] * 7, 500.0).usual(Tier.DISK, 0.0) == 1.0
    assert model_of(*[1.0] * 7, 500.0, 500.0).usual(Tier.DISK, 0.0) == 500.0


def test_of_two_tiers_what_was_seen_last_goes_together_and_each_keeps_its_chances() -> None:
    model = model_of(3.0, 2.0)
    model.learn([Observation(Tier.REMOTE, 1.0, 7.0)], 60.0)
    found = model.outlooks([Tier.DISK, Tier.REMOTE, Tier.DISK], 60.0)
    pairs = [(each.chance, each.ratios[Tier.DISK], each.ratios[Tier.REMOTE]) for each in found]
    assert pairs == [(0.25, 2.0, 7.0), (0.125, 3.0, 7.0), (0.125, UNKNOWN, 7.0), (0.5, UNKNOWN, UNKNOWN)]


def test_a_fetch_from_nowhere_has_no_outlooks() -> None:
    assert model_of(1.0).outlooks([], 0.0) == []
