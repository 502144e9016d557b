"""When a tier is tried again, and how its speed is worked out: by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tokenworks.contract.kv import Tier
from tokenworks.kv.health import Health, SpeedMeter, SpeedNews, WriteMeter
from tokenworks.kv.protocol import TierSpeed


def test_a_tier_that_stays_away_is_tried_after_1_2_4_up_to_30_seconds() -> None:
    health = Health()
    waits: list[float] = []
    now = 100.0
    for _ in range(7):
        health.failed(now)
        assert not health.is_up
        wait = next(wait for wait in range(100) if health.may_try(now + wait))
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    health.succeeded()
    assert health.is_up
    health.failed(now)
    assert not health.may_try(now + 0.9)
    assert health.may_try(now + 1)


def test_failures_of_one_moment_count_once() -> None:
    health = Health()
    for _ in range(5):
        health.failed(10.0)
    assert health.may_try(11.0)


def test_a_tier_that_was_never_read_has_no_speed() -> None:
    assert SpeedMeter().speed(None, 0, 5.0).bytes_per_s == 0.0


def test_reads_one_after_the_other_give_bytes_over_seconds() -> None:
    meter = SpeedMeter()
    for start in range(5):
        meter.read(1000, start, start + 0.5)
    assert meter.speed(None, 0, 9.0).bytes_per_s == pytest.approx(2000)


def test_reads_that_overlap_share_the_tier() -> None:
    """Two at a time of 1000 bytes in a second each: the tier gives 2000 bytes a second."""
    meter = SpeedMeter()
    for start in range(40):
        meter.read(1000, start, start + 1)
        meter.read(1000, start, start + 1)
    assert meter.speed(None, 0, 99.0).bytes_per_s == pytest.approx(2000, rel=0.15)


def test_the_latency_is_measured_apart_and_not_counted_twice() -> None:
    meter = SpeedMeter()
    meter.answered(0.1)
    meter.read(1000, 0.0, 0.6)
    speed = meter.speed(None, 0, 9.0)
    assert speed.latency_s == pytest.approx(0.1)
    assert speed.bytes_per_s == pytest.approx(2000)


def test_a_tier_that_turns_slow_is_known_to_be_slow_soon() -> None:
    meter = SpeedMeter()
    for start in range(10):
        meter.read(1000, start, start + 0.001)
    for start in range(10, 16):
        meter.read(1000, start, start + 1.0)
    assert meter.speed(None, 0, 20.0).bytes_per_s < 2000


def test_one_slow_read_among_fast_ones_says_nothing() -> None:
    """The store was stopped for a moment."""
    meter = SpeedMeter()
    for start in range(20):
        meter.read(1000, start, start + (0.9 if start % 3 == 2 else 0.001))
        assert meter.speed(None, 0, 99.0).bytes_per_s == pytest.approx(1e6)


def test_a_slow_first_read_is_forgotten_after_two_fast_ones() -> None:
    meter = SpeedMeter()
    speeds: list[float] = []
    for start, seconds in enumerate([0.5, 0.001, 0.001]):
        meter.read(1000, start, start + seconds)
        speeds.append(meter.speed(None, 0, 99.0).bytes_per_s)
    assert speeds == pytest.approx([2e3, 2e3, 1e6])


def test_reads_that_never_cease_are_told_apart_all_the_same() -> None:
    """Always two under way; the tier turns ten times slower at 100."""
    meter, end = SpeedMeter(), 0.0
    for at in range(200):
        start, end = end - 0.5, end + (1 if at < 100 else 10)
        meter.read(1000, start, end)
    assert meter.speed(None, 0, end).bytes_per_s == pytest.approx(100)


def test_a_block_that_was_not_there_is_no_slow_read() -> None:
    meter = SpeedMeter()
    meter.read(1000, 0.0, 0.001)
    meter.read(0, 5.0, 6.0)
    meter.read(0, 7.0, 8.0)
    assert meter.speed(None, 0, 9.0).bytes_per_s == pytest.approx(1e6)


def probes(meter: SpeedMeter, since_s: float, until_s: float, seconds: float) -> list[float]:
    """When the tier is probed, if nobody else reads from it and each probe takes so long."""
    found: list[float] = []
    now_s = since_s
    while now_s < until_s:
        if meter.wants_probe(now_s):
            found.append(now_s)
            meter.read(1000, now_s, now_s + seconds)
        now_s += 0.125
    return found


def test_an_unused_tier_is_probed_ever_more_rarely() -> None:
    times = probes(SpeedMeter(), 0.0, 130.0, 0.125)
    waits = [round(later - earlier) for earlier, later in pairwise(times)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_tier_that_was_slow_for_a_moment_is_probed_soon_and_is_fast_again() -> None:
    meter = SpeedMeter()
    probes(meter, 0.0, 100.0, 0.001)
    for start in (100.0, 101.0, 102.0):
        meter.read(1000, start, start + 1.0)
    assert meter.speed(None, 0, 103.0).bytes_per_s == pytest.approx(1e3)
    assert probes(meter, 103.0, 107.0, 0.001)
    assert meter.speed(None, 0, 107.0).bytes_per_s == pytest.approx(1e6)


def test_an_unsteady_tier_that_nobody_reads_from_is_not_probed_all_the_time() -> None:
    meter = SpeedMeter()
    probes(meter, 0.0, 100.0, 0.001)
    meter.read(1000, 131.0, 132.0)  # as slow as this, where a probe was due
    assert probes(meter, 132.0, 161.0, 0.001) == []


def speeds_of(rate: float) -> dict[Tier, TierSpeed]:
    return {Tier.HOST: TierSpeed(0.0, 1e10), Tier.DISK: TierSpeed(0.001, rate)}


def test_speeds_are_told_every_two_seconds() -> None:
    news = SpeedNews()
    assert [at / 2 for at in range(10) if news.is_due(speeds_of(1e6), at / 2)] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize("rate", [0.0, 1e5, 1e7])
def test_a_speed_that_has_changed_is_told_soon(rate: float) -> None:
    news = SpeedNews()
    assert news.is_due(speeds_of(1e6), 10.0)
    assert not news.is_due(speeds_of(rate), 10.1)
    assert not news.is_due(speeds_of(1.5e6), 10.3)
    assert news.is_due(speeds_of(rate), 10.3)
    assert not news.is_due(speeds_of(rate), 10.6)


def test_a_read_that_is_still_under_way_shows_it_before_it_ends() -> None:
    meter = SpeedMeter()
    meter.read(1000, 0.0, 0.001)
    assert meter.speed(10.0, 1000, 10.0001).bytes_per_s == pytest.approx(1e6)
    assert meter.speed(10.0, 1000, 15.0).bytes_per_s == pytest.approx(200)


def test_a_clock_that_stands_still_divides_by_nothing() -> None:
    meter = SpeedMeter()
    meter.read(1000, 5.0, 5.0)
    assert meter.speed(5.0, 1000, 5.0).bytes_per_s == 0.0


def test_what_a_write_takes_is_learnt_by_the_byte_and_not_known_at_first() -> None:
    meter = WriteMeter()
    assert meter.cpu_s(100) == 0
    meter.wrote(100, 0.001)
    assert meter.cpu_s(200) == pytest.approx(0.002)
    meter.wrote(100, 0.002)
    assert meter.cpu_s(100) == pytest.approx(0.0012)
