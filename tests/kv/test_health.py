"""When a tier is tried again, and how its speed is worked out: by hand."""

from __future__ import annotations

import pytest

from tokenworks.kv.health import Health, SpeedMeter, WriteMeter


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
